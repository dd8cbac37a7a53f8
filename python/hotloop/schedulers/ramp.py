"""Schedules that go from one factor to another over a number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import LENGTH, Length
from hotloop.schedulers.schedule import Schedule

__all__ = ["Cosine", "Linear", "Polynomial"]


@dataclass(frozen=True)
class _Ramp(Schedule):
    steps: Length = field(default=None, metadata=LENGTH)

    @property
    def length(self) -> int | None:
        """The number of steps."""
        return self.steps if isinstance(self.steps, int) else None

    def _factor(self, step: int) -> float:
        steps: Any = self.steps
        return self._at(step / steps if step < steps else 1.0)

    def _at(self, progress: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(_Ramp):
    """`start + (end - start) s / steps`, then `end`: torch's LinearLR.

    Args:
        steps: How many; by default the rest of the run.
        start: The first factor, at least 0.
        end: The last factor, at least 0.
    """

    start: float = 1.0
    end: float = 0.0

    def _check(self) -> None:
        check_number("start", self.start, 0)
        check_number("end", self.end, 0)

    def _at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Cosine(_Ramp):
    """`end + (1 - end) (1 + cos(pi s / steps)) / 2`, then `end`.

    torch's CosineAnnealingLR until `steps`; after it torch climbs again, this one stays
    (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts).

    Args:
        steps: How many; by default the rest of the run.
        end: The last factor, at least 0.
    """

    end: float = 0.0

    def _check(self) -> None:
        check_number("end", self.end, 0)

    def _at(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Polynomial(_Ramp):
    """`end + (1 - end) (1 - s / steps)^power`, then `end`: torch's PolynomialLR.

    Args:
        steps: How many; by default the rest of the run.
        power: The exponent, at least 0.
        end: The last factor, at least 0.
    """

    power: float = 1.0
    end: float = 0.0

    def _check(self) -> None:
        check_number("power", self.power, 0)
        check_number("end", self.end, 0)

    def _at(self, progress: float) -> float:
        # Not the formula: 0^0 is 1.
        if progress == 1:
            return self.end
        return float(self.end + (1 - self.end) * (1 - progress) ** self.power)
