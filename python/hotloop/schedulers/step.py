"""Decay by a factor at regular steps, or at given ones."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import LENGTH, POSITIVE_LENGTH, Length
from hotloop.schedulers.schedule import Schedule

__all__ = ["MultiStep", "Step"]


@dataclass(frozen=True)
class Step(Schedule):
    """Decay every so many steps: `gamma^floor(s / every)`, torch's StepLR.

    Args:
        every: Steps between two decays, at least 1.
        gamma: The factor of each decay, at least 0.
    """

    every: Length = field(metadata=POSITIVE_LENGTH)
    gamma: float = 0.1

    def _check(self) -> None:
        check_number("gamma", self.gamma, 0)

    def _factor(self, step: int) -> float:
        every: Any = self.every
        return float(self.gamma ** (step // every))


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Decay at given steps: gamma to the number of milestones `<= s`, torch's MultiStepLR.

    Args:
        milestones: The steps, none after a later one; twice the same decays twice.
        gamma: The factor of each decay, at least 0.
    """

    milestones: tuple[Length, ...] = field(metadata=LENGTH)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, (list, tuple)):
            raise ValueError(f"milestones must be a sequence of lengths, got {self.milestones!r}")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        super().__post_init__()

    def _check(self) -> None:
        check_number("gamma", self.gamma, 0)

    def _check_resolved(self) -> None:
        if list(self.milestones) != sorted(self._steps):
            raise ValueError(f"milestones must not decrease, got {self.milestones!r}")

    @property
    def length(self) -> int | None:
        """The last milestone."""
        return max(self._steps, default=0) if self.is_resolved else None

    @property
    def _steps(self) -> tuple[Any, ...]:
        return self.milestones

    def _factor(self, step: int) -> float:
        return float(self.gamma ** bisect_right(self._steps, step))
