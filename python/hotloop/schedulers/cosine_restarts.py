"""Cosine annealing with warm restarts (SGDR)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import POSITIVE_LENGTH, Length
from hotloop.schedulers.schedule import Schedule

__all__ = ["CosineRestarts"]


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosines one after the other, each longer than the last: torch's warm restarts.

    Cycle i takes `T_i = period multiplier^i` steps; at its step s the factor is
    `end + (peak^i - end) (1 + cos(pi s / T_i)) / 2` (Loshchilov and Hutter, 2017,
    arXiv:1608.03983).

    Args:
        period: Steps of the first cycle, at least 1.
        multiplier: How many times longer each further cycle is, an int of at least 1.
        end: The factor that a cycle falls to, at least 0.
        peak: How many times higher each further cycle starts, at least 0.
    """

    period: Length = field(metadata=POSITIVE_LENGTH)
    multiplier: int = 1
    end: float = 0.0
    peak: float = 1.0

    def _check(self) -> None:
        if not isinstance(self.multiplier, int) or self.multiplier < 1:
            raise ValueError(f"multiplier must be an int of at least 1, got {self.multiplier!r}")
        check_number("end", self.end, 0)
        check_number("peak", self.peak, 0)

    def _factor(self, step: int) -> float:
        period: Any = self.period
        cycle = 0
        if self.multiplier == 1:
            cycle, step = divmod(step, period)
        else:
            while step >= period:
                step -= period
                period *= self.multiplier
                cycle += 1
        height = self.peak**cycle - self.end
        return float(self.end + height * (1 + math.cos(math.pi * step / period)) / 2)
