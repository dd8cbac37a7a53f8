"""One pass over rows of scores: the best class, the target's rank, and its likelihood.

Losses and metrics read this instead of the logits, which are much larger.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hotloop import backend
from hotloop.errors import unknown_name

__all__ = ["Rows", "describe_target", "scan_rows"]

_NAN_POLICIES = ("count", "error")
#: For no `ignore_index`: no class index can be this.
_NO_INDEX = -(2**63)


class Rows(NamedTuple):
    """What is known of each row of scores, of shape (N, C).

    Top-k accuracy is the mean of `rank < k` over the rows whose target counts, and accuracy that of
    `rank < 1`.

    Attributes:
        target: The class of each row, int64, shape (N,).
        predicted: The first class with the highest score, int64, shape (N,); -1 if the row is
            ignored or has NaN.
        rank: How many classes come before the target's, int32, shape (N,): those with a higher
            score, and those with the same and a lower index. -1 if the row is ignored, `classes`
            if it has NaN.
        nll: The negative log-likelihood of the target, -log softmax(scores)[target], shape (N,), in
            float64 for float64 scores and else in float32; 0 if the row is ignored. None if it was
            not asked for.
        classes: The number of classes, C.
    """

    target: Tensor
    predicted: Tensor
    rank: Tensor
    nll: Tensor | None
    classes: int


def scan_rows(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    nll: bool = False,
    nan: str = "error",
) -> Rows:
    """Find the best class of each row and the rank and likelihood of its target in one pass.

    Nothing is read from another device than the CPU: rows there whose target is no class have
    the rank `classes`, like those with NaN, and none is an error.

    Args:
        logits: Scores, shape (N, C), floating point; for `nll` they are logits.
        target: Class indices in [0, C) or `ignore_index`, of any integer dtype, shape (N,).
        ignore_index: The target of rows that are left out and not looked at; None for none.
        nll: Whether to compute the negative log-likelihood of the targets.
        nan: "error" to raise for a row with NaN, or "count" to give it no class and the last rank.

    Returns:
        The rows, without graph.

    Raises:
        ValueError: If a shape or dtype does not fit, there is no such policy for NaN, a target
            is outside [0, C), or a row has NaN. The first such row is named.
    """
    if nan not in _NAN_POLICIES:
        raise ValueError(unknown_name("nan", nan, _NAN_POLICIES))
    if logits.ndim != 2 or target.ndim != 1 or len(target) != len(logits):
        raise ValueError(
            f"logits must have shape (N, C) and target (N,), got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    if target.dtype != torch.int64:
        if target.is_floating_point() or target.is_complex():
            raise ValueError(f"target must hold class indices, got {target.dtype}")
        target = target.long()
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    kernels = backend.kernels_for(logits, target)
    dtype = backend.DTYPES.get(logits.dtype)
    if kernels is None or dtype is None:
        return _scan_rows(logits, target, ignore_index, nll, nan)
    rows, classes = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    if not target.is_contiguous():
        target = target.contiguous()
    # In the place of the targets, whatever the default device is.
    predicted = torch.empty_like(target)
    rank = torch.empty_like(target, dtype=torch.int32)
    values = None
    if nll:
        is_double = logits.dtype == torch.float64
        values = torch.empty_like(target, dtype=torch.float64 if is_double else torch.float32)
    runtime = backend.current().runtime
    problem = kernels.scan_rows(
        logits.data_ptr(),
        dtype,
        rows,
        classes,
        logits.stride(0),
        target.data_ptr(),
        _NO_INDEX if ignore_index is None else ignore_index,
        nan == "error",
        predicted.data_ptr(),
        rank.data_ptr(),
        0 if values is None else values.data_ptr(),
        runtime.parallel_for if runtime else 0,
    )
    if problem < rows:
        raise ValueError(_describe_problem(target, problem, classes, ignore_index))
    return Rows(target, predicted, rank, values, classes)


def describe_target(index: int | str, value: int, classes: int, ignore_index: int | None) -> str:
    """Return the text of the error for a target that is no class.

    Args:
        index: Where it is: a number, or several with commas between.
        value: What it is.
        classes: How many classes there are.
        ignore_index: The target that may be outside of them, or None.
    """
    other = "" if ignore_index is None else f" or ignore_index={ignore_index}"
    return f"target[{index}] is {value}, must be in [0, {classes}){other}"


def _describe_problem(target: Tensor, problem: int, classes: int, ignore_index: int | None) -> str:
    value = int(target[problem])
    if 0 <= value < classes:
        return f"row {problem} of the scores has NaN"
    return describe_target(problem, value, classes, ignore_index)


@torch.no_grad()
def _scan_rows(
    logits: Tensor, target: Tensor, ignore_index: int | None, nll: bool, nan: str
) -> Rows:
    """Do what the kernel does with torch's operators."""
    rows, classes = logits.shape
    is_ignored = torch.zeros_like(target, dtype=torch.bool)
    if ignore_index is not None:
        is_ignored = target == ignore_index
    is_wrong = ~is_ignored & ((target < 0) | (target >= classes))
    has_nan = ~is_ignored & logits.isnan().any(1)
    if logits.is_cpu:
        problems = is_wrong | has_nan if nan == "error" else is_wrong
        if problems.any():
            problem = int(problems.int().argmax())
            raise ValueError(_describe_problem(target, problem, classes, ignore_index))
    if not rows:
        values = torch.zeros_like(target, dtype=logits.dtype) if nll else None
        return Rows(target, target.clone(), target.int(), _widened(values), classes)
    labels = target.where(~is_ignored & ~is_wrong, 0)[:, None]
    scores = logits.gather(1, labels)
    is_lower = torch.arange(classes, device=logits.device) < labels
    rank = ((logits > scores) | ((logits == scores) & is_lower)).sum(1, dtype=torch.int32)
    rank = rank.masked_fill(has_nan | is_wrong, classes).masked_fill(is_ignored, -1)
    predicted = logits.argmax(1).masked_fill(has_nan | is_ignored, -1)
    values = None
    if nll:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        values = functional.cross_entropy(wide, labels[:, 0], reduction="none")
        values = values.masked_fill(is_ignored, 0)
    return Rows(target, predicted, rank, values, classes)


def _widened(values: Tensor | None) -> Tensor | None:
    if values is None:
        return None
    return values.to(torch.promote_types(values.dtype, torch.float32))
