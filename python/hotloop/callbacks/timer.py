"""Measures how long a run takes, and ends it in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from hotloop.callbacks.action import Stop
from hotloop.callbacks.callback import Callback, TrainState
from hotloop.config import Cadence

__all__ = ["Timer"]


class Timer(Callback):
    """Counts the seconds of a run, and ends it when there have been enough.

    The state holds what was counted: a run that goes on from it has only the rest of the time,
    whereas the config's `max_seconds` begins anew with each call of `train`. Time is looked at
    after each update, validation and epoch; what is under way then is completed. On an
    accelerator the seconds of batches are those of issuing the work, unless something waits.

    Args:
        max_seconds: Seconds that end the run, above 0, or a text such as "30 seconds" or
            "10 minutes"; None only measures.
        clock: Returns seconds.

    Attributes:
        seconds: Seconds by what they were spent on: "train" for batches and the updates that
            they complete, "validation", and "total" for everything between the begin and the
            end of the run.

    Raises:
        ValueError: If `max_seconds` is not above 0 and finite, or its text has another unit.
    """

    def __init__(
        self,
        max_seconds: float | str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = {"train": 0.0, "validation": 0.0, "total": 0.0}
        self._limit = math.inf if max_seconds is None else _seconds(max_seconds)
        self._clock = clock
        self._began: float | None = None
        self._marked: float | None = None

    def on_train_begin(self, state: TrainState) -> None:
        """Start the clock."""
        self._began = self._clock()
        self._marked = None

    def on_batch_begin(self, state: TrainState) -> None:
        """Begin to count a batch."""
        self._marked = self._tick()

    def on_batch_end(self, state: TrainState) -> None:
        """Count the batch; an update may follow."""
        self._count("train")

    def on_step_end(self, state: TrainState) -> Stop | None:
        """Count the update, and end the run if it is time."""
        return self._stop_after("train")

    def on_step_skipped(self, state: TrainState) -> Stop | None:
        """Count the update, and end the run if it is time."""
        return self._stop_after("train")

    def on_validation_begin(self, state: TrainState) -> None:
        """Begin to count the validation."""
        self._marked = self._tick()

    def on_validation_end(self, state: TrainState) -> Stop | None:
        """Count the validation, and end the run if it is time."""
        return self._stop_after("validation")

    def on_epoch_end(self, state: TrainState) -> Stop | None:
        """End the run if it is time."""
        self._tick()
        return self._stop()

    def on_train_end(self, state: TrainState) -> None:
        """Stop the clock."""
        self._tick()
        self._began = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds counted up to now."""
        self._tick()
        return {"seconds": dict(self.seconds)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where `state_dict` was taken."""
        self.seconds = dict(state["seconds"])

    def _tick(self) -> float:
        """Count up to now, in all, and return the time."""
        now = self._clock()
        if self._began is not None:
            self.seconds["total"] += now - self._began
            self._began = now
        return now

    def _count(self, what: str) -> None:
        now = self._tick()
        if self._marked is not None:
            self.seconds[what] += now - self._marked
        self._marked = now

    def _stop_after(self, what: str) -> Stop | None:
        self._count(what)
        return self._stop()

    def _stop(self) -> Stop | None:
        total = self.seconds["total"]
        if total < self._limit:
            return None
        return Stop(f"the run has taken {total:.6g} seconds, of at most {self._limit:g}")


def _seconds(limit: float | str) -> float:
    if isinstance(limit, str):
        seconds = Cadence.parse(limit).seconds
        if seconds is None:
            raise ValueError(
                "max_seconds must be a number of seconds or a text such as '30 seconds' or "
                f"'10 minutes', got {limit!r}"
            )
        return seconds
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if not is_number or not 0 < limit < math.inf:
        raise ValueError(f"max_seconds must be above 0 and finite, a text, or None; got {limit!r}")
    return float(limit)
