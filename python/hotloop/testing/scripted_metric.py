"""A metric whose values are known in advance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["ScriptedMetric"]


class ScriptedMetric:
    """Returns one value after the other, whatever it sees.

    A trainer measures validations with a copy of its metrics, which has the same values before
    it as the one that measures training.

    Args:
        values: What `compute` returns, call by call.

    Attributes:
        batches: Batches seen since the last reset.
        resets: How often it was reset.
    """

    def __init__(self, values: Iterable[float]) -> None:
        self.batches = 0
        self.resets = 0
        self._values = list(values)
        self._computed = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        self.batches += 1

    def compute(self) -> float:
        """Return the next value.

        Raises:
            IndexError: If there is none left.
        """
        if self._computed == len(self._values):
            raise IndexError(f"the script has {self._computed} values, and one more was asked for")
        self._computed += 1
        return self._values[self._computed - 1]

    def reset(self) -> None:
        """Forget the batches; the script goes on."""
        self.batches = 0
        self.resets += 1

    def state_dict(self) -> dict[str, Any]:
        """Return "batches", "resets" and "computed", how many values were returned."""
        return {"batches": self.batches, "resets": self.resets, "computed": self._computed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.batches, self.resets = state["batches"], state["resets"]
        self._computed = state["computed"]
