"""Exponential decay."""

from __future__ import annotations

from dataclasses import dataclass

from hotloop.argument import check_number
from hotloop.schedulers.schedule import Schedule

__all__ = ["Exponential"]


@dataclass(frozen=True)
class Exponential(Schedule):
    """`max(gamma^s, end)`; without an end it is torch's ExponentialLR.

    Args:
        gamma: The factor of each step, at least 0.
        end: The least factor, at least 0.
    """

    gamma: float
    end: float = 0.0

    def _check(self) -> None:
        check_number("gamma", self.gamma, 0)
        check_number("end", self.end, 0)

    def _factor(self, step: int) -> float:
        return max(float(self.gamma**step), self.end)
