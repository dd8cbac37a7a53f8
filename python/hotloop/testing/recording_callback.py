"""Writes down which hooks are called."""

from __future__ import annotations

from collections.abc import Callable

from hotloop.callbacks import Actions, Callback, TrainState

__all__ = ["RecordingCallback"]


class RecordingCallback(Callback):
    """Records every hook of a run, in the order of the calls.

    Args:
        act: Called with each event and its state once it is recorded; what it returns is what
            the hook returns, and what it raises is what the hook raises. None for nothing.

    Attributes:
        events: The hooks as texts "NAME EPOCH:STEP", such as "on_step_end 0:3" after the third
            update; that of `on_exception` ends with the name of the error's class.
        states: What each of them saw.
        errors: The errors that `on_exception` saw.
    """

    def __init__(self, act: Callable[[str, TrainState], Actions] | None = None) -> None:
        self.events: list[str] = []
        self.states: list[TrainState] = []
        self.errors: list[BaseException] = []
        self._act = act

    def on_train_begin(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_train_begin", state)

    def on_epoch_begin(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_epoch_begin", state)

    def on_batch_begin(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_batch_begin", state)

    def on_batch_end(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_batch_end", state)

    def on_step_end(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_step_end", state)

    def on_step_skipped(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_step_skipped", state)

    def on_validation_begin(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_validation_begin", state)

    def on_validation_end(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_validation_end", state)

    def on_epoch_end(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_epoch_end", state)

    def on_exception(self, state: TrainState, error: BaseException) -> None:
        """Record the call and the error; an action has no effect here."""
        self.errors.append(error)
        self._record("on_exception", state, f" {type(error).__name__}")

    def on_train_end(self, state: TrainState) -> Actions:
        """Record the call."""
        return self._record("on_train_end", state)

    def _record(self, hook: str, state: TrainState, suffix: str = "") -> Actions:
        event = f"{hook} {state.epoch}:{state.step}{suffix}"
        self.events.append(event)
        self.states.append(state)
        return None if self._act is None else self._act(event, state)
