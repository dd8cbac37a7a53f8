"""Forward and backward on one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Batch", "Loss", "StepResult", "training_step"]

#: Inputs and targets; both have the batch as their first dimension.
Batch: TypeAlias = "tuple[Tensor, Tensor]"

#: Maps predictions and targets to the scalar mean over the batch.
Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class StepResult:
    """What a batch gave.

    Attributes:
        loss: Mean loss, a scalar tensor without graph.
        preds: The model's output, shape (N, ...), without graph.
        target: The targets, shape (N, ...), on the model's device.
    """

    loss: Tensor
    preds: Tensor
    target: Tensor


def training_step(
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    *,
    weight: float = 1.0,
    scaler: torch.amp.GradScaler | None = None,
) -> StepResult:
    """Compute the loss of a batch and add its gradient to the parameters' `grad`.

    Args:
        model: In training mode.
        batch: Inputs and targets, moved to the device of the model's parameters.
        loss: The loss to minimise.
        weight: Multiplies the gradient: the batch's part of an update over several.
        scaler: Multiplies the gradient by its scale.

    Returns:
        The loss and the predictions, detached.
    """
    device = next(model.parameters()).device
    inputs, target = (part.to(device, non_blocking=True) for part in batch)
    preds = model(inputs)
    value = loss(preds, target)
    weighted = value if weight == 1 else value * weight
    scaled = weighted if scaler is None else scaler.scale(weighted)
    scaled.backward()  # type: ignore[no-untyped-call]
    return StepResult(value.detach(), preds.detach(), target)
