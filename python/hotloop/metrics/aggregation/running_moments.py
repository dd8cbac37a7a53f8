"""Mean, variance and range of values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop import backend
from hotloop.metrics.aggregation import moments
from hotloop.metrics.aggregation.aggregator import FLOATS, Aggregator, checked_weights, plain_floats
from hotloop.metrics.metric import State

__all__ = ["RunningMoments"]

# Where each number lies in the state: `ValueMoments` in shared/training/metrics/moments.mojo.
_COUNT, _NONFINITE, _WEIGHT, _MOMENTS, _LEAST, _GREATEST = 0, 1, 2, slice(3, 6), 6, 7
_MEAN, _SQUARES = 3, 5


class RunningMoments(Aggregator):
    """Mean, variance, least, greatest and number of values; in the range of the values.

        mean = sum(w x) / sum(w)
        variance = sum(w (x - mean)^2) / sum(w)

    of values x with weights w. The variance, at least 0, is that of the values themselves, and not
    of a population that they are drawn from. Parts merge by the formulae of Chan, Golub and LeVeque
    (1979, "Updating formulae and a pairwise algorithm for computing sample variances"), which for
    one value at a time are Welford's (1962), so that values far from 0 lose nothing: 1e8, 1e8 + 1
    and 1e8 + 2 have the variance 2/3.

    Infinities and NaN are counted apart, and are in nothing else.
    """

    def _initial(self) -> State:
        state = torch.zeros(8, dtype=torch.float64)
        state[_LEAST], state[_GREATEST] = torch.inf, -torch.inf
        return {"moments": state}

    def update(self, value: Tensor | float, weight: Any = None) -> None:  # type: ignore[override]
        """Count values.

        Args:
            value: A number, or a tensor of any shape and real dtype.
            weight: A factor of at least 0 for each, a number or a tensor that broadcasts to the
                shape of `value`; 1 by default. Values of weight 0 are left out.

        Raises:
            ValueError: If the weight has another shape or, on the CPU, is negative or not
                finite. Nothing is counted then.
        """
        values = plain_floats(value)
        weights = None if weight is None else checked_weights(weight, values)
        kernels = backend.kernels_for(values)
        if kernels is not None and self._state["moments"].is_cpu:
            kernels.measure_values(
                self._state["moments"].data_ptr(),
                values.data_ptr(),
                FLOATS[values.dtype],
                0 if weights is None else weights.data_ptr(),
                values.numel(),
            )
        elif values.numel():
            values = values.flatten().to(torch.float64)
            weights = torch.ones_like(values) if weights is None else weights.flatten()
            self._add(_measure(values, weights))

    def compute(self) -> dict[str, float]:
        """Return "mean", "variance", "min", "max", "count" and "nonfinite" by name.

        "count" is the number of finite values, "nonfinite" that of all others. Of no finite
        value the first four are NaN.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        state = self._state["moments"].tolist()
        if state[_COUNT] + state[_NONFINITE] == 0:
            raise self._empty()
        is_known = state[_COUNT] > 0
        return {
            "mean": state[_MEAN] if is_known else torch.nan,
            "variance": state[_SQUARES] / state[_WEIGHT] if is_known else torch.nan,
            "min": state[_LEAST] if is_known else torch.nan,
            "max": state[_GREATEST] if is_known else torch.nan,
            "count": state[_COUNT],
            "nonfinite": state[_NONFINITE],
        }

    def _combine(self, other: State) -> None:
        self._add(other["moments"])

    def _add(self, other: Tensor) -> None:
        state = self._state["moments"].to(other.device)
        both = moments.merge(state[_MOMENTS], other[_MOMENTS], state[_WEIGHT], other[_WEIGHT])
        least = torch.minimum(state[_LEAST], other[_LEAST])
        greatest = torch.maximum(state[_GREATEST], other[_GREATEST])
        counts = state[: _MOMENTS.start] + other[: _MOMENTS.start]
        self._state["moments"] = torch.cat((counts, both, torch.stack((least, greatest))))


def _measure(values: Tensor, weights: Tensor) -> Tensor:
    """Return the state of a metric that has counted values, at least one."""
    is_counted = weights != 0
    is_known = is_counted & values.isfinite()
    weights = torch.where(is_known, weights, 0.0)
    values = torch.where(is_known, values, 0.0)
    count, total = is_known.sum(), weights.sum()
    found, _, _ = moments.measure(values[None], weights, total)
    least = torch.where(is_known, values, torch.inf).amin()
    greatest = torch.where(is_known, values, -torch.inf).amax()
    counts = torch.stack((count, is_counted.sum() - count)).to(torch.float64)
    found = torch.where(total == 0, 0.0, found[0])
    return torch.cat((counts, total[None], found, torch.stack((least, greatest))))
