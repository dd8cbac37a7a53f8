"""The hooks of a training run, what they see and what they may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

__all__ = ["Action", "Callback", "Callbacks", "Stop", "TrainState"]


@dataclass(frozen=True)
class Stop:
    """Asks the loop to end the run after the current update.

    Attributes:
        reason: Why, for the history.
    """

    reason: str


#: What a hook may return; the loop applies actions after all callbacks have run.
Action: TypeAlias = Stop


@dataclass(frozen=True)
class TrainState:
    """A read-only view of a run.

    Attributes:
        epoch: Index of the current epoch, from 0.
        epochs: Number of epochs of the run.
        step: Number of applied optimizer updates since the run began.
        steps_per_epoch: Number of updates of an epoch; None if the loader does not tell.
        loss: Mean loss of the last batch, a scalar tensor on its device; None before it.
        metrics: Values of the last finished epoch by name, such as "val_loss".
    """

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int | None
    loss: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


Hook: TypeAlias = "Callable[[TrainState], Action | None]"


class Callback:
    """Base of callbacks: override the hooks that matter, the others cost nothing."""

    def on_train_begin(self, state: TrainState) -> Action | None:
        """Run before the first epoch."""

    def on_epoch_begin(self, state: TrainState) -> Action | None:
        """Run before the first batch of an epoch."""

    def on_batch_end(self, state: TrainState) -> Action | None:
        """Run after the update on a batch."""

    def on_epoch_end(self, state: TrainState) -> Action | None:
        """Run after an epoch's validation, with the epoch's metrics."""

    def on_train_end(self, state: TrainState) -> Action | None:
        """Run once at the end, also if the run failed; an action has no effect."""


class Callbacks:
    """Calls hooks in the order of registration and collects what they ask for.

    Args:
        callbacks: The callbacks. Hooks that they do not override are never called.
    """

    HOOKS = (
        "on_train_begin",
        "on_epoch_begin",
        "on_batch_end",
        "on_epoch_end",
        "on_train_end",
    )

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        callbacks = tuple(callbacks)
        self._hooks: dict[str, list[Hook]] = {
            name: [
                getattr(callback, name)
                for callback in callbacks
                if getattr(type(callback), name) is not getattr(Callback, name)
            ]
            for name in self.HOOKS
        }

    def call(self, hook: str, state: TrainState) -> list[Action]:
        """Call one hook of every callback.

        Args:
            hook: One of `HOOKS`.
            state: What the hooks see.

        Returns:
            The actions asked for, in the order of the callbacks.
        """
        actions = [call(state) for call in self._hooks[hook]]
        return [action for action in actions if action is not None]
