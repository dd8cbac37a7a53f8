"""Which steps a file still needs."""

from __future__ import annotations

__all__ = ["StepOrder"]


class StepOrder:
    """Lets steps pass that a file does not have yet, in ascending order.

    Args:
        written: The last step in the file; None if it has none.
    """

    def __init__(self, written: int | None) -> None:
        self._written = written
        self._last: int | None = None

    def passes(self, step: int) -> bool:
        """Return whether a step is to be written.

        Args:
            step: The step of the next values; it may be that of the last ones.

        Returns:
            False if the file had it before the run was resumed.

        Raises:
            ValueError: If `step` is not an int, or below that of the last values.
        """
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"step must be an int, got {step!r}")
        if self._last is not None and step < self._last:
            raise ValueError(f"step must not be below the last one, {self._last}, got {step}")
        self._last = step
        return self._written is None or step > self._written
