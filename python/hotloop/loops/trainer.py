"""The trainer: puts a model, its data, an optimizer and callbacks together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from hotloop.callbacks import Action, Callback, Callbacks, TrainState
from hotloop.loops.schedules import AnySchedule, Schedules
from hotloop.loops.training_loop import train_epoch
from hotloop.loops.training_step import Batch, Loss, StepResult
from hotloop.loops.validation_loop import evaluate
from hotloop.metrics import Metric
from hotloop.optimizers import FusedStep, WeightAverage

__all__ = ["History", "Trainer"]


@dataclass
class History:
    """What a run measured.

    Attributes:
        epochs: For each epoch its values by name: "train_loss", "val_loss" and the same
            prefixes for each metric, "seconds", and where gradients are clipped or unscaled
            "train_grad_norm" and "train_skipped_updates".
        stop_reason: Why a callback ended the run; None if it ran to its end.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    stop_reason: str | None = None

    def __getitem__(self, name: str) -> list[float]:
        """Return one value over the epochs."""
        return [values[name] for values in self.epochs]


class Trainer:
    """Trains a model for a number of epochs, validating after each.

    A batch goes through `training_step`, the optimizer and the callbacks, which see a
    `TrainState` and may return a `Stop`.

    Args:
        model: Trained in place, on the device of its parameters.
        optimizer: Any torch optimizer over the model's parameters.
        loss: Maps predictions and targets to the scalar mean over a batch.
        train_loader: Yields batches (inputs, targets), anew for each epoch.
        val_loader: Held-out batches; None to validate nothing.
        epochs: Number of epochs, at least 1.
        metrics: Further metrics by name, measured in training and validation.
        max_norm: The largest 2-norm of all gradients that enters an update; larger ones
            are scaled down, and with one that is not finite the update is left out and
            counted. None for any.
        average: Follows the model's parameters, and takes their place in validation.
        accumulate: Batches whose gradients make one update.
        scaler: Scales the loss; its overflows leave out updates and are counted.
        schedulers: Schedules of the learning rate, schedulers, or torch's. They move once for
            each applied update, or once for each epoch.
        schedule_unit: Which of both, "step" or "epoch", for plain schedules and those of
            torch; a `Scheduler` knows its own. torch's ReduceLROnPlateau moves with each
            epoch and sees "val_loss", or "train_loss" without validation.
        callbacks: Called in this order.

    Raises:
        ValueError: If `epochs` or `accumulate` is not a positive int, or a schedule needs the
            run's length and the loader does not tell its own.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        train_loader: Iterable[Batch],
        val_loader: Iterable[Batch] | None = None,
        *,
        epochs: int,
        metrics: Mapping[str, Metric] | None = None,
        max_norm: float | None = None,
        average: WeightAverage | None = None,
        accumulate: int = 1,
        scaler: GradScaler | None = None,
        schedulers: Iterable[AnySchedule] = (),
        schedule_unit: str = "step",
        callbacks: Iterable[Callback] = (),
    ) -> None:
        for name, count in (("epochs", epochs), ("accumulate", accumulate)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a positive int, got {count!r}")
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.epochs = epochs
        self.metrics = dict(metrics or {})
        self.max_norm = max_norm
        self.average = average
        self.accumulate = accumulate
        self.scaler = scaler
        self._callbacks = Callbacks(callbacks)
        self._stop_reason: str | None = None
        length = len(train_loader) if isinstance(train_loader, Sized) else None
        updates = None if length is None else -(-length // accumulate)
        self.schedules = Schedules(
            optimizer,
            schedulers,
            unit=schedule_unit,
            epochs=epochs,
            updates_per_epoch=updates,
        )
        self._state = TrainState(epoch=0, epochs=epochs, step=0, steps_per_epoch=updates)

    def train(self) -> History:
        """Train, and return what was measured.

        Raises:
            ValueError: If a loader yields no batch.
        """
        history = History()
        self._stop_reason = None
        self._state = replace(self._state, epoch=0, step=0, loss=None, metrics={})
        try:
            self._call("on_train_begin")
            for epoch in range(self.epochs):
                if self._stop_reason is not None:
                    break
                self._state = replace(self._state, epoch=epoch)
                self._call("on_epoch_begin")
                history.epochs.append(self._run_epoch())
                self._state = replace(self._state, metrics=history.epochs[-1])
                self._call("on_epoch_end")
        finally:
            self._callbacks.call("on_train_end", self._state)
        history.stop_reason = self._stop_reason
        return history

    def _run_epoch(self) -> dict[str, float]:
        start = time.perf_counter()
        measured = train_epoch(
            self.model,
            self.optimizer,
            self.loss,
            self.train_loader,
            self.metrics,
            self._after_update,
            accumulate=self.accumulate,
            max_norm=self.max_norm,
            average=self.average,
            scaler=self.scaler,
        )
        values = {f"train_{name}": value for name, value in measured.items()}
        if self.val_loader is not None:
            with nullcontext() if self.average is None else self.average.swap():
                measured = evaluate(self.model, self.loss, self.val_loader, self.metrics)
            values |= {f"val_{name}": value for name, value in measured.items()}
        self.schedules.after_epoch(values)
        return values | {"seconds": time.perf_counter() - start}

    def _after_update(self, result: StepResult, update: FusedStep) -> bool:
        if update.is_applied:
            self.schedules.after_update()
        step = self._state.step + update.is_applied
        self._state = replace(self._state, step=step, loss=result.loss)
        self._call("on_batch_end")
        return self._stop_reason is not None

    def _call(self, hook: str) -> None:
        for action in self._callbacks.call(hook, self._state):
            self._apply(action)

    def _apply(self, action: Action) -> None:
        # The first one to ask is the reason.
        self._stop_reason = self._stop_reason or action.reason
