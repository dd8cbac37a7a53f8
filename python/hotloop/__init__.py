"""Training for PyTorch with Mojo kernels in the hot loops."""

from hotloop.errors import BackendError, EmptyMetricError, HotloopError

__all__ = ["BackendError", "EmptyMetricError", "HotloopError", "__version__"]

__version__ = "0.1.0"
