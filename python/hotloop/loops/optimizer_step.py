"""What follows the backward pass: clip, update, average, clear the gradients."""

from __future__ import annotations

from torch.optim import Optimizer

from hotloop.optimizers import FusedStep, NativeStep, WeightAverage, torch_fused_step

__all__ = ["optimizer_step"]


def optimizer_step(
    optimizer: Optimizer,
    *,
    max_norm: float | None = None,
    average: WeightAverage | None = None,
) -> FusedStep:
    """Update the parameters and clear their gradients.

    Clipping and averaging go through `fused_step` where the optimizer has it, and through
    torch's operators otherwise. The update is left out if a measured norm is not finite.

    Args:
        optimizer: Any torch optimizer, after the backward pass.
        max_norm: The largest 2-norm of all gradients that enters the update; inf only
            measures; None does not measure.
        average: Moved to the new parameters.

    Returns:
        The norm, if it was measured, and whether the update was applied.
    """
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
