"""The mean of the latest values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.argument import check_count
from hotloop.metrics.aggregation.aggregator import Aggregator, checked_weights
from hotloop.metrics.metric import State

__all__ = ["RunningMean"]


class RunningMean(Aggregator):
    """The mean of the latest values; in the range of the values.

        sum(w x) / sum(w)

    of the last `window` values x with weights w. It is torchmetrics' RunningMean where each update
    brings one value. A tensor brings its elements one after the other. What is merged comes behind
    what was counted, so that the order of merges matters.

    Args:
        window: How many values are kept at most.

    Raises:
        ValueError: If `window` is not a positive int.
    """

    def __init__(self, window: int) -> None:
        check_count("window", window)
        self.window = window
        super().__init__()

    def _initial(self) -> State:
        return {"values": [], "weights": []}

    def update(self, value: Tensor | float, weight: Any = 1) -> None:  # type: ignore[override]
        """Count values.

        Args:
            value: A number, or a tensor of any shape and real dtype.
            weight: How much it counts, at least 0; a number or a tensor that broadcasts to the
                shape of `value`. Values of weight 0 are not kept.

        Raises:
            ValueError: If the weight has another shape or, on the CPU, is negative or not
                finite. Nothing is counted then.
        """
        values = torch.as_tensor(value).detach()
        weights = checked_weights(weight, values).flatten()
        values = values.flatten().to(torch.float64)
        if not values.is_cuda:
            is_kept = weights != 0
            values, weights = values[is_kept], weights[is_kept]
        values, weights = values[-self.window :], weights[-self.window :]
        if values.is_cuda:
            self._append(list(values.clone().unbind()), list(weights.unbind()))
        else:
            self._append(values.tolist(), weights.tolist())

    def compute(self) -> float:
        """Return the mean.

        Raises:
            EmptyMetricError: If nothing was counted, or nothing of positive weight on a CUDA
                device.
        """
        weights = torch.as_tensor([float(weight) for weight in self._state["weights"]])
        values = torch.as_tensor([float(value) for value in self._state["values"]])
        total = float(weights.sum())
        if total == 0:
            raise self._empty()
        return float(torch.where(weights == 0, 0.0, values * weights).sum()) / total

    def _combine(self, other: State) -> None:
        self._append(other["values"], other["weights"])

    def _append(self, values: list[Any], weights: list[Any]) -> None:
        state = self._state
        state["values"] = (state["values"] + values)[-self.window :]
        state["weights"] = (state["weights"] + weights)[-self.window :]
