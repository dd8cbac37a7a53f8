"""Writes what a run measures to trackers and to the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from hotloop.callbacks.callback import Callback, TrainState
from hotloop.callbacks.rank import is_first_rank
from hotloop.monitoring import Outbox, Tracker

__all__ = ["LogMetrics"]


class LogMetrics(Callback):
    """Sends logging windows, epochs and validations to trackers and to a logger.

    The loop has read the values from the device already, once for each window.

    Args:
        trackers: Where rank 0 writes; started with the run and finished with it, each in an
            `Outbox`, so that none can stop or delay the run.
        logger: Also gets a line for each of them, at level INFO, on every rank.
        config: The settings of the run, for the trackers.
        run_id: The name of the run, for the trackers.
    """

    step_cadence = None

    def __init__(
        self,
        trackers: Iterable[Tracker] = (),
        *,
        logger: logging.Logger | None = None,
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        self._trackers = tuple(
            tracker if isinstance(tracker, Outbox) else Outbox(tracker) for tracker in trackers
        )
        self._logger = logger
        self._config = dict(config or {})
        self._run_id = run_id
        self._status = "finished"
        self._started: list[Outbox] = []
        self._last = 0

    def on_train_begin(self, state: TrainState) -> None:
        """Start the trackers."""
        self._status = "finished"
        self._last = 0
        for tracker in self._trackers if is_first_rank() else ():
            tracker.start(self._config, self._run_id)
            self._started.append(tracker)

    def on_step_end(self, state: TrainState) -> None:
        """Write the logging window, if one ends here."""
        if state.window is not None:
            self._write(state.window, state.step)

    def on_validation_end(self, state: TrainState) -> None:
        """Write the values of the validation."""
        values = {name: v for name, v in state.metrics.items() if name.startswith("val_")}
        self._write(values, state.step)

    def on_epoch_end(self, state: TrainState) -> None:
        """Write the values of the epoch, but for those of its validation."""
        values = {name: v for name, v in state.metrics.items() if not name.startswith("val_")}
        self._write({"epoch": state.epoch + 1, **values}, state.step)

    def on_exception(self, state: TrainState, error: BaseException) -> None:
        """Remember how the run ended."""
        is_interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        self._status = "interrupted" if is_interrupted else "failed"

    def on_train_end(self, state: TrainState) -> None:
        """Finish the trackers that were started."""
        if self._status == "finished" and state.stop_reason is not None:
            self._status = "stopped"
        while self._started:
            self._started.pop(0).finish(self._status)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        if step < self._last:
            return  # The run went back to a checkpoint; trackers have this step already.
        self._last = step
        for tracker in self._started:
            tracker.log(values, step)
        if self._logger is not None:
            text = " ".join(f"{name}={value:.6g}" for name, value in values.items())
            self._logger.info("step %d %s", step, text)
