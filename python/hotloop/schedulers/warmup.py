"""Warm-up: the way up to the full value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import LENGTH, Length
from hotloop.schedulers.schedule import Schedule, check_choice

__all__ = ["Warmup"]

_RATE = 5.0


@dataclass(frozen=True)
class Warmup(Schedule):
    """From `start` to 1, which it reaches and keeps.

    With `u = min((s + 1) / steps, 1)` and a = `start` the factor is, by shape:
    "linear" `a + (1 - a) u`; "cosine" `a + (1 - a) (1 - cos(pi u)) / 2`;
    "polynomial" `a + (1 - a) u^power`; "exponential" `a^(1-u)`, or at a = 0
    `(e^(5u) - 1) / (e^5 - 1)`. Goyal et al., 2017, arXiv:1706.02677.

    Args:
        steps: How many; 0 for none.
        start: Where it begins, in [0, 1].
        shape: "linear", "cosine", "polynomial" or "exponential".
        power: The exponent of "polynomial", above 0.
        include_zero: Whether step 0 gets `start` itself, `u = s / steps`, as in torch's
            LinearLR and transformers. By default it is one step further, since an update
            with a rate of 0 changes nothing.
    """

    steps: Length = field(metadata=LENGTH)
    start: float = 0.0
    shape: str = "linear"
    power: float = 2.0
    include_zero: bool = False

    @classmethod
    def for_adam(cls, beta2: float = 0.999) -> Warmup:
        """Return the linear warm-up over `2 / (1 - beta2)` steps.

        Ma and Yarats, 2021, arXiv:1910.04209, the untuned rule for Adam.

        Args:
            beta2: Adam's decay of the squared gradients, in [0, 1).

        Raises:
            ValueError: If `beta2` is not such a number.
        """
        check_number("beta2", beta2, 0, 1)
        if beta2 == 1:
            raise ValueError("beta2 must be below 1, got 1")
        return cls(round(2 / (1 - beta2)))

    def _check(self) -> None:
        check_number("start", self.start, 0, 1)
        check_choice("shape", self.shape, ("linear", "cosine", "polynomial", "exponential"))
        check_number("power", self.power, 0)
        if self.power == 0:
            raise ValueError("power must be above 0, got 0")

    @property
    def length(self) -> int | None:
        """The number of steps."""
        return self.steps if isinstance(self.steps, int) else None

    @property
    def warmup_steps(self) -> int:
        """The number of steps."""
        return self.steps if isinstance(self.steps, int) else 0

    def _factor(self, step: int) -> float:
        steps: Any = self.steps
        done = step + (not self.include_zero)
        if done >= steps:
            return 1.0
        u: float = done / steps
        if self.shape == "exponential" and self.start > 0:
            return float(self.start ** (1 - u))
        if self.shape == "cosine":
            u = (1 - math.cos(math.pi * u)) / 2
        elif self.shape == "polynomial":
            u = u**self.power
        elif self.shape == "exponential":
            u = math.expm1(_RATE * u) / math.expm1(_RATE)
        return float(self.start + (1 - self.start) * u)
