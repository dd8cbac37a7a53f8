"""One pass over held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hotloop.loops.training_step import Batch, Loss
from hotloop.metrics import Mean, Metric

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
    metrics = metrics or {}
    mean_loss = Mean()
    for metric in metrics.values():
        metric.reset()
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    samples = 0
    try:
        for batch in loader:
            inputs, target = (part.to(device, non_blocking=True) for part in batch)
            preds = model(inputs)
            samples += len(target)
            mean_loss.update(loss(preds, target), len(target))
            for metric in metrics.values():
                metric.update(preds, target)
    finally:
        for module, mode in modes:
            module.training = mode
    if samples == 0:
        raise ValueError("loader yields no samples to evaluate; check its dataset")
    return {"loss": mean_loss.compute()} | {k: m.compute() for k, m in metrics.items()}
