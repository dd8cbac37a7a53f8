"""The hooks of a training run and what they see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from hotloop.callbacks.action import Action

__all__ = ["Actions", "Callback", "TrainState"]


class TrainState(NamedTuple):
    """A read-only view of a run.

    Attributes:
        epoch: Index of the current epoch, from 0; at the end of a run the number of epochs
            behind it.
        epochs: Number of epochs of the run; None if steps or time end it.
        batch: Number of batches taken in this epoch.
        step: Number of applied optimizer updates since the run began.
        steps: Number of updates of the whole run; None if unknown.
        steps_per_epoch: Number of updates of an epoch; None if the loader does not tell.
        samples: Number of samples seen since the run began.
        skipped: Number of updates that were left out since the run began.
        loss: Mean loss over the batches of the last update, a scalar tensor on its device;
            None before it.
        grad_norm: 2-norm of the last update's gradients before clipping; None if it was not
            measured.
        window: Values of the logging window that this update closes, by name: the mean
            "loss" over its samples, "lr", "samples_per_second" and, where they are measured,
            "grad_norm" and "skipped_updates"; None between the ends of windows. They have
            been read from the device: nobody has to do that again.
        metrics: The newest values of epochs and validations by name, such as "val_loss".
        stop_reason: Why the run ends; None while it goes on.
        updates: Number of updates of this epoch, those that were left out among them.
    """

    epoch: int = 0
    epochs: int | None = None
    batch: int = 0
    step: int = 0
    steps: int | None = None
    steps_per_epoch: int | None = None
    samples: int = 0
    skipped: int = 0
    loss: Tensor | None = None
    grad_norm: float | None = None
    window: Mapping[str, float] | None = None
    metrics: Mapping[str, float] = MappingProxyType({})
    stop_reason: str | None = None
    updates: int = 0


#: What a hook returns: an action, several, or None.
Actions: TypeAlias = "Action | Iterable[Action] | None"


class Callback:
    """Base of callbacks: override the hooks that matter, the others cost nothing.

    A hook sees a `TrainState` and asks for what it wants by returning it; it changes nothing
    of the run itself.

    Attributes:
        requires: Classes of callbacks of which one must be registered before this one.
        step_cadence: `on_step_end` has something to do at steps that are multiples of this, and
            where a logging window ends; None for there only. A loop in Mojo makes the updates
            between in one call.
    """

    requires: tuple[type[Callback], ...] = ()
    step_cadence: int | None = 1

    @property
    def state_key(self) -> str:
        """The name of this callback's state; two callbacks with state must differ in it."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on; override both or none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""

    def on_train_begin(self, state: TrainState) -> Actions:
        """Run before the first epoch."""

    def on_epoch_begin(self, state: TrainState) -> Actions:
        """Run before the first batch of an epoch."""

    def on_batch_begin(self, state: TrainState) -> Actions:
        """Run before the forward pass of a batch."""

    def on_batch_end(self, state: TrainState) -> Actions:
        """Run after the backward pass of a batch, before the update that it may complete."""

    def on_step_end(self, state: TrainState) -> Actions:
        """Run after an applied update."""

    def on_step_skipped(self, state: TrainState) -> Actions:
        """Run after an update that was left out because something was not finite."""

    def on_validation_begin(self, state: TrainState) -> Actions:
        """Run before a validation."""

    def on_validation_end(self, state: TrainState) -> Actions:
        """Run after a validation, with its values among the metrics."""

    def on_epoch_end(self, state: TrainState) -> Actions:
        """Run after an epoch and its validation, with the epoch's values among the metrics."""

    def on_exception(self, state: TrainState, error: BaseException) -> None:
        """Run when the run fails or is interrupted, before `on_train_end`."""

    def on_train_end(self, state: TrainState) -> Actions:
        """Run once at the end, also of a failed run, for every callback."""
