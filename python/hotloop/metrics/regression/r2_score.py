"""The coefficient of determination."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.metrics.regression.explained_variance import average, explained
from hotloop.metrics.regression.regression_metric import TARGET, ErrorMetric, ErrorSums

__all__ = ["R2Score"]


class R2Score(ErrorMetric):
    """The coefficient of determination, in (-inf, 1].

        1 - sum(w (t - p)^2) / sum(w (t - m)^2)

    of predictions p and targets t with weights w, and m the weighted mean of the targets. Where all
    targets are equal it is 1 if the predictions are exact and else 0, and of one sample it is NaN,
    as in scikit-learn.

    Args:
        num_outputs: How many numbers are predicted for each sample.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean,
            "variance_weighted" for that with the variances of the targets as weights (equal ones
            if all variances are 0), or "raw_values" to return a tensor of all.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    higher_is_better = True
    _parts = TARGET
    _averages = ("raw_values", "uniform_average", "variance_weighted")

    def _values(self, sums: ErrorSums) -> Tensor:
        values = explained(sums.squared, sums.target_squares)
        return torch.where(sums.count < 2, torch.nan, values)

    def _average(self, values: Tensor, sums: ErrorSums) -> float:
        return average(self.multioutput, values, sums)
