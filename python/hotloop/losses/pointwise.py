"""Losses of single elements: what those of predictions and targets of one shape share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotloop import backend
from hotloop.losses.argument import at_least_float32
from hotloop.losses.gradient import attach, kernels_for, needs_gradient
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import KERNEL_REDUCTIONS, check_reduction, reduce_losses

__all__ = ["Rule", "pointwise_loss"]

_DTYPES = (torch.float32, torch.float64)


class Rule(NamedTuple):
    """The loss of an element.

    Attributes:
        number: The kernel's number of it, `Rule` in shared/bindings/losses.mojo.
        losses: What computes the same with torch's operators, from predictions and targets.
        first: The kernel's first constant.
        second: The kernel's second constant.
    """

    number: int
    losses: Callable[[Tensor, Tensor], Tensor]
    first: float = 0.0
    second: float = 0.0


def pointwise_loss(
    rule: Rule,
    preds: Tensor,
    target: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor | LossSum:
    """Compute the losses of elements and keep their gradient.

    Args:
        rule: The loss of an element.
        preds: Any shape, floating point, computed in float32 at least.
        target: In the shape of `preds`.
        reduction: One of `REDUCTIONS`.
        weight: A factor for each element, in a shape that broadcasts to that of `preds`.
        pos_weight: What the rule's kernel takes for each column, in the shape of the last
            dimension.

    Returns:
        What `reduction` says. The count is the number of elements, or the sum of the weights.

    Raises:
        ValueError: If a shape or dtype does not fit, or there is no such reduction.
    """
    check_reduction(reduction)
    if target.shape != preds.shape:
        raise ValueError(
            f"target must have the shape {tuple(preds.shape)}, got {tuple(target.shape)}"
        )
    preds = at_least_float32(preds)
    target = target.to(preds.dtype)
    if weight is not None:
        weight = _expanded(weight, preds)
    kernels = None
    is_learned = any(needs_gradient(tensor) for tensor in (target, weight, pos_weight))
    if preds.dtype in _DTYPES and not is_learned:
        kernels = kernels_for(preds, target, weight, pos_weight)
    if kernels is None:
        losses = rule.losses(preds, target)
        if weight is None:
            return reduce_losses(losses, losses.numel(), reduction)
        return reduce_losses(losses * weight, weight.detach().sum(), reduction)
    # Of a copy autograd knows the way back.
    preds, target = preds.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    has_gradient = needs_gradient(preds)
    gradient = torch.empty_like(preds) if has_gradient else None
    loss = torch.empty_like(preds) if reduction == "none" else preds.new_empty(())
    count: Tensor | int = preds.numel() if weight is None else preds.new_empty(())
    _run(kernels, rule, preds, target, weight, pos_weight, reduction, gradient, loss, count)
    if gradient is not None:
        loss = attach(loss, (preds, gradient))
    return LossSum(loss, count) if reduction == "sum_and_count" else loss


def _run(
    kernels: Any,
    rule: Rule,
    preds: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
    gradient: Tensor | None,
    loss: Tensor,
    count: Tensor | int,
) -> None:
    address = loss.data_ptr()
    size = preds.numel()
    if pos_weight is not None:
        pos_weight = pos_weight.to(preds.dtype).contiguous()
    runtime = backend.current().runtime
    kernels.pointwise_loss(
        rule.number,
        backend.DTYPES[preds.dtype],
        preds.data_ptr(),
        target.data_ptr(),
        size,
        0 if weight is None else weight.data_ptr(),
        0 if pos_weight is None else pos_weight.data_ptr(),
        size if pos_weight is None else max(1, pos_weight.numel()),
        rule.first,
        rule.second,
        1.0,
        0 if gradient is None else gradient.data_ptr(),
        address if reduction == "none" else 0,
        KERNEL_REDUCTIONS[reduction],
        0 if reduction == "none" else address,
        count.data_ptr() if isinstance(count, Tensor) else 0,
        runtime.parallel_for if runtime else 0,
    )


def _expanded(weight: Tensor, preds: Tensor) -> Tensor:
    try:
        return weight.to(preds.dtype).expand_as(preds)
    except RuntimeError:
        raise ValueError(
            f"weight must broadcast to the shape {tuple(preds.shape)}, got {tuple(weight.shape)}"
        ) from None
