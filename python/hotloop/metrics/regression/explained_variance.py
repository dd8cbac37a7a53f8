"""The part of the targets' variance that predictions explain."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.metrics.regression.regression_metric import ERROR, TARGET, ErrorMetric, ErrorSums

__all__ = ["ExplainedVariance", "explained"]


class ExplainedVariance(ErrorMetric):
    """The part of the targets' variance that predictions explain, in (-inf, 1].

        1 - var(t - p) / var(t)

    of predictions p and targets t. Variances are weighted. Unlike `R2Score` it does not mind an
    error that all predictions share. Where all targets are equal it is 1 if the errors are, too,
    and else 0, as in scikit-learn.

    Args:
        num_outputs: How many numbers are predicted for each sample.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean,
            "variance_weighted" for that with the variances of the targets as weights (equal ones
            if all variances are 0), or "raw_values" to return a tensor of all.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    higher_is_better = True
    _parts = TARGET | ERROR
    _averages = ("raw_values", "uniform_average", "variance_weighted")

    def _values(self, sums: ErrorSums) -> Tensor:
        return explained(sums.error_squares, sums.target_squares)

    def _average(self, values: Tensor, sums: ErrorSums) -> float:
        return average(self.multioutput, values, sums)


def explained(left: Tensor, all_squares: Tensor) -> Tensor:
    """Return `1 - left / all_squares`; where that is x / 0, 1 for an x of 0 and else 0."""
    ratio = 1 - left / all_squares
    return torch.where(all_squares == 0, torch.where(left == 0, 1.0, 0.0), ratio)


def average(multioutput: str, values: Tensor, sums: ErrorSums) -> float:
    """Return the mean of the values of all outputs, by their targets' variances if asked for."""
    weights = sums.target_squares
    if multioutput == "uniform_average" or not weights.any():
        return float(values.mean())
    return float((values * weights).sum() / weights.sum())
