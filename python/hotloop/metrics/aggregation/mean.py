"""The weighted mean of values."""

from __future__ import annotations

from hotloop.metrics.aggregation.sum import Sum

__all__ = ["Mean"]


class Mean(Sum):
    """The mean of values, such as losses; in the range of the values.

        sum(w x) / sum(w)

    of values x with weights w. Weigh the mean of a batch by the number of its samples. Both sums
    are those of `Sum`.
    """

    def compute(self) -> float:
        """Return the mean.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        (total, _), (weight, _) = self._state["sums"].tolist()
        if weight == 0:
            raise self._empty()
        return float(total / weight)
