"""The exceptions that hotloop raises on its own account."""

__all__ = ["BackendError", "HotloopError"]


class HotloopError(Exception):
    """Base of every exception that is hotloop's own."""


class BackendError(HotloopError):
    """The backend that was asked for cannot be used, and falling back is not allowed."""
