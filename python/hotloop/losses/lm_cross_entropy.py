"""Cross entropy of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from hotloop.argument import check_number
from hotloop.losses.argument import check_indices
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import REDUCTIONS, check_reduction
from hotloop.losses.row_cross_entropy import row_cross_entropy
from hotloop.losses.row_loss import RowLoss
from hotloop.rows import Rows

__all__ = ["LMCrossEntropy", "lm_cross_entropy"]


@overload
def lm_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    shift: bool = False,
    chunk_rows: int | None = None,
    weight: Tensor | None = None,
    reduction: str = "sum_and_count",
    inplace: bool = False,
    return_rows: Literal[False] = False,
) -> Tensor | LossSum: ...


@overload
def lm_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    shift: bool = False,
    chunk_rows: int | None = None,
    weight: Tensor | None = None,
    reduction: str = "sum_and_count",
    inplace: bool = False,
    return_rows: Literal[True],
) -> tuple[Tensor | LossSum, Rows]: ...


def lm_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    shift: bool = False,
    chunk_rows: int | None = None,
    weight: Tensor | None = None,
    reduction: str = "sum_and_count",
    inplace: bool = False,
    return_rows: bool = False,
) -> Tensor | LossSum | tuple[Tensor | LossSum, Rows]:
    """Compute the cross entropy of tokens, -log softmax(x)[t] for logits x and a target t.

    The count is the number of tokens whose target is not `ignore_index`, or the sum of their
    weights. `z_loss` adds z_loss * logsumexp(x)^2 to each of these tokens, which keeps the
    normaliser near 1 (Chowdhery et al., 2022, arXiv:2204.02311).

    The kernels compute the gradient together with the loss and keep it instead of a log-softmax,
    in the logits' dtype. The backward pass hands it on, multiplied by the gradient of what is
    returned where that is not 1. It cannot be differentiated again.

    With `chunk_rows` only the logits are kept between the passes, with the same result: the
    kernels compute the gradient in the backward pass, and torch's operators that many tokens
    at a time, each chunk of them through `torch.utils.checkpoint`.

    Args:
        logits: Shape (B, T, V) or (N, V), computed in float32 at least.
        target: Token indices in [0, V) or `ignore_index`, int64, shape (B, T) or (N,).
        ignore_index: The target of tokens that do not count. No other is left out: -1 is an error
            unless it is this one.
        label_smoothing: The part of each target that is spread over all tokens, in [0, 1].
        z_loss: The factor of the squared log-normaliser, at least 0; PaLM took 1e-4.
        shift: Whether the logits at a position predict the target at the next one: the last
            logits and the first target (and weight) of each sequence are dropped. Needs (B, T, V).
        chunk_rows: Tokens in a chunk, at least 1; None for all at once.
        weight: A factor of at least 0 for each token, in the target's shape.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", "none" for
            the shape of the target, (B, T - 1) with `shift`, with 0 where it is ignored, or
            "sequence" for the mean of each sequence, shape (B,), which needs (B, T, V).
        inplace: Whether the gradient may overwrite the logits, which saves its memory. They must
            not be read afterwards; autograd raises if something else needs them.
        return_rows: Whether to return the `Rows` of the same pass, too: what metrics are counted
            from, one for each token of all sequences. With `shift` the last of each is ignored.

    Returns:
        What `reduction` says, or a pair of it and the rows.

    Raises:
        ValueError: If a shape or dtype does not fit, a number is out of its range, there is no
            such reduction, or logits to be overwritten are a leaf that requires a gradient.
        IndexError: If a target on the CPU is outside [0, V) and not `ignore_index`; on a GPU
            torch's own assertion fails there.
    """
    _check_options(label_smoothing, z_loss, chunk_rows, reduction)
    if logits.ndim not in (2, 3) or target.shape != logits.shape[:-1]:
        raise ValueError(
            "logits must have shape (B, T, V) or (N, V) and target (B, T) or (N,), got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if logits.ndim == 2 and (shift or reduction == "sequence"):
        raise ValueError(
            f"shift=True and reduction='sequence' need logits of shape (B, T, V), got "
            f"{tuple(logits.shape)}"
        )
    check_indices(target)
    if weight is not None and weight.shape != target.shape:
        raise ValueError(
            f"weight must have the target's shape {tuple(target.shape)}, got {tuple(weight.shape)}"
        )
    if shift:
        # Targets move instead of logits, of which a slice would be a copy once it is flat.
        target = _next(target, ignore_index)
        weight = None if weight is None else _next(weight, 0)
    options = RowLoss(
        ignore_index,
        label_smoothing,
        z_loss,
        "none" if reduction == "sequence" else reduction,
        inplace,
        chunk_rows,
        return_rows,
        is_shifted=shift,
    )
    loss: Any
    loss, rows = row_cross_entropy(logits, target, options, row_weight=weight)
    if reduction == "sequence":
        counts = target != ignore_index
        if weight is not None:
            counts = weight.detach().where(counts, 0)
        loss = LossSum(loss.sum(1), counts.sum(1)).mean
    elif reduction == "none" and shift:
        loss = loss[:, :-1]
    return (loss, rows) if rows is not None else loss


@dataclass(frozen=True, eq=False)
class LMCrossEntropy:
    """`lm_cross_entropy` with its options set, to be called with logits and targets.

    Args:
        ignore_index: The target of tokens that do not count.
        label_smoothing: The part of each target that is spread over all tokens, in [0, 1].
        z_loss: The factor of the squared log-normaliser, at least 0.
        shift: Whether the logits at a position predict the target at the next one.
        chunk_rows: Tokens in a chunk, at least 1; None to keep more than the logits.
        reduction: "sum_and_count", "mean", "sum", "none" or "sequence".
        inplace: Whether the gradient may overwrite the logits.

    Raises:
        ValueError: If a number is out of its range, or there is no such reduction.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    shift: bool = False
    chunk_rows: int | None = None
    reduction: str = "sum_and_count"
    inplace: bool = False

    def __post_init__(self) -> None:
        _check_options(self.label_smoothing, self.z_loss, self.chunk_rows, self.reduction)

    def __call__(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor | LossSum:
        """Compute the loss as `lm_cross_entropy` does."""
        return lm_cross_entropy(
            logits,
            target,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            shift=self.shift,
            chunk_rows=self.chunk_rows,
            weight=weight,
            reduction=self.reduction,
            inplace=self.inplace,
        )


def _check_options(
    label_smoothing: float, z_loss: float, chunk_rows: int | None, reduction: str
) -> None:
    check_number("label_smoothing", label_smoothing, 0, 1)
    check_number("z_loss", z_loss, 0)
    if chunk_rows is not None and (not isinstance(chunk_rows, int) or chunk_rows < 1):
        raise ValueError(f"chunk_rows must be a positive int or None, got {chunk_rows!r}")
    check_reduction(reduction, (*REDUCTIONS, "sequence"))


def _next(tensor: Tensor, fill: int) -> Tensor:
    moved = torch.full_like(tensor, fill)
    moved[:, :-1] = tensor[:, 1:]
    return moved
