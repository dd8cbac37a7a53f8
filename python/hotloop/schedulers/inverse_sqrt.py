"""The inverse square root schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hotloop.schedulers.length import POSITIVE_LENGTH, Length
from hotloop.schedulers.schedule import Schedule

__all__ = ["InverseSqrt"]


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """`min((s + 1) / warmup, sqrt(warmup / (s + 1)))` (Vaswani et al., 2017, arXiv:1706.03762).

    transformers' `get_inverse_sqrt_schedule` gives at step s + 1 what this one gives at s:
    it spends its first update at rate 0.

    Args:
        warmup: Steps that rise, at least 1.
    """

    warmup: Length = field(metadata=POSITIVE_LENGTH)

    @property
    def warmup_steps(self) -> int:
        """The steps that rise."""
        return self.warmup if isinstance(self.warmup, int) else 0

    def _factor(self, step: int) -> float:
        warmup: Any = self.warmup
        if step + 1 < warmup:
            return float((step + 1) / warmup)
        return math.sqrt(warmup / (step + 1))
