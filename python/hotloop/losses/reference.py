"""Losses of rows by torch's operators: the kernels' fallback, and what they are held against."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hotloop.losses.argument import at_least_float32
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import reduce_losses
from hotloop.losses.row_loss import RowLoss
from hotloop.rows import Rows, scan_rows

__all__ = ["power", "reduce_rows", "reference_cross_entropy"]


def reference_cross_entropy(
    logits: Tensor,
    target: Tensor,
    options: RowLoss,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    dim: int,
) -> tuple[Tensor | LossSum, Rows | None]:
    """Compute what `row_cross_entropy` does, with torch's operators."""
    losses_of = partial(_losses, options, class_weight)
    if dim == 1:
        losses = losses_of(logits, target)
    elif options.chunk_rows is None:
        losses = losses_of(logits.flatten(0, -2), target.flatten())
    else:
        # The gradient of `split` joins the chunks' once; each of a slice's is as large as the rows.
        parts = (
            torch.split(tensor, options.chunk_rows)
            for tensor in (logits.flatten(0, -2), target.flatten())
        )
        losses = torch.cat(
            [
                checkpoint(losses_of, *part, use_reentrant=False, preserve_rng_state=False)
                for part in zip(*parts)
            ]
        )
    rows = None
    if options.return_rows:
        rows = scan_rows(
            logits.movedim(dim, -1).flatten(0, -2),
            target.flatten(),
            ignore_index=options.ignore_index,
            nll=True,
            nan="count",
        )
    losses = losses.view(target.shape)
    return reduce_rows(losses, target, options, class_weight, row_weight), rows


def _losses(
    options: RowLoss, class_weight: Tensor | None, logits: Tensor, target: Tensor
) -> Tensor:
    logits = at_least_float32(logits)
    is_focal = options.gamma is not None
    losses = functional.cross_entropy(
        logits,
        target,
        None if is_focal else class_weight,
        ignore_index=options.ignore_index,
        label_smoothing=options.label_smoothing,
        reduction="none",
    )
    if options.z_loss:
        squares = logits.logsumexp(1).square()
        losses = losses + options.z_loss * squares.masked_fill(target == options.ignore_index, 0)
    if options.gamma is not None:
        losses = losses * power(-torch.expm1(-losses), options.gamma)
        if class_weight is not None:
            losses = losses * class_weight[target.where(target != options.ignore_index, 0)]
    return losses


def power(missed: Tensor, gamma: float) -> Tensor:
    """Raise probabilities to the power of focal loss."""
    # At 0 the gradient of a power below 1 is infinite, and that times the loss, 0, not a number.
    return missed.clamp(min=torch.finfo(missed.dtype).tiny).pow(gamma)


def reduce_rows(
    losses: Tensor,
    target: Tensor,
    options: RowLoss,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
) -> Tensor | LossSum:
    """Weigh the losses of rows and reduce them."""
    counts = target != options.ignore_index
    if class_weight is not None and options.gamma is None:
        # Of a target that is no class on another device, torch's assertion comes later.
        weights = class_weight.detach()[target.where(counts, 0)]
        counts = weights.where(counts, 0)
    if row_weight is not None:
        weights = row_weight.where(target != options.ignore_index, 0)
        losses = losses * weights
        counts = weights.detach() * counts
    return reduce_losses(losses, counts.sum(), options.reduction)
