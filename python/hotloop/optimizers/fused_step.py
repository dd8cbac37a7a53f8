"""The whole step on torch: what `fused_step` does where there is no kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

__all__ = [
    "FusedStep",
    "check_max_norm",
    "is_unscaled",
    "record_overflow",
    "torch_fused_step",
    "total_norm",
    "unscaling",
]


class FusedStep(NamedTuple):
    """What a `fused_step` reports.

    Attributes:
        grad_norm: 2-norm of all gradients before clipping and after unscaling; None if it
            was not measured.
        is_applied: Whether the parameters were updated; false if the norm is not finite.
    """

    grad_norm: float | None
    is_applied: bool


def check_max_norm(max_norm: float | None) -> None:
    """Raise a ValueError unless `max_norm` is None or at least 0."""
    if max_norm is not None and not max_norm >= 0:
        raise ValueError(
            f"max_norm must be at least 0 (inf only measures), or None to measure nothing; "
            f"got {max_norm!r}"
        )


def torch_fused_step(
    optimizer: Optimizer,
    update: Callable[[], Any],
    *,
    max_norm: float | None,
    grad_factor: float,
    zero_grad: bool,
) -> FusedStep:
    """Measure, clip, update and zero with torch's operators.

    Args:
        optimizer: Whose gradients.
        update: Updates the parameters by their gradients.
        max_norm: As in `fused_step`.
        grad_factor: Multiplies the gradients before they are measured.
        zero_grad: As in `fused_step`.
    """
    pairs = _with_grads(optimizer)
    norm, factor = None, grad_factor
    if max_norm is not None:
        norm = total_norm(optimizer) * grad_factor
        factor *= min(1.0, max_norm / (norm + 1e-6))
    is_applied = norm is None or math.isfinite(norm)
    if is_applied:
        try:
            if factor != 1:
                for param, grad in pairs:
                    param.grad = grad * factor
            update()
        finally:
            for param, grad in pairs:
                param.grad = grad
    if zero_grad:
        optimizer.zero_grad(set_to_none=False)
    return FusedStep(norm, is_applied)


def total_norm(optimizer: Optimizer) -> float:
    """Return the 2-norm of all gradients of an optimizer's parameters."""
    grads = [_values(grad) for _, grad in _with_grads(optimizer)]
    if not grads:
        return 0.0
    # In float64: float32 squares overflow from 1.8e19 on, where the gradients are finite.
    # Metal has no float64.
    wide = torch.float32 if grads[0].device.type == "mps" else torch.float64
    norms = torch._foreach_norm(grads, 2.0, dtype=wide)
    return float(torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms])))


def _with_grads(optimizer: Optimizer) -> list[tuple[Tensor, Tensor]]:
    params = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    return [(param, param.grad) for param in params if param.grad is not None]


def _values(grad: Tensor) -> Tensor:
    # A gradient has a graph after backward(create_graph=True).
    values = grad.detach()
    if values.is_sparse:
        values = values.coalesce().values()
    return torch.view_as_real(values) if values.is_complex() else values


def is_unscaled(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
    """Tell whether `scaler.unscale_` has been called since the last update."""
    return bool(scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.UNSCALED)


def unscaling(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> float:
    """Return what undoes a GradScaler's scale of the gradients.

    Raises:
        RuntimeError: If the scaler has stepped the optimizer since its last `update`.
    """
    stage = scaler._per_optimizer_states[id(optimizer)]["stage"]
    if stage is OptState.STEPPED:
        raise RuntimeError("fused_step(scaler=...) was called twice since scaler.update()")
    return 1.0 if stage is OptState.UNSCALED else 1 / scaler.get_scale()


def record_overflow(scaler: torch.amp.GradScaler, optimizer: Optimizer, found: bool) -> None:
    """Tell a GradScaler, as its `step` would have, whether a gradient was not finite."""
    state = scaler._per_optimizer_states[id(optimizer)]
    device = torch.device("cpu") if scaler._scale is None else scaler._scale.device
    state["found_inf_per_device"] = {device: torch.full((), float(found), device=device)}
    state["stage"] = OptState.STEPPED
