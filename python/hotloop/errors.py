"""The exceptions that hotloop raises on its own account."""

__all__ = ["BackendError", "EmptyMetricError", "HotloopError"]


class HotloopError(Exception):
    """Base of every exception that is hotloop's own."""


class BackendError(HotloopError):
    """The backend that was asked for cannot be used, and falling back is not allowed."""


class EmptyMetricError(HotloopError):
    """A metric was computed before it had seen anything."""
