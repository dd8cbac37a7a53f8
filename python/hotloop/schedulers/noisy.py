"""Noise on a schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hotloop.argument import check_number
from hotloop.schedulers.schedule import Schedule

__all__ = ["Noisy"]

_MASK = (1 << 64) - 1
_LEAST = 0.1


@dataclass(frozen=True)
class Noisy(Schedule):
    """`f max(1 + std z(seed, s), 0.1)` in the first part of each cycle, f elsewhere.

    f is the schedule's factor and z a standard normal number that depends on nothing but the
    seed and the step, so that a resumed run sees the same noise: SplitMix64 (Steele, Lea and
    Flood, 2014) makes two uniform numbers of them, Box and Muller (1958) a normal one.

    Args:
        schedule: The schedule.
        std: The standard deviation of the noise, relative, at least 0.
        window: The part of a cycle that has noise, in [0, 1].
        cycle: The steps of a cycle, at least 1.
        seed: From 0 to 2^64 - 1.
    """

    schedule: Schedule
    std: float = 0.1
    window: float = 0.1
    cycle: int = 1000
    seed: int = 0

    def _check(self) -> None:
        check_number("std", self.std, 0)
        check_number("window", self.window, 0, 1)
        if not isinstance(self.cycle, int) or self.cycle < 1:
            raise ValueError(f"cycle must be an int of at least 1, got {self.cycle!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed <= _MASK:
            raise ValueError(f"seed must be an int in [0, 2^64), got {self.seed!r}")

    @property
    def warmup_steps(self) -> int:
        """The schedule's."""
        return self.schedule.warmup_steps

    def _factor(self, step: int) -> float:
        factor = self.schedule._factor(step)
        if step % self.cycle >= self.window * self.cycle:
            return factor
        return factor * max(1 + self.std * _normal(self.seed, step), _LEAST)


def _normal(seed: int, step: int) -> float:
    start = _mixed((seed + 0x9E3779B97F4A7C15) & _MASK)
    first, second = (_mixed((start + (2 * step + i) * 0x9E3779B97F4A7C15) & _MASK) for i in (1, 2))
    # 53 bits each; the first is above 0, for its logarithm.
    radius = math.sqrt(-2 * math.log(((first >> 11) + 1) * 2**-53))
    return radius * math.cos(2 * math.pi * (second >> 11) * 2**-53)


def _mixed(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)
