"""Means and sums of squared deviations that merge: the arithmetic of `moments.mojo` in torch.

Moments are three numbers in the last dimension of a tensor of float64: the mean, what its
rounding lost, and the sum of weighted squared deviations from it. All functions work on any
device and wait for none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.metrics.aggregation.compensated_sum import two_sum

__all__ = ["distance", "measure", "merge"]


def measure(values: Tensor, weights: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the moments of rows of numbers, and what was subtracted from them.

    Args:
        values: Numbers, shape (D, N), N at least 1. Those of weight 0 are finite.
        weights: Their weights, shape (N,).
        total: The sum of the weights.

    Returns:
        The moments, shape (D, 3); the deviations from a number near the mean, shape (D, N);
        and their weighted sums, shape (D, 1). Moments of a weight of 0 are NaN.
    """
    # Deviations from the first counted number make those of equal numbers exactly 0.
    start = values.index_select(1, (weights > 0).to(torch.uint8).argmax(0, keepdim=True))
    near = start + (weights * (values - start)).sum(1, keepdim=True) / total
    deviations = values - near
    weighted = weights * deviations
    rest = weighted.sum(1, keepdim=True)
    squares = (weighted * deviations).sum(1, keepdim=True) - rest.square() / total
    # A NaN is no less than 0.
    squares = torch.where(squares < 0, 0.0, squares)
    return torch.cat((*two_sum(near, rest / total), squares), 1), deviations, rest


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return how far the means of moments `b` are from those of `a`."""
    return (b[..., 0] - a[..., 0]) + (b[..., 1] - a[..., 1])


def merge(a: Tensor, b: Tensor, a_weight: Tensor, b_weight: Tensor) -> Tensor:
    """Return the moments of two parts, whose weights are not both 0.

    Args:
        a: Moments of one part.
        b: Moments of the other.
        a_weight: The weight of the one.
        b_weight: The weight of the other.
    """
    share = b_weight / (a_weight + b_weight)
    step = distance(a, b)
    mean, mean_low = two_sum(a[..., 0], a[..., 1] + step * share)
    squares = a[..., 2] + b[..., 2] + step.square() * a_weight * share
    both = torch.stack((mean, mean_low, squares), -1)
    both = torch.where((a_weight == 0)[..., None], b, both)
    return torch.where((b_weight == 0)[..., None], a, both)
