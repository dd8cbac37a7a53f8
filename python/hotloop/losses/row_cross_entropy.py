"""Cross entropy of rows: what the losses of classes and of tokens share."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop import backend
from hotloop.losses.gradient import attach, attach_later, kernels_for, needs_gradient, overwrite
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import KERNEL_REDUCTIONS
from hotloop.losses.reference import reduce_rows, reference_cross_entropy
from hotloop.losses.row_loss import RowLoss
from hotloop.memory import empty_like
from hotloop.rows import Rows, describe_target

__all__ = ["empty_rows", "empty_scalar", "row_cross_entropy", "run_kernel"]

#: What new scalars are like, which is quicker than naming their dtype and device.
_SCALARS = {
    dtype: torch.empty((), dtype=dtype, device="cpu")
    for dtype in (torch.float32, torch.float64, torch.int64)
}


def row_cross_entropy(
    logits: Tensor,
    target: Tensor,
    options: RowLoss,
    class_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
    dim: int = -1,
) -> tuple[Tensor | LossSum, Rows | None]:
    """Compute the cross entropy of rows and keep its gradient.

    Args:
        logits: Shape (..., C), or with the classes elsewhere; floating point.
        target: Class indices or the ignored one, int64, shape (...).
        options: What to compute.
        class_weight: Shape (C,).
        row_weight: Shape (...).
        dim: The dimension of the classes.

    Returns:
        The loss, of "none" in the target's shape, and the rows in the flattened order, or None.

    Raises:
        ValueError: If the logits are not floating point, or must not be overwritten.
        IndexError: If a target on the CPU is outside [0, C) and not ignored.
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if class_weight is not None:
        class_weight = class_weight.to(wide)
    if row_weight is not None:
        row_weight = row_weight.to(wide)
    kernels = None
    if logits.dtype in backend.DTYPES and not needs_gradient(class_weight):
        kernels = kernels_for(logits, target, class_weight, row_weight)
    if kernels is None:
        return reference_cross_entropy(logits, target, options, class_weight, row_weight, dim)
    if needs_gradient(row_weight):
        alone = options._replace(reduction="none")
        losses: Any
        losses, rows = row_cross_entropy(logits, target, alone, class_weight, dim=dim)
        return reduce_rows(losses, target, options, class_weight, row_weight), rows

    shape = target.shape
    if logits.ndim != 2:
        logits = logits.movedim(dim, -1).flatten(0, -2)
        target = target.flatten()
    length, classes = logits.shape
    stride, inner = logits.stride()
    if inner != 1 or (options.inplace and stride < classes):
        logits = logits.contiguous()
    if not target.is_contiguous():
        target = target.contiguous()
    if class_weight is not None:
        class_weight = class_weight.contiguous()
    if row_weight is not None:
        row_weight = row_weight.flatten().contiguous()
    has_gradient = needs_gradient(logits)
    # A loss scale must meet gradients in float16 before they are rounded to it.
    is_later = options.chunk_rows is not None or logits.dtype == torch.float16
    gradient = None
    if has_gradient and not is_later:
        gradient = overwrite(logits) if options.inplace else empty_like(logits)
    is_reduced = options.reduction != "none"
    loss = empty_scalar(wide) if is_reduced else torch.empty_like(target, dtype=wide)
    count, rows = None, None
    if options.reduction == "sum_and_count":
        has_weights = class_weight is not None and options.gamma is None
        has_weights = has_weights or row_weight is not None
        count = empty_scalar(wide if has_weights else torch.int64)
    if options.return_rows:
        rows = empty_rows(target, classes, wide)
    problem = run_kernel(
        kernels, options, logits, target, class_weight, row_weight, 1.0, gradient, loss, count, rows
    )
    if problem < length:
        *outer, last = np.unravel_index(problem, shape)
        index = ", ".join(map(str, (*outer, last + options.is_shifted)))
        value = int(target[problem])
        raise IndexError(describe_target(index, value, classes, options.ignore_index))
    if gradient is not None:
        loss = attach(loss, (logits, gradient), is_overwritten=options.inplace)
    elif has_gradient:
        compute = partial(_gradient, kernels, options)
        loss = attach_later(loss, compute, logits, target, class_weight, row_weight)
    if not is_reduced:
        loss = loss.view(shape)
    return (loss if count is None else LossSum(loss, count)), rows


def empty_scalar(dtype: torch.dtype) -> Tensor:
    """Return a new scalar on the CPU, float32, float64 or int64, for a kernel to write to."""
    return torch.empty_like(_SCALARS[dtype])


def empty_rows(target: Tensor, classes: int, dtype: torch.dtype) -> Rows:
    """Return rows to be filled in, of int64 targets and likelihoods in a dtype."""
    return Rows(
        target,
        torch.empty_like(target),
        torch.empty_like(target, dtype=torch.int32),
        torch.empty_like(target, dtype=dtype),
        classes,
    )


def run_kernel(
    kernels: Any,
    options: RowLoss,
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    scale: float,
    gradient: Tensor | None,
    loss: Tensor | None,
    count: Tensor | None,
    rows: Rows | None,
) -> int:
    """Run the kernel over rows whose elements lie side by side.

    Args:
        kernels: The extension module.
        options: What to compute.
        logits: Shape (N, C).
        target: int64, contiguous, shape (N,).
        class_weight: In the dtype of the loss, contiguous, shape (C,).
        row_weight: In the dtype of the loss, contiguous, shape (N,).
        scale: What the gradient is multiplied by.
        gradient: Where it goes, in the logits' shape and dtype; None for nowhere.
        loss: Where the reduced loss goes, or of "none" the losses.
        count: Where the number of rows that count goes.
        rows: What else is to be found.

    Returns:
        The first row whose target is no class, before which nothing is done, or N.
    """
    length, classes = logits.shape
    address = 0 if loss is None else loss.data_ptr()
    is_reduced = options.reduction != "none"
    runtime = backend.current().runtime
    problem: int = kernels.cross_entropy(
        logits.data_ptr(),
        backend.DTYPES[logits.dtype],
        length,
        classes,
        logits.stride(0),
        target.data_ptr(),
        options.ignore_index,
        0 if class_weight is None else class_weight.data_ptr(),
        0 if row_weight is None else row_weight.data_ptr(),
        options.label_smoothing,
        options.z_loss,
        -1.0 if options.gamma is None else options.gamma,
        scale,
        0 if gradient is None else gradient.data_ptr(),
        0 if gradient is None else gradient.stride(0),
        0 if is_reduced else address,
        0 if rows is None else rows.predicted.data_ptr(),
        0 if rows is None else rows.rank.data_ptr(),
        0 if rows is None or rows.nll is None else rows.nll.data_ptr(),
        KERNEL_REDUCTIONS[options.reduction],
        address if is_reduced else 0,
        0 if count is None else count.data_ptr(),
        runtime.parallel_for if runtime else 0,
    )
    return problem


def _gradient(
    kernels: Any,
    options: RowLoss,
    grad_output: Tensor,
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
) -> Tensor:
    gradient = empty_like(logits)
    scale = 1.0
    if grad_output.ndim:
        row_weight = grad_output if row_weight is None else grad_output * row_weight
        row_weight = row_weight.contiguous()
    else:
        scale = grad_output.item()
    run_kernel(
        kernels,
        options,
        logits,
        target,
        class_weight,
        row_weight,
        scale,
        gradient,
        None,
        None,
        None,
    )
    return gradient
