"""What follows the backward pass: clip, update, average, clear the gradients."""

from __future__ import annotations

import math

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from hotloop.optimizers import FusedStep, NativeStep, WeightAverage, torch_fused_step

__all__ = ["optimizer_step"]


def optimizer_step(
    optimizer: Optimizer,
    *,
    max_norm: float | None = None,
    average: WeightAverage | None = None,
    scaler: GradScaler | None = None,
) -> FusedStep:
    """Update the parameters and clear their gradients.

    Clipping, averaging and unscaling go through `fused_step` where the optimizer has it, and
    through torch's operators otherwise. The update is left out if a measured norm is not
    finite.

    Args:
        optimizer: Any torch optimizer, after the backward pass.
        max_norm: The largest 2-norm of all gradients that enters the update; inf only
            measures; None does not measure.
        average: Moved to the new parameters.
        scaler: What the loss was scaled by; it measures the norm, and is updated.

    Returns:
        The norm, if it was measured, and whether the update was applied.
    """
    if scaler is not None and scaler.is_enabled():
        return _scaled_step(optimizer, max_norm, average, scaler)
    if max_norm is None and average is None:
        optimizer.step()
        optimizer.zero_grad()
        return FusedStep(None, is_applied=True)
    if isinstance(optimizer, NativeStep):
        return optimizer.fused_step(max_norm=max_norm, average=average, zero_grad=True)
    report = torch_fused_step(
        optimizer, optimizer.step, max_norm=max_norm, grad_factor=1.0, zero_grad=True
    )
    if average is not None and report.is_applied:
        average.update()
    return report


def _scaled_step(
    optimizer: Optimizer,
    max_norm: float | None,
    average: WeightAverage | None,
    scaler: GradScaler,
) -> FusedStep:
    if isinstance(optimizer, NativeStep):
        report: FusedStep = optimizer.fused_step(
            max_norm=max_norm, average=average, zero_grad=True, scaler=scaler
        )
    else:
        scaler.unscale_(optimizer)
        report = torch_fused_step(
            optimizer,
            lambda: scaler.step(optimizer),
            max_norm=math.inf if max_norm is None else max_norm,
            grad_factor=1.0,
            zero_grad=True,
        )
        if average is not None and report.is_applied:
            average.update()
    scaler.update()
    return report
