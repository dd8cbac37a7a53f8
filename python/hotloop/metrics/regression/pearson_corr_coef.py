"""The linear correlation of predictions and targets."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.metrics.regression.regression_metric import PRODUCT, ErrorMetric, ErrorSums

__all__ = ["PearsonCorrCoef", "correlation"]


class PearsonCorrCoef(ErrorMetric):
    """Pearson's correlation of predictions and targets, in [-1, 1].

        cov(p, t) / sqrt(var(p) var(t))

    of predictions p and targets t. Covariance and variances are weighted. It is NaN where all
    predictions or all targets are equal, as in scipy.

    Args:
        num_outputs: How many numbers are predicted for each sample.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean, or
            "raw_values" to return a tensor of all.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    higher_is_better = True
    _parts = PRODUCT

    def _values(self, sums: ErrorSums) -> Tensor:
        return correlation(sums.product, sums.preds_squares, sums.target_squares)


def correlation(product: Tensor, squares: Tensor, other_squares: Tensor) -> Tensor:
    """Return `product / sqrt(squares other_squares)`, NaN where one of them is 0."""
    value = product / (squares.sqrt() * other_squares.sqrt())
    is_constant = (squares == 0) | (other_squares == 0)
    return torch.where(is_constant, torch.nan, value.clamp(-1, 1))
