"""What follows the backward pass: clip, update, average, clear the gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from hotloop.optimizers import FusedStep, NativeStep, WeightAverage
from hotloop.optimizers.fused_step import check_max_norm, is_unscaled, record_overflow, total_norm

__all__ = ["clear_gradients", "optimizer_step"]

_UNMEASURED = FusedStep(None, is_applied=True)


def optimizer_step(
    optimizer: Optimizer,
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    average: WeightAverage | None = None,
    scaler: GradScaler | None = None,
    grad_factor: Tensor | float = 1.0,
) -> FusedStep:
    """Update the parameters and set their gradients to None.

    Clipping by norm, averaging and unscaling go through `fused_step` where the optimizer has
    it, and through torch's operators otherwise. The update is left out if a measured norm is
    not finite.

    Args:
        optimizer: Any torch optimizer, after the backward pass.
        max_norm: The largest 2-norm of all gradients that enters the update; inf only
            measures; None does not measure.
        max_value: The largest size of a gradient's element; larger ones are cut before the
            norm is measured. None for any.
        average: Moved to the new parameters.
        scaler: What the loss was scaled by; it measures the norm, and is updated.
        grad_factor: Multiplies the gradients first; a scalar tensor stays on its device.

    Returns:
        The norm, if it was measured, and whether the update was applied.

    Raises:
        ValueError: If `max_norm` is below 0, or `max_value` or `grad_factor` is not above 0.
    """
    check_max_norm(max_norm)
    if max_value is not None and not max_value > 0:
        raise ValueError(f"max_value must be above 0, or None; got {max_value!r}")
    if scaler is not None and not scaler.is_enabled():
        scaler = None
    if isinstance(grad_factor, Tensor):
        if grad_factor.device.type == "cpu":
            grad_factor = float(grad_factor)
        else:
            _multiply(_grads(optimizer), grad_factor)
            grad_factor = 1.0
    if not 0 < grad_factor < math.inf:
        raise ValueError(f"grad_factor must be above 0 and finite, got {grad_factor!r}")
    if max_value is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        grads = _grads(optimizer)
        if grad_factor != 1:
            _multiply(grads, grad_factor)
            grad_factor = 1.0
        # A clamp makes a finite number of infinity, which has to be seen before.
        if max_norm is None and scaler is None:
            max_norm = math.inf
        if grads and math.isfinite(total_norm(optimizer)):
            torch._foreach_clamp_max_(grads, max_value)
            torch._foreach_clamp_min_(grads, -max_value)
    if scaler is None and max_norm is None and average is None and grad_factor == 1:
        optimizer.step()
        clear_gradients(optimizer)
        return _UNMEASURED
    if isinstance(optimizer, NativeStep):
        # Gradients of zero in place of none would let momentum and decay move parameters that
        # the next loss does not depend on.
        report: FusedStep = optimizer.fused_step(
            max_norm=max_norm, average=average, scaler=scaler, grad_factor=grad_factor
        )
    else:
        report = _torch_step(optimizer, max_norm, scaler, grad_factor)
        if average is not None and report.is_applied:
            average.update()
    if scaler is not None:
        scaler.update()
    clear_gradients(optimizer)
    return report


def _torch_step(
    optimizer: Optimizer, max_norm: float | None, scaler: GradScaler | None, grad_factor: float
) -> FusedStep:
    if scaler is not None:
        max_norm = math.inf if max_norm is None else max_norm
        if not is_unscaled(scaler, optimizer):
            scaler.unscale_(optimizer)
    norm = None
    if max_norm is not None:
        norm = total_norm(optimizer) * grad_factor
        grad_factor *= min(1.0, max_norm / (norm + 1e-6))
    is_applied = norm is None or math.isfinite(norm)
    if is_applied:
        grads = _grads(optimizer)
        if grad_factor != 1:
            _multiply(grads, grad_factor)
        if scaler is None:
            optimizer.step()
        elif grads:
            scaler.step(optimizer)
        else:
            # Its own step fails where there is no gradient to have looked at.
            record_overflow(scaler, optimizer, found=False)
    return FusedStep(norm, is_applied)


def clear_gradients(optimizer: Optimizer) -> None:
    """Set the gradients of an optimizer's parameters to None.

    That is what `zero_grad` does, and that is called where a class has its own; torch's is
    recorded for profiles, which takes longer than the rest of it.
    """
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = None


def _multiply(grads: list[Tensor], factor: Tensor | float) -> None:
    # torch refuses an empty list.
    if grads:
        torch._foreach_mul_(grads, factor)


def _grads(optimizer: Optimizer) -> list[Tensor]:
    params = (param for group in optimizer.param_groups for param in group["params"])
    return [param.grad for param in params if param.grad is not None]
