"""Focal loss, which weighs down what is classified well."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from hotloop.argument import check_number
from hotloop.losses.argument import check_indices
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.pointwise import Rule, pointwise_loss
from hotloop.losses.reduction import check_reduction
from hotloop.losses.reference import power
from hotloop.losses.row_cross_entropy import row_cross_entropy
from hotloop.losses.row_loss import RowLoss

__all__ = ["focal", "sigmoid_focal"]


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "sum_and_count",
) -> Tensor | LossSum:
    """Compute the focal loss of classes (Lin et al., 2017, arXiv:1708.02002).

        FL = -alpha_t (1 - p_t)^gamma log p_t,  p = softmax(logits), t the target

    With `gamma=0` and no `alpha` this is cross entropy. The count is the number of targets
    other than `ignore_index`, whatever `alpha` is. The kernels compute the gradient together with
    the loss; it cannot be differentiated again.

    Args:
        logits: Shape (N, C), computed in float32 at least.
        target: Class indices in [0, C) or `ignore_index`, int64, shape (N,).
        gamma: How far well classified samples are weighed down, at least 0.
        alpha: A factor for each class, shape (C,), on the logits' device; None for 1.
        ignore_index: The target of samples that do not count.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", or "none"
            for shape (N,).

    Returns:
        What `reduction` says.

    Raises:
        ValueError: If a shape or dtype does not fit, `gamma` is negative, or there is no such
            reduction.
        IndexError: If a target on the CPU is outside [0, C) and not `ignore_index`; on a GPU
            torch's own assertion fails there.
    """
    check_number("gamma", gamma, 0)
    check_reduction(reduction)
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "logits must have shape (N, C) and target (N,), got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}"
        )
    check_indices(target)
    if alpha is not None and alpha.shape != logits.shape[1:]:
        raise ValueError(
            f"alpha must have shape {tuple(logits.shape[1:])}, one for each class, got "
            f"{tuple(alpha.shape)}"
        )
    options = RowLoss(ignore_index, 0.0, 0.0, reduction, gamma=gamma)
    return row_cross_entropy(logits, target, options, alpha)[0]


def sigmoid_focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    reduction: str = "sum_and_count",
) -> Tensor | LossSum:
    """Compute the focal loss of yes-or-no questions (Lin et al., 2017, arXiv:1708.02002).

        FL = -alpha_t (1 - p_t)^gamma log p_t

    where p_t is p = sigmoid(logits) and alpha_t is alpha for the target 1, and both are 1 minus
    that for 0. For a target between, p_t, log p_t and alpha_t lie on the straight line between
    both. The count is the number of elements; the paper divides by the number of objects, which
    is `reduction="sum"` and a division. The kernels compute the gradient together with the loss;
    it cannot be differentiated again.

    Args:
        logits: Any shape, computed in float32 at least.
        target: 0 or 1, in the logits' shape, of any dtype.
        gamma: How far well classified elements are weighed down, at least 0.
        alpha: The factor of the target 1, in [0, 1]; None for 1 for both.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if there is no element), "sum", or
            "none" for the logits' shape.

    Returns:
        What `reduction` says.

    Raises:
        ValueError: If the shapes differ, the logits are not floating point, `gamma` or `alpha` is
            out of its range, or there is no such reduction.
    """
    check_number("gamma", gamma, 0)
    if alpha is not None:
        check_number("alpha", alpha, 0, 1)
    losses = partial(_sigmoid_losses, gamma=gamma, alpha=alpha)
    rule = Rule(3, losses, gamma, -1.0 if alpha is None else alpha)
    return pointwise_loss(rule, logits, target, reduction)


def _sigmoid_losses(logits: Tensor, target: Tensor, gamma: float, alpha: float | None) -> Tensor:
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = logits.sigmoid() * (1 - target) + (-logits).sigmoid() * target
    losses = losses * power(missed, gamma)
    if alpha is not None:
        losses = losses * (alpha * target + (1 - alpha) * (1 - target))
    return losses
