"""When a run saves checkpoints."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hotloop.callbacks.action import Action, Save
from hotloop.callbacks.callback import Callback, TrainState
from hotloop.callbacks.pace import Pace
from hotloop.checkpoint import CheckpointManager
from hotloop.config import Cadence
from hotloop.errors import CheckpointError, NonFiniteError, OverflowStreakError, unknown_name

__all__ = ["Checkpointing"]

_LOGGER = logging.getLogger("hotloop")

#: SIGUSR1 is what schedulers of clusters send before they end a job; Windows has none.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)


class Checkpointing(Callback):
    """Says when a `Trainer` saves checkpoints; a `CheckpointManager` says where and which stay.

    At a signal the trainer saves at the next batch, calls the callbacks and ends the run: with
    KeyboardInterrupt after SIGINT, and else with SystemExit, whose status is 128 plus the
    signal's number. A validation is broken off for that, and made again by the run that goes
    on. A second signal ends the process at once.

    When something fails, the trainer saves where the last update left it, unless the update
    itself failed or a value was not finite: then the weights may be damaged.

    Args:
        checkpoints: A directory, or a manager.
        every: Cadence, as in `TrainingConfig`; None to save only at the end.
        at_end: Whether to save at the end of the run.
        on_exception: Whether to save when something fails.
        signals: The signals to save and end at.
        is_async: Whether files are written in a thread, while training goes on.
        on_error: What a save that fails does: "raise", or "warn", which goes on.
        clock: Returns seconds.
        **retention: Further arguments of the manager, if a directory is given.

    Attributes:
        manager: The manager.

    Raises:
        ValueError: If an argument is out of its range, or a manager comes with arguments of
            its own.
    """

    def __init__(
        self,
        checkpoints: str | Path | CheckpointManager,
        every: str | int | Cadence | None = "1 epoch",
        *,
        at_end: bool = True,
        on_exception: bool = True,
        signals: Iterable[int] = _SIGNALS,
        is_async: bool = False,
        on_error: str = "raise",
        clock: Callable[[], float] = time.monotonic,
        **retention: Any,
    ) -> None:
        if on_error not in ("raise", "warn"):
            raise ValueError(unknown_name("on_error", str(on_error), ("raise", "warn")))
        if isinstance(checkpoints, CheckpointManager):
            if retention:
                raise ValueError(
                    f"{', '.join(sorted(retention))} must be given to the CheckpointManager itself"
                )
            self.manager = checkpoints
        else:
            self.manager = CheckpointManager(checkpoints, **retention)
        self.signals = tuple(signals)
        self.is_async = is_async
        self.on_error = on_error
        self._every = None if every is None else Cadence.parse(every)
        self._at_end = at_end
        self._on_exception = on_exception
        self._clock = clock
        self._pace = Pace(None, None, clock)
        self._has_failed = False

    def saves_after(self, error: BaseException) -> bool:
        """Tell whether the run is to be saved after an error outside of an update.

        KeyboardInterrupt and its like may come from anywhere.
        """
        is_damaging = isinstance(error, (NonFiniteError, OverflowStreakError))
        return self._on_exception and isinstance(error, Exception) and not is_damaging

    @property
    def step_cadence(self) -> int | None:  # type: ignore[override]
        """The steps between two saves; 1 for a part of an epoch, None if it is none of these."""
        if self._every is None or not self._pace.is_of_updates or self._every.seconds is not None:
            return None
        return int(self._every.amount) if self._every.unit == "steps" else 1

    def on_train_begin(self, state: TrainState) -> None:
        """Begin to count."""
        self._has_failed = False
        self._pace = Pace(self._every, state.steps_per_epoch, self._clock)

    def on_step_end(self, state: TrainState) -> Action | None:
        """Save, if it is time, and tell of a save in the background that has failed."""
        try:
            self.manager.check()
        except CheckpointError:
            if self.on_error == "raise":
                raise
            _LOGGER.warning("the run goes on without a checkpoint", exc_info=True)
        return Save() if self._pace.is_due(state.step, state.updates) else None

    def on_epoch_end(self, state: TrainState) -> Action | None:
        """Save, if it is time."""
        return Save() if self._pace.is_due_after_epoch(state.epoch) else None

    def on_exception(self, state: TrainState, error: BaseException) -> None:
        """Remember that the run has failed, and was saved then or not."""
        self._has_failed = True

    def on_train_end(self, state: TrainState) -> Action | None:
        """Save the end of the run."""
        return Save() if self._at_end and not self._has_failed else None
