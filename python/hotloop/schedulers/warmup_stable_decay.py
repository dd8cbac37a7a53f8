"""Warm-up, a long plateau, a short decay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.length import LENGTH, Length
from hotloop.schedulers.schedule import Schedule, check_choice

__all__ = ["WarmupStableDecay"]


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """`(s + 1) / warmup`, then 1, and in the last steps down to `end` (WSD).

    With u from 0 to 1 over the decay the factor there is `end + (1 - end) f`, where f is
    `1 - sqrt(u)`, `1 - u` or `(1 + cos(pi u)) / 2` (Hu et al., 2024, arXiv:2404.06395, of the
    shape; Hägele et al., 2024, arXiv:2405.18392, of the square root). transformers'
    `get_wsd_schedule` gives in its warm-up at step s + 1 what this one gives at s.

    Args:
        steps: Of all three parts; by default the rest of the run.
        warmup: Steps that rise.
        decay: Steps that fall.
        shape: "sqrt", "linear" or "cosine".
        end: The last factor, in [0, 1].

    Raises:
        ValueError: If warm-up and decay together are longer than `steps`.
    """

    steps: Length = field(default=None, metadata=LENGTH)
    warmup: Length = field(default=0.03, metadata=LENGTH)
    decay: Length = field(default=0.1, metadata=LENGTH)
    shape: str = "sqrt"
    end: float = 0.0

    def _check(self) -> None:
        check_choice("shape", self.shape, ("sqrt", "linear", "cosine"))
        check_number("end", self.end, 0, 1)

    def _check_resolved(self) -> None:
        steps: Any = self.steps
        warmup: Any = self.warmup
        decay: Any = self.decay
        if warmup + decay > steps:
            raise ValueError(f"warmup ({warmup}) and decay ({decay}) must fit into steps ({steps})")

    @property
    def length(self) -> int | None:
        """The number of steps."""
        return self.steps if isinstance(self.steps, int) else None

    @property
    def warmup_steps(self) -> int:
        """The steps that rise."""
        return self.warmup if isinstance(self.warmup, int) else 0

    def _factor(self, step: int) -> float:
        steps: Any = self.steps
        warmup: Any = self.warmup
        decay: Any = self.decay
        if step < warmup:
            return float((step + 1) / warmup)
        if step < steps - decay:
            return 1.0
        if step >= steps:
            return self.end
        u = (step - (steps - decay)) / decay
        if self.shape == "sqrt":
            left = 1 - math.sqrt(u)
        elif self.shape == "linear":
            left = 1 - u
        else:
            left = (1 + math.cos(math.pi * u)) / 2
        return self.end + (1 - self.end) * left
