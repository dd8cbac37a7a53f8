"""Sums that keep what rounding loses, by Knuth's two-sum.

Such a sum is two float64 numbers, the rounded sum and the rest, some 106 bits together. The
order in which numbers are added does not change its value, unless they cancel to below 2^-50
of their size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["merge", "of_numbers", "sum_of", "two_sum"]


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return `a + b` and what its rounding lost, 0 where the sum is not finite."""
    total = a + b
    part = total - a
    rest = (a - (total - part)) + (b - part)
    return total, torch.where(total.isfinite(), rest, 0.0)


def sum_of(values: Tensor) -> Tensor:
    """Return the sum of a vector of float64 and its rest, on the same device."""
    if values.is_cuda:
        # A plain sum, which is pairwise there and waits for nothing.
        return torch.stack((values.sum(), values.new_zeros(())))
    numbers = values.tolist()
    try:
        high = math.fsum(numbers)
        low = math.fsum([*numbers, -high]) if math.isfinite(high) else 0.0
    except (OverflowError, ValueError):
        # Infinities of both signs, or partial sums beyond the largest number.
        high, low = float(values.sum()), 0.0
    return torch.tensor([high, low], dtype=torch.float64)


def of_numbers(*numbers: Tensor | float) -> Tensor:
    """Return a row of a sum and its rest for each number, a scalar tensor or a plain number."""
    device = next((x.device for x in numbers if isinstance(x, Tensor) and x.is_cuda), None)
    sums = torch.stack(
        [torch.as_tensor(number).detach().to(device, torch.float64) for number in numbers]
    )
    return torch.stack((sums, torch.zeros_like(sums)), 1)


def merge(a: Tensor, b: Tensor) -> Tensor:
    """Return the sums of rows of a sum and its rest; on a CUDA device plain sums."""
    if a.is_cuda or b.is_cuda:
        return a.to(b.device) + b
    rows = [_added(*row, *other) for row, other in zip(a.tolist(), b.tolist())]
    return torch.tensor(rows, dtype=torch.float64)


def _added(high: float, low: float, value: float, value_low: float) -> tuple[float, float]:
    total = high + value
    part = total - high
    rest = (high - (total - part)) + (value - part) + (low + value_low)
    if not math.isfinite(total):
        return total, 0.0
    high = total + rest
    return high, rest - (high - total)
