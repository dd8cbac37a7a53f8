"""What becomes of the losses of the single items."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from hotloop.errors import unknown_name
from hotloop.losses.loss_sum import LossSum

__all__ = ["KERNEL_REDUCTIONS", "REDUCTIONS", "check_reduction", "reduce_losses"]

#: The reductions that every loss knows.
REDUCTIONS = ("mean", "none", "sum", "sum_and_count")

#: The kernels' numbers of them, `Reduction` in shared/bindings/losses.mojo.
KERNEL_REDUCTIONS = {"none": 0, "sum": 1, "sum_and_count": 1, "mean": 2}


def check_reduction(reduction: str, allowed: Iterable[str] = REDUCTIONS) -> None:
    """Raise ValueError if there is no such reduction."""
    if reduction not in allowed:
        raise ValueError(unknown_name("reduction", str(reduction), allowed))


def reduce_losses(losses: Tensor, count: Tensor | int, reduction: str) -> Tensor | LossSum:
    """Reduce the losses of the single items.

    Args:
        losses: Of any shape, 0 where an item does not count.
        count: How many items count, or the sum of their weights.
        reduction: One of `REDUCTIONS`.

    Returns:
        The losses of "none", their sum, their sum divided by the count, which is 0 if that
        is 0, or a `LossSum` of both.
    """
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    summed = LossSum(total, count)
    return summed.mean if reduction == "mean" else summed
