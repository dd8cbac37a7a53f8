"""Cyclical rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import POSITIVE_LENGTH, Length
from hotloop.schedulers.schedule import Schedule, check_choice

__all__ = ["Cyclic"]


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Triangles between two factors: torch's CyclicLR, where the initial value is max_lr.

    In cycle c, counted from 1, the factor is `start + (peak - start) h x`, where x rises from
    0 to 1 in `up` steps and falls back in `down`. The height h is 1 for "triangular",
    `2^(1-c)` for "triangular2" and `gamma^s` for "exp_range" (Smith, 2017, arXiv:1506.01186).

    Args:
        up: Steps that rise, at least 1.
        down: Steps that fall, at least 1; None for as many as rise.
        start: The factor at the foot, at least 0.
        peak: The factor at the top, at least 0.
        shape: "triangular", "triangular2" or "exp_range".
        gamma: The decay of "exp_range", in [0, 1].
    """

    up: Length = field(metadata=POSITIVE_LENGTH)
    down: Length = field(default=None, metadata=POSITIVE_LENGTH)
    start: float = 0.1
    peak: float = 1.0
    shape: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.down is None:
            object.__setattr__(self, "down", self.up)
        super().__post_init__()

    def _check(self) -> None:
        check_number("start", self.start, 0)
        check_number("peak", self.peak, 0)
        check_choice("shape", self.shape, ("triangular", "triangular2", "exp_range"))
        check_number("gamma", self.gamma, 0, 1)

    def _factor(self, step: int) -> float:
        up: Any = self.up
        down: Any = self.down
        cycle, position = divmod(step, up + down)
        height = position / up if position <= up else (up + down - position) / down
        if self.shape == "triangular2":
            height *= 0.5**cycle
        elif self.shape == "exp_range":
            height *= self.gamma**step
        return float(self.start + (self.peak - self.start) * height)
