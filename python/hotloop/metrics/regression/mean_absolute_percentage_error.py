"""The mean of errors relative to their targets."""

from __future__ import annotations

from torch import Tensor

from hotloop.metrics.regression.regression_metric import RELATIVE, ErrorMetric, ErrorSums

__all__ = ["MeanAbsolutePercentageError"]


class MeanAbsolutePercentageError(ErrorMetric):
    """The mean of errors relative to their targets, in [0, inf).

        MAPE = sum(w |p - t| / max(|t|, 2^-52)) / sum(w)

    of predictions p and targets t with weights w. It is a ratio: 1 is 100 %. An error where the
    target is 0 makes the value very large, as in scikit-learn.

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
    _parts = RELATIVE

    def _values(self, sums: ErrorSums) -> Tensor:
        return sums.relative / sums.weight
