"""A loss as a sum and the count that its mean divides by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LossSum"]


class LossSum(NamedTuple):
    """What a loss returns whose mean does not divide by the number of samples.

    Over micro-batches, the sum of the totals divided by the sum of the counts is the mean over
    all of them together, and so are its gradients. The mean of their means is not, unless all
    counts are equal.

    Attributes:
        total: The sum over the items that count, a scalar tensor with its graph.
        count: How many items count, or the sum of their weights, at least 0: a number, or a
            scalar tensor without graph on the total's device.
    """

    total: Tensor
    count: Tensor | int | float  # type: ignore[assignment]  # hides tuple.count

    @property
    def mean(self) -> Tensor:
        """The total divided by the count; 0 with a zero gradient if the count is 0.

        Nothing is read from the device.
        """
        if not isinstance(self.count, Tensor):
            return self.total / self.count if self.count else self.total * 0
        is_empty = self.count == 0
        divisor = torch.where(is_empty, 1, self.count)
        return (self.total / divisor).masked_fill(is_empty, 0)
