"""The fraction of samples whose highest score is that of their class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hotloop.errors import EmptyMetricError

__all__ = ["Accuracy"]


class Accuracy:
    """Counts correct predictions among all, in integers.

    Counts stay on their device until `compute`, so that an update never waits for one.
    """

    def __init__(self) -> None:
        self._correct: Tensor | int = 0
        self._count = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            preds: Scores or logits, shape (N, C); of equal scores the first one counts.
            target: Class indices, shape (N,), any integer dtype.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if preds.ndim != 2 or target.shape != preds.shape[:1]:
            raise ValueError(
                "preds must have shape (N, C) and target shape (N,), got "
                f"{tuple(preds.shape)} and {tuple(target.shape)}"
            )
        self._correct = self._correct + (preds.argmax(dim=1) == target).sum()
        self._count += len(target)

    def compute(self) -> float:
        """Return the accuracy, in [0, 1].

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        if self._count == 0:
            raise EmptyMetricError("Accuracy has counted no sample; call update first")
        return int(self._correct) / self._count

    def reset(self) -> None:
        """Forget everything counted."""
        self._correct = 0
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        """Return "correct" and "count", read from their device."""
        return {"correct": int(self._correct), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._correct, self._count = state["correct"], state["count"]
