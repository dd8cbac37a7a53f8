"""The weighted sum of values."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop import backend
from hotloop.metrics.aggregation import compensated_sum
from hotloop.metrics.aggregation.aggregator import FLOATS, Aggregator, checked_weights, plain_floats
from hotloop.metrics.metric import State

__all__ = ["Sum", "add_weighted"]


class Sum(Aggregator):
    """The sum of values, in (-inf, inf).

        sum(w x)

    of values x with weights w. It and the sum of the weights are in float64 and compensated, so
    that any split of the values gives the same bits; on a CUDA device they are plain sums, which
    stay there until `compute`.
    """

    def _initial(self) -> State:
        # The sum of weighted values and its rest, and that of the weights.
        return {"sums": torch.zeros((2, 2), dtype=torch.float64)}

    def update(self, value: Tensor | float, weight: Tensor | float = 1) -> None:  # type: ignore[override]
        """Count values.

        Args:
            value: A number, or a tensor of any shape and real dtype.
            weight: How often it counts, at least 0; a number or a tensor that broadcasts to the
                shape of `value`.

        Raises:
            ValueError: If the weight has another shape or, on the CPU, is negative or not
                finite. Nothing is counted then.
        """
        self._state["sums"] = add_weighted(self._state["sums"], value, weight)

    def compute(self) -> float:
        """Return the sum.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        (total, _), (weight, _) = self._state["sums"].tolist()
        if weight == 0:
            raise self._empty()
        return float(total)

    def _combine(self, other: State) -> None:
        self._state["sums"] = compensated_sum.merge(self._state["sums"], other["sums"])


def add_weighted(sums: Tensor, value: Tensor | float, weight: Tensor | float = 1) -> Tensor:
    """Return two sums, each with its rest, after further values: of values and of weights.

    Args:
        sums: The sum of weighted values with its rest and that of weights, float64, shape
            (2, 2). On the CPU it may be changed in place.
        value: As in `Sum.update`.
        weight: As there.

    Raises:
        ValueError: As there.
    """
    values = value if isinstance(value, Tensor) else plain_floats(value)
    if values.dtype not in FLOATS or not values.is_contiguous():
        values = plain_floats(values)
    weights = None
    if isinstance(weight, Tensor):
        weights = checked_weights(weight, values)
    elif not 0 <= weight < torch.inf:
        raise ValueError(f"weight is {weight}, must be finite and at least 0")
    kernels = backend.kernels_for(values)
    if kernels is None or not sums.is_cpu:
        values = plain_floats(values).flatten().to(torch.float64)
        if weights is None:
            weights = torch.full_like(values, float(weight))
        weights = weights.flatten()
        # What has a weight of 0 may be NaN.
        weighted = torch.where(weights == 0, 0.0, values * weights)
        added = torch.stack((compensated_sum.sum_of(weighted), compensated_sum.sum_of(weights)))
        return compensated_sum.merge(sums, added)
    kernels.sum_values(
        sums.data_ptr(),
        values.data_ptr(),
        FLOATS[values.dtype],
        values.numel(),
        1 if weights is not None else weight,
        0 if weights is None else weights.data_ptr(),
    )
    return sums
