"""Training for PyTorch with Mojo kernels in the hot loops."""

from hotloop.errors import (
    BackendError,
    EmptyMetricError,
    HotloopError,
    NonFiniteError,
    OverflowStreakError,
)

__all__ = [
    "BackendError",
    "EmptyMetricError",
    "HotloopError",
    "NonFiniteError",
    "OverflowStreakError",
    "__version__",
]

__version__ = "0.1.0"
