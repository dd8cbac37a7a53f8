"""One epoch of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import nn
from torch.optim import Optimizer

from hotloop.loops.measurement import Measurement
from hotloop.loops.training_step import Batch, Loss, StepResult, training_step
from hotloop.metrics import Metric

__all__ = ["train_epoch"]


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    loader: Iterable[Batch],
    metrics: Mapping[str, Metric] | None = None,
    after_update: Callable[[StepResult], bool] = lambda result: False,
) -> dict[str, float]:
    """Update the model once for each batch.

    Args:
        model: Put into training mode.
        optimizer: Updates the model's parameters.
        loss: The loss to minimise.
        loader: The batches.
        metrics: Further metrics by name; they are reset first.
        after_update: Called after each update; returning True ends the epoch.

    Returns:
        "loss", the mean over all samples, and each metric's value.

    Raises:
        ValueError: If the loader yields no batch.
    """
    measurement = Measurement(metrics)
    model.train()
    optimizer.zero_grad()
    for batch in loader:
        result = training_step(model, batch, loss)
        optimizer.step()
        optimizer.zero_grad()
        measurement.update(result.loss, result.preds, result.target)
        if after_update(result):
            break
    return measurement.compute()
