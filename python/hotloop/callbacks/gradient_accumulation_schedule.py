"""Changes the number of batches of an update from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping

from hotloop.callbacks.action import Accumulate
from hotloop.callbacks.callback import Callback, TrainState

__all__ = ["GradientAccumulationSchedule"]


class GradientAccumulationSchedule(Callback):
    """Sets from which epoch on how many batches make one update.

    The number of updates that a trainer works out in advance, for `TrainState.steps` and for
    schedules with open lengths, is that of its config's `accumulate`.

    Args:
        batches: Batches of an update by the epoch, from 0, at whose begin they become so. Up
            to the first of these epochs an update has 1 batch.

    Raises:
        ValueError: If the mapping is empty, an epoch is no int of at least 0, or a number of
            batches is no positive int.
    """

    def __init__(self, batches: Mapping[int, int]) -> None:
        if not batches:
            raise ValueError("batches must have an entry, such as {0: 1, 4: 8}, got none")
        for epoch, count in batches.items():
            if not _is_int(epoch) or epoch < 0:
                raise ValueError(
                    f"the keys of batches must be epochs, ints of at least 0, got {epoch!r}"
                )
            if not _is_int(count) or count < 1:
                raise ValueError(
                    f"the values of batches must be positive ints, got {count!r} for epoch {epoch}"
                )
        self._batches = sorted({0: 1, **batches}.items())

    def on_train_begin(self, state: TrainState) -> Accumulate:
        """Ask for the number of the epoch that the run begins or goes on in."""
        return self._of(state.epoch)

    def on_epoch_begin(self, state: TrainState) -> Accumulate:
        """Ask for the number of the epoch."""
        return self._of(state.epoch)

    def _of(self, epoch: int) -> Accumulate:
        return Accumulate([count for first, count in self._batches if first <= epoch][-1])


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
