"""The state of a run: counts, hooks, actions and what ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from hotloop.callbacks import Action, Callbacks, Stop, TrainState
from hotloop.callbacks.pace import Pace
from hotloop.errors import NonFiniteError
from hotloop.loops.history import History
from hotloop.loops.measurement import NumberMean
from hotloop.loops.training_loop import Update

__all__ = ["Run"]

_COUNTS = ("epoch", "batch", "behind", "updates", "step", "samples", "skipped", "is_ending")


class Run:
    """Counts what a loop does, calls hooks, and knows when to end.

    Args:
        callbacks: Whose hooks.
        optimizers: Whose learning rates the hooks see.
        apply: Applies an action other than `Stop`.
        epochs: Length of the run in epochs; None for no limit.
        max_steps: Length of the run in updates; None for no limit.
        max_seconds: Length of the run in seconds; None for no limit.
        steps_per_epoch: Updates of an epoch; None if unknown.
        batches_per_epoch: Batches of an epoch; None if unknown.
        log_every: Cadence of logging windows.
        is_strict: Whether a loss that is not finite raises at the end of a window.
        clock: Returns seconds.

    Raises:
        ValueError: If the cadence counts epochs of unknown length.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        optimizers: tuple[Optimizer, ...],
        apply: Callable[[Action], None],
        *,
        epochs: int | None,
        max_steps: int | None,
        max_seconds: float | None,
        steps_per_epoch: int | None,
        batches_per_epoch: int | None,
        log_every: str | int,
        is_strict: bool,
        clock: Callable[[], float],
    ) -> None:
        self.callbacks = callbacks
        self.history = History()
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.steps = max_steps
        if epochs is not None and steps_per_epoch is not None:
            total = epochs * steps_per_epoch
            self.steps = total if max_steps is None else min(total, max_steps)
        self.epoch = self.batch = self.step = self.samples = self.skipped = 0
        #: Updates of the epoch, and the batches that they took.
        self.updates = self.behind = 0
        #: Whether the epoch has had all its batches and updates, and only its last hook is left.
        self.is_ending = False
        self.metrics: dict[str, float] = {}
        self._optimizers = optimizers
        self._apply = apply
        self._max_epochs = math.inf if epochs is None else epochs
        self._max_steps = math.inf if max_steps is None else max_steps
        self._max_seconds = max_seconds
        self._batches_per_epoch = batches_per_epoch
        self.clock = clock
        self._began = clock()
        self._log_every = log_every
        self._log = Pace(log_every, steps_per_epoch, clock)
        if batches_per_epoch is None and not self._log.is_of_updates:
            raise ValueError(
                f"log_every={log_every!r} needs the length of an epoch, and the loader does not "
                "tell it; use steps or minutes"
            )
        self._is_strict = is_strict
        self._update: Update | None = None
        self._window: dict[str, float] | None = None
        self._window_began = (self._began, 0, 0)
        self._grad_norms = NumberMean()

    @property
    def is_complete(self) -> bool:
        """Whether the run has had all its updates or epochs."""
        return self.step >= self._max_steps or self.epoch >= self._max_epochs

    @property
    def is_over(self) -> bool:
        """Whether no further update is to be made."""
        return (
            self.history.stop_reason is not None
            or self.is_complete
            or (self._max_seconds is not None and self.clock() - self._began >= self._max_seconds)
        )

    def state(self) -> TrainState:
        """Return what hooks see."""
        update = self._update
        return TrainState(
            self.epoch,
            self.epochs,
            self.batch,
            self.step,
            self.steps,
            self.steps_per_epoch,
            self.samples,
            self.skipped,
            None if update is None else update.loss,
            None if update is None else update.grad_norm,
            self._window,
            self.metrics,
            self.history.stop_reason,
            self.updates,
        )

    def call(self, hook: str) -> None:
        """Call a hook, and apply what the callbacks ask for."""
        if self.callbacks.hooks[hook]:
            for action in self.callbacks.call(hook, self.state()):
                self.apply(action)

    def apply(self, action: Action) -> None:
        """Apply an action; of several reasons to stop the first one counts."""
        if isinstance(action, Stop):
            self.history.stop_reason = self.history.stop_reason or action.reason
        else:
            self._apply(action)

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self.epoch += 1
        self.batch = self.updates = self.behind = 0
        self.is_ending = False

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and what the logging window has so far."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "metrics": dict(self.metrics),
            "stop_reason": self.history.stop_reason,
            "grad_norms": [self._grad_norms.sum, self._grad_norms.count],
            "window_skipped": self._window_began[2],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name in _COUNTS:
            setattr(self, name, state[name])
        self.metrics = dict(state["metrics"])
        self.history.stop_reason = state["stop_reason"]
        self._grad_norms.sum, self._grad_norms.count = state["grad_norms"]
        self._window_began = (self.clock(), self.samples, state["window_skipped"])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Call what belongs to the begin and the end of a run around a `with` block."""
        self._began = self.clock()
        self._log = Pace(self._log_every, self.steps_per_epoch, self.clock)
        self._window_began = (self._began, self.samples, self._window_began[2])
        self.history.stop_reason = None
        error: BaseException | None = None
        try:
            self.call("on_train_begin")
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            for action in self.callbacks.finish(self.state(), error):
                if not isinstance(action, Stop):
                    self._apply(action)

    def count(self, update: Update) -> None:
        """Count an update.

        Args:
            update: What it gave.
        """
        self._update = update
        self.samples += update.samples
        self.updates += update.updates
        self.behind = self.batch
        if not update.is_applied:
            self.skipped += 1
            return
        self.step += update.updates
        self._grad_norms.add(update.grad_norms)

    @property
    def updates_left(self) -> float:
        """How many updates there are up to the end of the run or of a logging window."""
        return min(self._max_steps - self.step, self._log.updates_left(self.step, self.updates))

    def report(self, update: Update) -> None:
        """Log the update that was counted, if it is time, and call its hook.

        Args:
            update: What it gave.

        Raises:
            NonFiniteError: If the mean loss of a window is not finite and the run is strict.
        """
        if not update.is_applied:
            self.call("on_step_skipped")
            return
        # The last window of a run may be a short one.
        is_due = self._log.is_due(self.step, self.updates) or self.step == self.steps
        if self.batch == self._batches_per_epoch:
            is_due |= self._log.is_due_after_epoch(self.epoch)
        if is_due:
            self._window = self._read_window(update)
            self.history.update(self._window, self.step)
            self.call("on_step_end")
            self._window = None
        elif self.callbacks.hooks["on_step_end"]:
            self.call("on_step_end")

    def _read_window(self, update: Update) -> dict[str, float]:
        loss = None if update.running is None else update.running.window()
        if self._is_strict and loss is not None and not math.isfinite(loss):
            raise NonFiniteError(
                f"the mean loss of the updates up to step {self.step} is {loss}; look at the data "
                "and the learning rate, or set nonfinite='skip' to leave out such updates"
            )
        now = self.clock()
        began, samples, skipped = self._window_began
        self._window_began = (now, self.samples, self.skipped)
        values = {} if loss is None else {"loss": loss}
        rates = [
            float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups
        ]
        if len(rates) == 1:
            values["lr"] = rates[0]
        else:
            values |= {f"lr/{index}": rate for index, rate in enumerate(rates)}
        if now > began:
            values["samples_per_second"] = (self.samples - samples) / (now - began)
        if self._grad_norms.count:
            values["grad_norm"] = self._grad_norms.value
            self._grad_norms = NumberMean()
        if self.skipped:
            values["skipped_updates"] = self.skipped - skipped
        return values
