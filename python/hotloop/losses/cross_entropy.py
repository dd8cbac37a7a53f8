"""Cross entropy of classes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from hotloop.argument import check_number
from hotloop.losses.argument import at_least_float32, check_indices
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import check_reduction, reduce_losses

__all__ = ["CrossEntropy", "cross_entropy"]


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "sum_and_count",
) -> Tensor | LossSum:
    """Compute torch's cross entropy, with the count that its mean divides by.

    That count is the number of targets other than `ignore_index`; with class weights the sum of
    these targets' weights, with and without label smoothing; for class probabilities the number
    of items, whatever the weights.

    Args:
        logits: Shape (N, C) or (N, C, d1, ...), computed in float32 at least.
        target: Class indices in [0, C) or `ignore_index`, int64, shape (N,) or (N, d1, ...); or
            class probabilities, floating point, in the shape of the logits.
        weight: A factor of at least 0 for each class, shape (C,), on the logits' device.
        ignore_index: The target of items that do not count.
        label_smoothing: The part of each target that is spread over all classes, in [0, 1]
            (Szegedy et al., 2016, arXiv:1512.00567).
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", or "none"
            for the shape of the target's indices.

    Returns:
        What `reduction` says.

    Raises:
        ValueError: If a shape or dtype does not fit, `label_smoothing` is outside [0, 1], or there
            is no such reduction.
        IndexError: If a target on the CPU is outside [0, C) and not `ignore_index`; on a GPU
            torch's own assertion fails there.
    """
    check_number("label_smoothing", label_smoothing, 0, 1)
    check_reduction(reduction)
    items = logits.shape[:1] + logits.shape[2:]
    has_probabilities = target.is_floating_point()
    if logits.ndim < 2 or target.shape != (logits.shape if has_probabilities else items):
        raise ValueError(
            "logits must have shape (N, C, d1, ...) and target (N, d1, ...), or that of the logits "
            f"for probabilities, got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    logits = at_least_float32(logits)
    if weight is not None:
        if weight.shape != logits.shape[1:2]:
            raise ValueError(
                f"weight must have shape {tuple(logits.shape[1:2])}, one for each class, got "
                f"{tuple(weight.shape)}"
            )
        weight = weight.to(logits.dtype)
    count: Tensor | int
    if has_probabilities:
        target = target.to(logits.dtype)
        count = items.numel()
    else:
        check_indices(target)
        is_valid = target != ignore_index
        if weight is None:
            count = is_valid.sum()
        else:
            classes = target.where(is_valid, 0)
            count = weight[classes].detach().where(is_valid, 0).sum()
    losses = functional.cross_entropy(
        logits,
        target,
        weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return reduce_losses(losses, count, reduction)


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """`cross_entropy` with its options set, to be called with logits and targets.

    Args:
        weight: A factor of at least 0 for each class, shape (C,), on the logits' device.
        ignore_index: The target of items that do not count.
        label_smoothing: The part of each target that is spread over all classes, in [0, 1].
        reduction: "sum_and_count", "mean", "sum" or "none".

    Raises:
        ValueError: If `label_smoothing` is outside [0, 1], or there is no such reduction.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "sum_and_count"

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.label_smoothing, 0, 1)
        check_reduction(self.reduction)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor | LossSum:
        """Compute the loss as `cross_entropy` does."""
        return cross_entropy(
            logits,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )
