"""One pass over held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hotloop.loops.measurement import Measurement
from hotloop.loops.training_step import Batch, Loss
from hotloop.metrics import Metric

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loss: Loss,
    loader: Iterable[Batch],
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """Measure the model without changing it.

    Args:
        model: In evaluation mode during the pass; its modes are restored afterwards.
        loss: Maps predictions and targets to the mean over a batch.
        loader: The batches.
        metrics: Further metrics by name; they are reset first.

    Returns:
        "loss", the mean over all samples, and each metric's value.

    Raises:
        ValueError: If the loader yields no batch.
    """
    measurement = Measurement(metrics)
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in loader:
            inputs, target = (part.to(device, non_blocking=True) for part in batch)
            preds = model(inputs)
            measurement.update(loss(preds, target), preds, target)
    finally:
        for module, mode in modes:
            module.training = mode
    return measurement.compute()
