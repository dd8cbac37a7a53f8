"""The one-cycle policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import LENGTH, Length
from hotloop.schedulers.schedule import Schedule, check_choice

__all__ = ["OneCycle"]


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to the peak, down to the end: torch's OneCycleLR, where the initial value is max_lr.

    The peak is at step `pct_start * steps - 1`, the end at `steps - 1`; with three phases the
    way down to `start` takes as long as the way up (Smith and Topin, 2018,
    arXiv:1708.07120). The counterpart for momentum, with a field "momentum" whose initial value
    is the largest: `OneCycle(steps, start=1, peak=0.85 / 0.95, end=1)`.

    Args:
        steps: How many; by default the rest of the run.
        pct_start: The fraction of the steps that rise, in [0, 1].
        start: The first factor, at least 0; torch's `1 / div_factor`.
        peak: The factor at the peak, at least 0.
        end: The last factor, at least 0; torch's `1 / (div_factor final_div_factor)`.
        shape: "cosine" or "linear".
        three_phase: Whether to return to `start` before going to `end`.
    """

    steps: Length = field(default=None, metadata=LENGTH)
    pct_start: float = 0.3
    start: float = 1 / 25
    peak: float = 1.0
    end: float = 1 / 250_000
    shape: str = "cosine"
    three_phase: bool = False

    def _check(self) -> None:
        check_number("pct_start", self.pct_start, 0, 0.5 if self.three_phase else 1)
        for name in ("start", "peak", "end"):
            check_number(name, getattr(self, name), 0)
        check_choice("shape", self.shape, ("cosine", "linear"))

    @property
    def length(self) -> int | None:
        """The number of steps."""
        return self.steps if isinstance(self.steps, int) else None

    @property
    def warmup_steps(self) -> int:
        """The steps up to the peak."""
        return int(self.pct_start * self.steps) if isinstance(self.steps, int) else 0

    def _factor(self, step: int) -> float:
        steps: Any = self.steps
        top = self.pct_start * steps - 1
        last = float(steps - 1)
        if step >= last:
            return self.end
        if step <= top:
            return self._between(self.start, self.peak, 0.0, top, step)
        if not self.three_phase:
            return self._between(self.peak, self.end, top, last, step)
        foot = 2 * self.pct_start * steps - 2
        if step <= foot:
            return self._between(self.peak, self.start, top, foot, step)
        return self._between(self.start, self.end, foot, last, step)

    def _between(self, low: float, high: float, begin: float, end: float, step: int) -> float:
        # A phase of no length is at its end.
        progress = (step - begin) / (end - begin) if end > begin else 1.0
        if self.shape == "linear":
            return low + (high - low) * progress
        return high + (low - high) * (1 + math.cos(math.pi * progress)) / 2
