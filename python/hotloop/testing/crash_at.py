"""Ends a run the hard way."""

from __future__ import annotations

import os

from hotloop.argument import check_count
from hotloop.callbacks import Callback, TrainState

__all__ = ["CrashAt", "InjectedError"]


class InjectedError(RuntimeError):
    """What `CrashAt` raises."""


class CrashAt(Callback):
    """Raises an `InjectedError` after an update, or ends the process there.

    Args:
        step: After how many updates of the run, at least 1.
        exit: Whether to end the process at once, with status 70: no `finally`, no other
            callback and no buffer has its turn.

    Raises:
        ValueError: If `step` is no positive int.
    """

    def __init__(self, step: int, exit: bool = False) -> None:
        check_count("step", step)
        self._step = step
        self._exit = exit

    def on_step_end(self, state: TrainState) -> None:
        """Crash, if it is time."""
        if state.step == self._step:
            if self._exit:
                os._exit(70)
            raise InjectedError(f"injected after {self._step} updates")
