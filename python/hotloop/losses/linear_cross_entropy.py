"""Cross entropy of a linear layer's outputs, which are never all in memory."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hotloop.argument import check_count, check_number
from hotloop.losses.argument import check_indices
from hotloop.losses.gradient import attach, kernels_for, needs_gradient
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.reduction import check_reduction
from hotloop.losses.row_cross_entropy import (
    empty_rows,
    empty_scalar,
    row_cross_entropy,
    run_kernel,
)
from hotloop.losses.row_loss import RowLoss
from hotloop.rows import Rows, describe_target

__all__ = ["linear_cross_entropy"]

#: Bytes of a chunk's logits if no number of rows is given, and the fewest rows.
_CHUNK_BYTES = 64 * 2**20
_CHUNK_ROWS = 64

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_REDUCTIONS = ("mean", "sum", "sum_and_count")


@overload
def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_rows: int | None = None,
    reduction: str = "sum_and_count",
    return_rows: Literal[False] = False,
) -> Tensor | LossSum: ...


@overload
def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_rows: int | None = None,
    reduction: str = "sum_and_count",
    return_rows: Literal[True],
) -> tuple[Tensor | LossSum, Rows]: ...


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_rows: int | None = None,
    reduction: str = "sum_and_count",
    return_rows: bool = False,
) -> Tensor | LossSum | tuple[Tensor | LossSum, Rows]:
    """Compute `cross_entropy(linear(input, weight, bias), target)` without holding all logits.

    The logits of `chunk_rows` rows are computed at a time, into the same memory. With the kernels
    their gradient overwrites them and is multiplied out at once, so that the forward pass leaves
    the gradients of input, weight and bias, and the backward pass only hands them on; they
    cannot be differentiated again. Torch's operators compute each chunk's logits again in the
    backward pass.

    Args:
        input: What the layer is applied to, shape (..., D), floating point.
        weight: The layer's weight, shape (C, D), in the input's dtype.
        target: Class indices in [0, C) or `ignore_index`, int64, shape (...).
        bias: The layer's bias, shape (C,), in the input's dtype.
        ignore_index: The target of rows that do not count.
        label_smoothing: The part of each target that is spread over all classes, in [0, 1].
        z_loss: The factor of the squared log-normaliser, at least 0.
        chunk_rows: Rows in a chunk, at least 1; None for as many as have 64 MiB of logits, and no
            fewer than 64.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), or "sum".
        return_rows: Whether to return the `Rows` of the same pass, too, one for each row in the
            order of `target.flatten()`.

    Returns:
        What `reduction` says, or a pair of it and the rows.

    Raises:
        ValueError: If a shape or dtype does not fit, a number is out of its range, or there is no
            such reduction.
        IndexError: If a target on the CPU is outside [0, C) and not `ignore_index`.
    """
    check_number("label_smoothing", label_smoothing, 0, 1)
    check_number("z_loss", z_loss, 0)
    check_count("chunk_rows", chunk_rows, is_optional=True)
    check_reduction(reduction, _REDUCTIONS)
    _check_shapes(input, weight, target, bias)
    check_indices(target)
    options = RowLoss(ignore_index, label_smoothing, z_loss, "sum", return_rows=return_rows)
    if torch.is_autocast_enabled("cpu") and input.is_cpu:
        # Products into given memory are not cast.
        dtype = torch.get_autocast_dtype("cpu")
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if target.is_cpu:
        _check_target(target, len(weight), ignore_index)
    input, target = input.flatten(0, -2), target.flatten()
    if chunk_rows is None:
        row_bytes = max(1, len(weight) * input.element_size())
        chunk_rows = max(_CHUNK_ROWS, _CHUNK_BYTES // row_bytes)
    count = (target != ignore_index).sum()
    kernels = kernels_for(input, weight, target, bias)
    loss: Tensor | LossSum
    # A loss scale must meet gradients in float16 before they are rounded to it.
    if kernels is None or input.dtype not in _DTYPES:
        total, rows = _torch_sum(input, weight, target, bias, options, chunk_rows)
        loss = LossSum(total, count)
        if reduction != "sum_and_count":
            loss = loss.mean if reduction == "mean" else total
    else:
        divisor = max(1, int(count)) if reduction == "mean" else 1
        loss, rows = _sum(kernels, input, weight, target, bias, options, chunk_rows, divisor)
        if reduction == "sum_and_count":
            loss = LossSum(loss, count)
    return loss if rows is None else (loss, rows)


def _check_shapes(input: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None) -> None:
    if not input.is_floating_point():
        raise ValueError(f"input must be floating point, got {input.dtype}")
    if input.ndim < 2 or target.shape != input.shape[:-1]:
        raise ValueError(
            "input must have shape (..., D) and target (...), got "
            f"{tuple(input.shape)} and {tuple(target.shape)}"
        )
    if weight.ndim != 2 or weight.shape[1] != input.shape[-1]:
        raise ValueError(
            f"weight must have shape (C, {input.shape[-1]}), got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({len(weight)},), got {tuple(bias.shape)}")


def _check_target(target: Tensor, classes: int, ignore_index: int) -> None:
    is_wrong = (target != ignore_index) & ((target < 0) | (target >= classes))
    if is_wrong.any():
        place = is_wrong.nonzero()[0].tolist()
        value = int(target[tuple(place)])
        index = ", ".join(map(str, place))
        raise IndexError(describe_target(index, value, classes, ignore_index))


def _sum(
    kernels: Any,
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: RowLoss,
    chunk_rows: int,
    divisor: int,
) -> tuple[Tensor, Rows | None]:
    """Compute the sum of the rows' losses by a divisor, and all gradients."""
    wide = torch.promote_types(input.dtype, torch.float32)
    classes = len(weight)
    target = target.contiguous()
    gradients: list[tuple[Tensor, Tensor]] = []
    # What chunks add up is added in float32 at least.
    sums: list[Tensor | None] = [
        torch.zeros_like(tensor, dtype=wide) if tensor is not None and wanted else None
        for tensor, wanted in ((weight, needs_gradient(weight)), (bias, needs_gradient(bias)))
    ]
    grad_weight, grad_bias = sums
    grad_input = torch.empty_like(input) if needs_gradient(input) else None
    is_wanted = any(tensor is not None for tensor in (grad_input, grad_weight, grad_bias))
    rows = empty_rows(target, classes, wide) if options.return_rows else None
    memory = input.new_empty(min(chunk_rows, len(input)), classes)
    value = empty_scalar(wide)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(input), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            part = input[chunk]
            logits = memory[: len(part)]
            if bias is None:
                torch.mm(part, weight.t(), out=logits)
            else:
                torch.addmm(bias, part, weight.t(), out=logits)
            run_kernel(
                kernels,
                options,
                logits,
                target[chunk],
                None,
                None,
                1 / divisor,
                logits if is_wanted else None,
                value,
                None,
                None if rows is None else _part(rows, chunk),
            )
            total += value.item()
            if grad_input is not None:
                torch.mm(logits, weight, out=grad_input[chunk])
            if grad_weight is not None:
                if wide == input.dtype:
                    grad_weight.addmm_(logits.t(), part)
                else:
                    grad_weight += logits.t() @ part
            if grad_bias is not None:
                grad_bias += logits.sum(0, dtype=wide)
    loss = value.fill_(total / divisor)
    for tensor, gradient in ((input, grad_input), (weight, grad_weight), (bias, grad_bias)):
        if tensor is not None and gradient is not None:
            gradients.append((tensor, gradient.to(tensor.dtype)))
    return (attach(loss, *gradients) if gradients else loss), rows


def _part(rows: Rows, chunk: slice) -> Rows:
    nll = None if rows.nll is None else rows.nll[chunk]
    return Rows(rows.target[chunk], rows.predicted[chunk], rows.rank[chunk], nll, rows.classes)


def _torch_sum(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: RowLoss,
    chunk_rows: int,
) -> tuple[Tensor, Rows | None]:
    """Do what the kernels do with torch's operators."""

    def chunk_sum(part: Tensor, labels: Tensor) -> Any:
        return row_cross_entropy(functional.linear(part, weight, bias), labels, options)

    # One chunk at least, for a graph.
    sums = [
        checkpoint(chunk_sum, part, labels, use_reentrant=False, preserve_rng_state=False)
        for part, labels in zip(torch.split(input, chunk_rows), torch.split(target, chunk_rows))
    ]
    totals, found = zip(*sums)
    total = torch.stack(totals).sum()
    if not options.return_rows:
        return total, None
    target, predicted, rank, nll = (
        torch.cat([rows[field] for rows in found]) for field in range(4)
    )
    return total, Rows(target, predicted, rank, nll, len(weight))
