"""The exceptions that hotloop raises on its own account, and texts that they share."""

import difflib
from collections.abc import Iterable

__all__ = [
    "BackendError",
    "CheckpointError",
    "CorruptCheckpointError",
    "EmptyMetricError",
    "HotloopError",
    "NonFiniteError",
    "OverflowStreakError",
    "UnsupportedModelError",
    "unknown_name",
]


class HotloopError(Exception):
    """Base of every exception that is hotloop's own."""


class BackendError(HotloopError):
    """The backend that was asked for cannot be used, and falling back is not allowed."""


class CheckpointError(HotloopError):
    """A checkpoint cannot be saved or loaded."""


class CorruptCheckpointError(CheckpointError):
    """The files of a checkpoint are not what was saved, or were never a checkpoint's."""


class EmptyMetricError(HotloopError):
    """A metric was computed before it had seen anything."""


class NonFiniteError(HotloopError, ArithmeticError):
    """A loss or a gradient is infinite or not a number."""


class OverflowStreakError(HotloopError, ArithmeticError):
    """Scaled gradients overflowed in too many updates in a row."""


class UnsupportedModelError(HotloopError):
    """A network, or what it is trained with, has no kernels; the message says why."""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return the text of the error for a name that does not exist.

    Args:
        what: What it should be the name of.
        name: The name.
        allowed: The names that exist.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{hint}; it is one of {', '.join(names)}"
