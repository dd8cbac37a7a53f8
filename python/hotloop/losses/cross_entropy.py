"""Cross entropy of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

from torch import Tensor
from torch.nn import functional

from hotloop.argument import check_number
from hotloop.losses.argument import at_least_float32, check_indices
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import check_reduction, reduce_losses
from hotloop.losses.row_cross_entropy import row_cross_entropy
from hotloop.losses.row_loss import RowLoss
from hotloop.rows import Rows

__all__ = ["CrossEntropy", "cross_entropy"]


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "sum_and_count",
    inplace: bool = False,
    return_rows: Literal[False] = False,
) -> Tensor | LossSum: ...


@overload
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "sum_and_count",
    inplace: bool = False,
    return_rows: Literal[True],
) -> tuple[Tensor | LossSum, Rows]: ...


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "sum_and_count",
    inplace: bool = False,
    return_rows: bool = False,
) -> Tensor | LossSum | tuple[Tensor | LossSum, Rows]:
    """Compute torch's cross entropy, with the count that its mean divides by.

    That count is the number of targets other than `ignore_index`; with class weights the sum of
    these targets' weights, with and without label smoothing; for class probabilities the number
    of items, whatever the weights. `z_loss` adds z_loss * logsumexp(x)^2 to each item
    (Chowdhery et al., 2022, arXiv:2204.02311).

    The kernels compute the gradient together with the loss and keep it instead of a log-softmax,
    in the logits' dtype. The backward pass hands it on, multiplied by the gradient of what is
    returned where that is not 1. It cannot be differentiated again.

    Args:
        logits: Shape (N, C) or (N, C, d1, ...), computed in float32 at least.
        target: Class indices in [0, C) or `ignore_index`, int64, shape (N,) or (N, d1, ...); or
            class probabilities, floating point, in the shape of the logits.
        weight: A factor of at least 0 for each class, shape (C,), on the logits' device.
        ignore_index: The target of items that do not count.
        label_smoothing: The part of each target that is spread over all classes, in [0, 1]
            (Szegedy et al., 2016, arXiv:1512.00567).
        z_loss: The factor of the squared log-normaliser, at least 0, for class indices.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", or "none"
            for the shape of the target's indices.
        inplace: Whether the gradient may overwrite the logits, which saves its memory. They must
            not be read afterwards; autograd raises if something else needs them.
        return_rows: Whether to return the `Rows` of the same pass, too, for class indices: what
            metrics are counted from, one for each item in the order of `target.flatten()`.

    Returns:
        What `reduction` says, or a pair of it and the rows.

    Raises:
        ValueError: If a shape or dtype does not fit, a number is out of its range, there is no
            such reduction, or logits to be overwritten are a leaf that requires a gradient.
        IndexError: If a target on the CPU is outside [0, C) and not `ignore_index`; on a GPU
            torch's own assertion fails there.
    """
    if label_smoothing != 0:
        check_number("label_smoothing", label_smoothing, 0, 1)
    if z_loss != 0:
        check_number("z_loss", z_loss, 0)
    check_reduction(reduction)
    has_probabilities = target.is_floating_point()
    shape: tuple[int, ...] = logits.shape
    if not has_probabilities:
        shape = shape[:1] if len(shape) == 2 else shape[:1] + shape[2:]
    if target.shape != shape or logits.ndim < 2:
        raise ValueError(
            "logits must have shape (N, C, d1, ...) and target (N, d1, ...), or that of the logits "
            f"for probabilities, got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"weight must have shape {tuple(logits.shape[1:2])}, one for each class, got "
            f"{tuple(weight.shape)}"
        )
    if has_probabilities:
        if z_loss or return_rows:
            raise ValueError("z_loss and return_rows need targets that are class indices")
        losses = _of_probabilities(logits, target, weight, label_smoothing)
        return reduce_losses(losses, losses.numel(), reduction)
    check_indices(target)
    options = RowLoss(
        ignore_index, label_smoothing, z_loss, reduction, inplace, return_rows=return_rows
    )
    loss, rows = row_cross_entropy(logits, target, options, weight, dim=1)
    return (loss, rows) if rows is not None else loss


def _of_probabilities(
    logits: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float
) -> Tensor:
    logits = at_least_float32(logits)
    return functional.cross_entropy(
        logits,
        target.to(logits.dtype),
        None if weight is None else weight.to(logits.dtype),
        label_smoothing=label_smoothing,
        reduction="none",
    )


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """`cross_entropy` with its options set, to be called with logits and targets.

    Args:
        weight: A factor of at least 0 for each class, shape (C,), on the logits' device.
        ignore_index: The target of items that do not count.
        label_smoothing: The part of each target that is spread over all classes, in [0, 1].
        z_loss: The factor of the squared log-normaliser, at least 0.
        reduction: "sum_and_count", "mean", "sum" or "none".
        inplace: Whether the gradient may overwrite the logits.

    Raises:
        ValueError: If a number is out of its range, or there is no such reduction.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    reduction: str = "sum_and_count"
    inplace: bool = False

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.label_smoothing, 0, 1)
        check_number("z_loss", self.z_loss, 0)
        check_reduction(self.reduction)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor | LossSum:
        """Compute the loss as `cross_entropy` does."""
        return cross_entropy(
            logits,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            reduction=self.reduction,
            inplace=self.inplace,
        )
