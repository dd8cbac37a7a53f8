"""One epoch of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hotloop.errors import NonFiniteError
from hotloop.loops.batch import device_of
from hotloop.loops.measurement import Measurement, Metrics, RunningLoss
from hotloop.loops.optimizer_step import clear_gradients, optimizer_step
from hotloop.loops.training_step import Loss, StepFunction, StepResult, training_step
from hotloop.loops.window import Window
from hotloop.optimizers import WeightAverage
from hotloop.precision import Precision

__all__ = ["Observer", "Update", "train_epoch"]


class Update(NamedTuple):
    """What the batches of an update gave.

    Attributes:
        losses: The mean loss of each batch, a scalar on its device.
        counts: How many items each is the mean of.
        samples: The number of samples of all batches.
        grad_norms: The norm of the gradients of each update, before clipping; empty where it is not
            measured.
        is_applied: As in `FusedStep`.
        running: The loss of the epoch, up to here; None if nobody measures it.
        updates: How many updates there were, of which the losses are those of the last.
    """

    losses: list[Tensor]
    counts: list[Tensor | float]
    samples: int
    grad_norms: Sequence[float]
    is_applied: bool
    running: RunningLoss | None
    updates: int = 1

    @property
    def grad_norm(self) -> float | None:
        """The norm of the gradients of the last update; None where it is not measured."""
        return self.grad_norms[-1] if self.grad_norms else None

    @property
    def loss(self) -> Tensor:
        """The mean loss over all items of the update, a scalar on its device."""
        if len(self.losses) == 1:
            return self.losses[0]
        total = sum(loss * count for loss, count in zip(self.losses, self.counts))
        return torch.as_tensor(total / sum(self.counts))


class Observer:
    """Base of what watches an epoch: it does nothing."""

    def before_batch(self) -> None:
        """Run before a batch."""

    def after_batch(self, result: StepResult, window: Window) -> None:
        """Run after the backward pass of a batch.

        Args:
            result: What it gave.
            window: The batches of the update, up to this one.
        """

    def before_update(self) -> None:
        """Run before an update, which may fail and leave some parameters behind the others."""

    def after_update(self, update: Update) -> bool:
        """Run after an update, applied or left out.

        Args:
            update: What it gave.

        Returns:
            Whether the epoch ends here.
        """
        return False

    def after_interrupt(self, update: Update | None) -> None:
        """Run after updates whose loop an exception has ended between two of them.

        Args:
            update: What they gave; None if there were none.
        """


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss | None,
    loader: Iterable[Any],
    metrics: Metrics = None,
    observer: Observer | None = None,
    *,
    step_fn: StepFunction | None = None,
    accumulate: int | Callable[[], int] = 1,
    max_norm: float | None = None,
    max_value: float | None = None,
    average: WeightAverage | None = None,
    precision: Precision | None = None,
    nonfinite: str = "raise",
    measurement: Measurement | None = None,
    window: Window | None = None,
) -> dict[str, Any]:
    """Update the model once for each batch, or for each few.

    Args:
        model: Put into training mode.
        optimizer: Updates the model's parameters.
        loss: As in `forward`.
        loader: The batches.
        metrics: As in `evaluate`.
        observer: Watches, and may end the epoch.
        step_fn: As in `forward`.
        accumulate: Batches whose gradients make one update, as if they were one batch; a
            function is asked before each update. What is left at the end of the epoch makes
            an update as well.
        max_norm: The largest 2-norm of all gradients that enters an update; None for any.
        max_value: The largest size of a gradient's element; None for any.
        average: Follows the parameters.
        precision: That of the forward pass. Its scaler leaves out updates that overflow.
        nonfinite: What a loss or gradient that is not finite does: "raise" or "skip", which
            leaves out the update. With "raise" a loss is read at the end of the epoch only,
            and a gradient where `max_norm` measures it.
        measurement: Where to count, with what it has counted already, in place of `metrics`.
        window: Batches of the first update that were taken before; their gradients are the
            parameters'.

    Returns:
        "loss", the mean over all samples whose update was applied, and each metric's value;
        where gradients are measured also "grad_norm", the mean before clipping, and
        "skipped_updates", their number.

    Raises:
        ValueError: If the loader yields no sample, `accumulate` is no positive int, or
            `nonfinite` is unknown.
        NonFiniteError: If `nonfinite` says so.
        OverflowStreakError: If the scaler overflows too often in succession.
    """
    if nonfinite not in ("raise", "skip"):
        raise ValueError(f"nonfinite must be 'raise' or 'skip', got {nonfinite!r}")
    precision = Precision() if precision is None else precision
    is_skipping = nonfinite == "skip"
    is_strict = not is_skipping and precision.scaler is None
    if is_skipping and max_norm is None:
        max_norm = math.inf
    device = device_of(model)
    measurement = Measurement(metrics, device) if measurement is None else measurement
    model.train()
    if window is None:
        clear_gradients(optimizer)
    for full in _windows(
        model, loss, loader, measurement, observer, step_fn, precision, accumulate, device, window
    ):
        losses, counts = full.losses, full.counts
        if observer is not None:
            observer.before_update()
        if is_skipping and precision.scaler is None and not _are_finite(losses):
            clear_gradients(optimizer)
            norm, is_applied = None, False
        else:
            norm, is_applied = optimizer_step(
                optimizer,
                max_norm=max_norm,
                max_value=max_value,
                average=average,
                scaler=precision.scaler,
                grad_factor=full.grad_factor,
            )
        norms = [] if norm is None else [norm]
        precision.record(is_applied)
        if is_applied:
            measurement.loss.add(losses, counts)
            measurement.grad_norm.add(norms)
        elif is_strict:
            raise NonFiniteError(
                f"the norm of the gradients is {norm}, and the update was left out; look at the "
                "batch and the learning rate, or set nonfinite='skip' to go on without such updates"
            )
        else:
            measurement.skipped += 1
        if observer is not None and observer.after_update(
            Update(losses, counts, full.samples, norms, is_applied, measurement.loss)
        ):
            break
    values = measurement.compute()
    if is_strict and not math.isfinite(values["loss"]):
        raise NonFiniteError(
            f"the mean loss of the epoch is {values['loss']}; look at the data and the learning "
            "rate, or pass nonfinite='skip' to leave out such updates"
        )
    if max_norm is not None or max_value is not None or precision.scaler is not None:
        values["grad_norm"] = measurement.grad_norm.value
        values["skipped_updates"] = measurement.skipped
    return values


def _windows(
    model: nn.Module,
    loss: Loss | None,
    loader: Iterable[Any],
    measurement: Measurement,
    observer: Observer | None,
    step_fn: StepFunction | None,
    precision: Precision,
    accumulate: int | Callable[[], int],
    device: torch.device,
    window: Window | None,
) -> Iterator[Window]:
    """Yield each window once the gradients of its batches have been accumulated."""
    window = _next_window(accumulate) if window is None else window
    for batch in loader:
        if observer is not None:
            observer.before_batch()
        result = training_step(
            model, batch, loss, step_fn=step_fn, window=window, precision=precision, device=device
        )
        measurement.update(result)
        if observer is not None:
            observer.after_batch(result, window)
        if window.is_full:
            yield window
            window = _next_window(accumulate)
    if window.losses:
        yield window


def _next_window(accumulate: int | Callable[[], int]) -> Window:
    batches = accumulate() if callable(accumulate) else accumulate
    if not isinstance(batches, int) or batches < 1:
        raise ValueError(f"accumulate must be a positive int, got {batches!r}")
    return Window(batches)


def _are_finite(losses: list[Tensor]) -> bool:
    return bool((losses[0] if len(losses) == 1 else torch.stack(losses)).isfinite().all())
