"""What a loop asks of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Metric"]


class Metric(Protocol):
    """Counts over batches; any split of the data into batches gives the same value."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count one batch."""

    def compute(self) -> float:
        """Return the value over everything counted since the last `reset`."""

    def reset(self) -> None:
        """Forget everything counted."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted: plain numbers, texts and tensors, in dicts and lists."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
