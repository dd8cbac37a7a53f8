"""The least and the greatest of values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.metrics.aggregation.aggregator import Aggregator, checked_weights
from hotloop.metrics.metric import State

__all__ = ["Max", "Min"]


class _Extremum(Aggregator):
    #: 1 to keep the least of values, and -1 to keep the least of what is negated.
    _sign: int

    def _initial(self) -> State:
        return {"value": self._sign * torch.inf, "count": 0}

    def update(self, value: Tensor | float, weight: Any = None) -> None:  # type: ignore[override]
        """Count values.

        Args:
            value: A number, or a tensor of any shape and real dtype.
            weight: A number or a tensor that broadcasts to the shape of `value`; values of
                weight 0 do not count.

        Raises:
            ValueError: If the weight has another shape or, on the CPU, is negative or not
                finite. Nothing is counted then.
        """
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=torch.float64)
        value = value.detach()
        count: Tensor | int = value.numel()
        if count == 0:
            return
        if weight is not None:
            is_counted = checked_weights(weight, value) != 0
            value = torch.where(is_counted, value.to(torch.float64), self._sign * torch.inf)
            count = is_counted.sum()
        extremum = value.amin() if self._sign > 0 else value.amax()
        if value.is_cuda:
            self._keep(extremum.to(torch.float64), count)
        else:
            self._keep(extremum.item(), int(count))

    def compute(self) -> float:
        """Return the value.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        if int(self._state["count"]) == 0:
            raise self._empty()
        return float(self._state["value"])

    def _combine(self, other: State) -> None:
        self._keep(other["value"], other["count"])

    def _keep(self, value: Tensor | float, count: Tensor | int) -> None:
        state = self._state
        state["count"] = state["count"] + count
        known = state["value"]
        if isinstance(known, Tensor) or isinstance(value, Tensor):
            known, value = torch.as_tensor(known), torch.as_tensor(value)
            choose = torch.minimum if self._sign > 0 else torch.maximum
            state["value"] = choose(known.to(value.device), value)
        # NaN, which compares to nothing, stays.
        elif known == known and not self._sign * known <= self._sign * value:
            state["value"] = value


class Min(_Extremum):
    """The least value; in the range of the values.

        min(x)

    of values x with a weight above 0.
    """

    _sign = 1


class Max(_Extremum):
    """The greatest value; in the range of the values.

        max(x)

    of values x with a weight above 0.
    """

    _sign = -1
