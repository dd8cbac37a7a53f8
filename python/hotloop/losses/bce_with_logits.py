"""Cross entropy of yes-or-no questions, from logits."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from hotloop.losses.loss_sum import LossSum
from hotloop.losses.pointwise import Rule, pointwise_loss

__all__ = ["bce_with_logits"]


def bce_with_logits(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "sum_and_count",
) -> Tensor | LossSum:
    """Compute the binary cross entropy of each element.

        -(w t log p + (1 - t) log(1 - p)),  p = sigmoid(logits), t the target, w the positive weight

    The count is the number of elements, or the sum of `weight`. The kernels compute the gradient
    together with the loss; it cannot be differentiated again.

    Args:
        logits: Any shape, computed in float32 at least.
        target: Probabilities, or 0 and 1 of any dtype, in the logits' shape.
        weight: A factor of at least 0 for each element, in a shape that broadcasts to the logits'.
            Torch's own mean divides by the number of elements all the same.
        pos_weight: The weight w of the positive class, one number or one for each column, shape
            (C,) for logits (..., C).
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", or "none"
            for the logits' shape.

    Returns:
        What `reduction` says.

    Raises:
        ValueError: If a shape does not fit, the logits are not floating point, or there is no such
            reduction.
    """
    if pos_weight is not None:
        columns = logits.shape[-1:]
        if pos_weight.shape not in (columns, (), (1,)):
            raise ValueError(
                f"pos_weight must be one number or have shape {tuple(columns)}, got "
                f"{tuple(pos_weight.shape)}"
            )
        pos_weight = pos_weight.to(torch.promote_types(logits.dtype, torch.float32))
        if pos_weight.numel() == 1:
            pos_weight = pos_weight.reshape(()).expand(columns)
    losses = partial(
        functional.binary_cross_entropy_with_logits, pos_weight=pos_weight, reduction="none"
    )
    return pointwise_loss(Rule(2, losses), logits, target, reduction, weight, pos_weight)
