"""Forward and backward on one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from hotloop.loops.backward import backward
from hotloop.loops.batch import batch_size, device_of, to_device
from hotloop.loops.window import Window
from hotloop.losses import LossSum
from hotloop.precision import Precision

__all__ = ["Loss", "StepFunction", "StepOutput", "StepResult", "forward", "training_step"]

#: Maps predictions and targets to the mean over the batch's samples, or to a sum and a count.
Loss: TypeAlias = "Callable[[Any, Any], Tensor | LossSum]"


class StepOutput(NamedTuple):
    """What a forward pass gives.

    Attributes:
        loss: The mean over the batch's samples, a scalar, or a sum with its own count.
        preds: The model's output, for metrics; None if there is none to see. With the `Rows` that
            a loss has found (`return_rows=True`), metrics do not read the logits again.
        target: The targets, for metrics.
    """

    loss: Tensor | LossSum
    preds: Any = None
    target: Any = None


#: A forward pass of the user's own: maps the model and a batch on its device to the loss.
StepFunction: TypeAlias = "Callable[[nn.Module, Any], Tensor | LossSum | StepOutput]"


class StepResult(NamedTuple):
    """What a batch gave.

    Attributes:
        loss: The mean loss, a scalar tensor without graph.
        count: How many items it is the mean of.
        samples: How many samples the batch has.
        preds: The model's output, without graph if it is a tensor; None if a step function
            kept it.
        target: The targets, on the model's device.
    """

    loss: Tensor
    count: Tensor | float  # type: ignore[assignment]  # hides tuple.count
    samples: int
    preds: Any
    target: Any


def forward(
    model: nn.Module, batch: Any, loss: Loss | None, step_fn: StepFunction | None = None
) -> StepOutput:
    """Compute the loss of a batch.

    With a step function that is its job. With a loss a batch is the pair (inputs, target). With
    neither, the model computes its own: it is called with the batch (a mapping as keyword
    arguments, a list or tuple as arguments), and returns the loss or something that has it,
    as the attribute or key "loss".

    Args:
        model: The model.
        batch: A batch, on the model's device.
        loss: The loss to minimise.
        step_fn: Stands in place of model and loss.

    Raises:
        TypeError: If the loss is no scalar tensor and no `LossSum`, or is not found.
        ValueError: If there is a loss and the batch is no pair.
    """
    if step_fn is not None:
        output = step_fn(model, batch)
        if not isinstance(output, StepOutput):
            output = StepOutput(output)
    elif loss is not None:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                "with a loss a batch must be a pair (inputs, target); pass step_fn=... for "
                f"another, got {type(batch).__name__}"
            )
        inputs, target = batch
        preds = model(inputs)
        output = StepOutput(loss(preds, target), preds, target)
    else:
        output = _own_loss(model, batch)
    value = output.loss
    if not isinstance(value, LossSum) and not (isinstance(value, Tensor) and value.ndim == 0):
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise TypeError(
            "the loss must be a scalar tensor or a LossSum, got "
            f"{type(value).__name__}{shape}; reduce it to its mean or return LossSum(total, count)"
        )
    return output


def call_model(model: nn.Module, batch: Any) -> Any:
    """Call a model with a mapping as keyword arguments, or a list or tuple as arguments."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _own_loss(model: nn.Module, batch: Any) -> StepOutput:
    output = call_model(model, batch)
    if isinstance(output, (Tensor, LossSum)):
        return StepOutput(output)
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if found is None:
        raise TypeError(
            "without a loss the model must return one, as a scalar tensor or as 'loss' of what it "
            f"returns; it returned {type(output).__name__}. Pass loss=... or step_fn=..."
        )
    return StepOutput(found)


def training_step(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    *,
    step_fn: StepFunction | None = None,
    window: Window | None = None,
    precision: Precision | None = None,
    device: torch.device | None = None,
) -> StepResult:
    """Compute the loss of a batch and add its gradient to the parameters' `grad`.

    Args:
        model: In training mode.
        batch: Moved to the device.
        loss: As in `forward`.
        step_fn: As in `forward`.
        window: The update that the batch is a part of; None if it is one of its own.
        precision: That of the forward pass; its scaler scales the gradient.
        device: Where the model is; None to look.

    Returns:
        The loss and the predictions, detached.
    """
    batch = to_device(batch, device_of(model) if device is None else device)
    if precision is None or precision.dtype is None:
        value, preds, target = forward(model, batch, loss, step_fn)
    else:
        with precision.context():
            value, preds, target = forward(model, batch, loss, step_fn)
    samples = count_samples(batch, target)
    window = Window() if window is None else window
    weighted = window.take(value, samples)
    if precision is not None and precision.scaler is not None:
        weighted = precision.scaler.scale(weighted)
    backward(weighted)
    if isinstance(preds, Tensor):
        preds = preds.detach()
    return StepResult(window.losses[-1], window.counts[-1], samples, preds, target)


def count_samples(batch: Any, target: Any) -> int:
    """Return the length of a target that is a tensor, and else of the batch's first tensor."""
    if isinstance(target, Tensor) and target.ndim:
        return target.size(0)
    return batch_size(batch if target is None else (batch, target))
