"""One epoch of training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping

from torch import nn
from torch.optim import Optimizer

from hotloop.loops.measurement import Measurement
from hotloop.loops.optimizer_step import optimizer_step
from hotloop.loops.training_step import Batch, Loss, StepResult, training_step
from hotloop.metrics import Metric
from hotloop.optimizers import FusedStep, WeightAverage

__all__ = ["train_epoch"]


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    loader: Iterable[Batch],
    metrics: Mapping[str, Metric] | None = None,
    after_update: Callable[[StepResult, FusedStep], bool] = lambda result, update: False,
    *,
    max_norm: float | None = None,
    average: WeightAverage | None = None,
) -> dict[str, float]:
    """Update the model once for each batch.

    A gradient that is not finite, found where `max_norm` measures, leaves out the update.

    Args:
        model: Put into training mode.
        optimizer: Updates the model's parameters.
        loss: The loss to minimise.
        loader: The batches.
        metrics: Further metrics by name; they are reset first.
        after_update: Called after each update; returning True ends the epoch.
        max_norm: The largest 2-norm of all gradients that enters an update; None for any.
        average: Follows the parameters.

    Returns:
        "loss", the mean over all samples, and each metric's value; with `max_norm` also
        "grad_norm", the mean before clipping, and "skipped_updates", their number.

    Raises:
        ValueError: If the loader yields no batch.
    """
    measurement = Measurement(metrics)
    grad_norms: list[float] = []
    skipped = 0
    model.train()
    optimizer.zero_grad()
    for batch in loader:
        result = training_step(model, batch, loss)
        update = optimizer_step(optimizer, max_norm=max_norm, average=average)
        measurement.update(result.loss, result.preds, result.target)
        if not update.is_applied:
            skipped += 1
        elif update.grad_norm is not None:
            grad_norms.append(update.grad_norm)
        if after_update(result, update):
            break
    values = measurement.compute()
    if max_norm is not None:
        values["grad_norm"] = statistics.fmean(grad_norms) if grad_norms else math.nan
        values["skipped_updates"] = skipped
    return values
