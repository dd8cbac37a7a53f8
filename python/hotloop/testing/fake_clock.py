"""A clock that stands still until it is told otherwise."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Takes the place of `time.perf_counter` and its like.

    Args:
        step: Seconds that pass after each call, at least 0.

    Attributes:
        now: Seconds that the next call returns; the first returns 0.

    Raises:
        ValueError: If `step` is negative.
    """

    def __init__(self, step: float = 0.0) -> None:
        if not step >= 0:
            raise ValueError(f"step must be at least 0, got {step!r}")
        self.now = 0.0
        self._step = step

    def __call__(self) -> float:
        """Return the time, and let a step of it pass."""
        now = self.now
        self.now += self._step
        return now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: How much, at least 0.

        Raises:
            ValueError: If it is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be at least 0, got {seconds!r}")
        self.now += seconds
