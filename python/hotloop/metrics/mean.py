"""The weighted mean of a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hotloop.errors import EmptyMetricError

__all__ = ["Mean"]


class Mean:
    """Accumulates sum(weight * value) / sum(weight) in float64.

    Values stay on their device until `compute`, so that an update never waits for one.
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._weight = 0

    def update(self, value: Tensor, weight: int = 1) -> None:
        """Count a value.

        Args:
            value: A scalar tensor.
            weight: How often it counts, such as the number of samples that it is the
                mean of.
        """
        self._sum = self._sum + value.detach().to(torch.float64) * weight
        self._weight += weight

    def compute(self) -> float:
        """Return the mean.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        if self._weight == 0:
            raise EmptyMetricError("Mean has counted no value; call update first")
        return float(self._sum) / self._weight

    def reset(self) -> None:
        """Forget everything counted."""
        self._sum = 0.0
        self._weight = 0

    def state_dict(self) -> dict[str, Any]:
        """Return "sum" and "weight", read from their device."""
        return {"sum": float(self._sum), "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._sum, self._weight = state["sum"], state["weight"]
