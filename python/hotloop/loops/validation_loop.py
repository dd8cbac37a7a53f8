"""One pass over held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.loops.batch import device_of, to_device
from hotloop.loops.measurement import Measurement, Metrics
from hotloop.loops.training_step import (
    Loss,
    StepFunction,
    StepResult,
    count_samples,
    forward,
)
from hotloop.losses import LossSum
from hotloop.precision import Precision

__all__ = ["evaluate", "evaluation_mode"]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loss: Loss | None,
    loader: Iterable[Any],
    metrics: Metrics = None,
    *,
    step_fn: StepFunction | None = None,
    precision: Precision | None = None,
) -> dict[str, Any]:
    """Measure the model without changing it.

    Args:
        model: In evaluation mode during the pass; its modes are restored afterwards.
        loss: As in `forward`.
        loader: The batches.
        metrics: Further metrics: a mapping of names to metrics of hotloop, torchmetrics or one's
            own, or a collection of either library. They are reset first.
        step_fn: As in `forward`.
        precision: That of the forward pass.

    Returns:
        "loss", the mean over all items, and each metric's value by its name: a float where it is
        a scalar, and else what the metric computes. Those of a mapping are named NAME_KEY.

    Raises:
        ValueError: If the loader yields no sample.
    """
    device = device_of(model)
    measurement = Measurement(metrics, device)
    precision = Precision() if precision is None else precision
    with evaluation_mode(model):
        for batch in loader:
            batch = to_device(batch, device)
            with precision.context():
                value, preds, target = forward(model, batch, loss, step_fn)
            samples = count_samples(batch, target)
            mean: Tensor
            count: Tensor | float
            if isinstance(value, LossSum):
                mean, count = value.mean, value.count
            else:
                mean, count = value, samples
            measurement.update(StepResult(mean, count, samples, preds, target))
            measurement.loss.add([mean], [count])
    return measurement.compute()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
