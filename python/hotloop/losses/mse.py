"""The mean squared error."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from hotloop.losses.loss_sum import LossSum
from hotloop.losses.pointwise import Rule, pointwise_loss

__all__ = ["mse"]

_RULE = Rule(0, partial(functional.mse_loss, reduction="none"))


def mse(
    preds: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "sum_and_count",
) -> Tensor | LossSum:
    """Compute the squared error of each element.

        (p - t)^2 of a prediction p and its target t

    The count is the number of elements, or the sum of their weights. The kernels compute the
    gradient together with the loss; it cannot be differentiated again.

    Args:
        preds: Any shape, computed in float32 at least.
        target: In the shape of `preds`, of any dtype.
        weight: A factor of at least 0 for each element, in a shape that broadcasts to that of
            `preds`.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", or "none"
            for the shape of `preds`.

    Returns:
        What `reduction` says.

    Raises:
        ValueError: If a shape does not fit, `preds` is not floating point, or there is no such
            reduction.
    """
    return pointwise_loss(_RULE, preds, target, reduction, weight)
