"""The mean of sizes of errors."""

from __future__ import annotations

from torch import Tensor

from hotloop.metrics.regression.regression_metric import ErrorMetric, ErrorSums

__all__ = ["MeanAbsoluteError"]


class MeanAbsoluteError(ErrorMetric):
    """The mean of sizes of errors, in [0, inf).

        MAE = sum(w |p - t|) / sum(w)

    of predictions p and targets t with weights w.

    Args:
        num_outputs: How many numbers are predicted for each sample. With one, predictions and
            targets may have any shape (N, ...), and all their elements count.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean, or
            "raw_values" to return a tensor of all.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    higher_is_better = False
    _is_elementwise = True

    def _values(self, sums: ErrorSums) -> Tensor:
        return sums.absolute / sums.weight
