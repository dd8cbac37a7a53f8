"""When something that has a cadence is due."""

from __future__ import annotations

import math
from collections.abc import Callable

from hotloop.config import Cadence

__all__ = ["Pace"]


class Pace:
    """Tells after updates and epochs whether it is time.

    Args:
        cadence: How often; None for never.
        steps_per_epoch: Updates of an epoch; None if unknown.
        clock: Returns seconds.

    Raises:
        ValueError: If the cadence is a fraction of an epoch of unknown length.
    """

    def __init__(
        self,
        cadence: Cadence | str | int | None,
        steps_per_epoch: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._last = clock()
        self._seconds = math.inf
        #: Updates of an epoch between two times, counted anew in each epoch.
        self._updates: int | None = None
        self._steps: int | None = None
        self._epochs: int | None = None
        if cadence is None:
            return
        cadence = Cadence.parse(cadence)
        if cadence.unit == "steps":
            self._steps = int(cadence.amount)
        elif cadence.unit == "epochs" and cadence.amount >= 1:
            self._epochs = int(cadence.amount)
        elif cadence.unit == "epochs":
            if steps_per_epoch is None:
                raise ValueError(
                    f"'{cadence}' needs the length of an epoch, and the loader does not tell it; "
                    "use steps or minutes"
                )
            self._updates = max(1, round(cadence.amount * steps_per_epoch))
        elif cadence.seconds is not None:
            self._seconds = cadence.seconds

    @property
    def is_of_updates(self) -> bool:
        """Whether it may be due after an update, and not only after an epoch."""
        return self._steps is not None or self._updates is not None or self._seconds < math.inf

    def is_due(self, step: int, update: int) -> bool:
        """Tell whether it is time after an applied update.

        Args:
            step: Updates since the run began.
            update: Updates since the epoch began.
        """
        if self._steps is not None:
            return step % self._steps == 0
        if self._updates is not None:
            return update % self._updates == 0
        if self._seconds < math.inf:
            now = self._clock()
            if now - self._last >= self._seconds:
                self._last = now
                return True
        return False

    def updates_left(self, step: int, update: int) -> float:
        """Return how many updates there are up to the next that it may be due after.

        Args:
            step: Updates since the run began.
            update: Updates since the epoch began.

        Returns:
            At least 1; infinity if none is known, as of a cadence in seconds.
        """
        if self._steps is not None:
            return self._steps - step % self._steps
        if self._updates is not None:
            return self._updates - update % self._updates
        return math.inf

    def is_due_after_epoch(self, epoch: int) -> bool:
        """Tell whether it is time after an epoch.

        Args:
            epoch: Its index, from 0.
        """
        return self._epochs is not None and (epoch + 1) % self._epochs == 0
