"""One epoch of training."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn
from torch.amp.grad_scaler import GradScaler
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
    accumulate: int = 1,
    max_norm: float | None = None,
    average: WeightAverage | None = None,
    scaler: GradScaler | None = None,
) -> dict[str, float]:
    """Update the model once for each batch, or for each few.

    A gradient that is not finite, found where `max_norm` or a scaler measures, leaves out
    the update.

    Args:
        model: Put into training mode.
        optimizer: Updates the model's parameters.
        loss: The loss to minimise.
        loader: The batches.
        metrics: Further metrics by name; they are reset first.
        after_update: Called after each update; returning True ends the epoch.
        accumulate: Batches whose gradients make one update: that of the mean over all their
            samples. What is left at the end of the epoch makes one as well.
        max_norm: The largest 2-norm of all gradients that enters an update; None for any.
        average: Follows the parameters.
        scaler: Scales the loss; its overflows are left out updates.

    Returns:
        "loss", the mean over all samples, and each metric's value; with `max_norm` or
        a scaler also "grad_norm", the mean before clipping, and "skipped_updates", their number.

    Raises:
        ValueError: If the loader yields no batch.
    """
    measurement = Measurement(metrics)
    grad_norms: list[float] = []
    skipped = 0
    model.train()
    optimizer.zero_grad()
    for window in _windows(loader, accumulate):
        samples = sum(len(target) for _, target in window)
        for batch in window:
            weight = len(batch[1]) / samples if samples else 1.0
            result = training_step(model, batch, loss, weight=weight, scaler=scaler)
            measurement.update(result.loss, result.preds, result.target)
        update = optimizer_step(optimizer, max_norm=max_norm, average=average, scaler=scaler)
        if not update.is_applied:
            skipped += 1
        elif update.grad_norm is not None:
            grad_norms.append(update.grad_norm)
        if after_update(result, update):
            break
    values = measurement.compute()
    if max_norm is not None or scaler is not None:
        values["grad_norm"] = statistics.fmean(grad_norms) if grad_norms else math.nan
        values["skipped_updates"] = skipped
    return values


def _windows(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    batches = iter(loader)
    while window := list(itertools.islice(batches, size)):
        yield window
