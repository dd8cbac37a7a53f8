"""Compares a run with one that was interrupted."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import torch

from hotloop.callbacks import Callback, TrainState
from hotloop.loops import Trainer
from hotloop.testing.difference import differences

__all__ = ["assert_resume_exact"]

TIMES = ("seconds", "samples_per_second")


def assert_resume_exact(
    make_trainer: Callable[[], Trainer], split: int, *, ignored: Iterable[str] = ()
) -> None:
    """Check that a run that is saved and resumed ends as one in one go does.

    One trainer runs to its end, and saves its `state_dict()` with `torch.save` when the update
    `split` and all that belongs to it, such as a validation and the end of its epoch, are
    over. Another one gets the state from `torch.load(weights_only=True)` and runs the rest.
    Then the `state_dict()` of both must be equal bit for bit: parameters, optimizer,
    schedules, precision, average, callbacks, history and counts.

    The state holds the random generators and where the loader is, so that loader, model and
    step function may draw numbers. A generator that is neither global nor the loader's, such as
    `numpy.random.default_rng()` in a dataset, is not put back. Run it on the CPU, in float64
    where there is a choice.

    Args:
        make_trainer: Makes a trainer: the same one each time, which shares no model,
            optimizer, schedule, callback or metric with the others.
        split: After how many updates to save, at least 1 and less than the run has.
        ignored: Names of values that may differ, beside "seconds" and "samples_per_second".

    Raises:
        AssertionError: If the states differ; the text names the places.
        ValueError: If `split` is out of range, or no batch follows that update.
    """
    ignored = (*TIMES, *ignored)
    whole = make_trainer()
    snapshot = _Snapshot(whole, split)
    # Before the others, so that these have seen nothing of what is not in the saved counts.
    others = list(whole.callbacks)
    for callback in others:
        whole.callbacks.remove(callback)
    for callback in (snapshot, *others):
        whole.callbacks.add(callback)
    whole.train()
    if split < 1 or snapshot.saved is None:
        raise ValueError(
            f"split must be at least 1 and less than the {whole.state_dict()['progress']['step']} "
            f"updates of the run, got {split!r}"
        )
    resumed = make_trainer()
    resumed.load_state_dict(torch.load(snapshot.saved, weights_only=True))
    resumed.train()
    found = differences(_state(whole), _state(resumed), ignored=ignored)
    if found:
        raise AssertionError(
            f"a run in one go and one resumed after {split} updates differ:\n" + "\n".join(found)
        )


def _state(trainer: Trainer) -> dict[str, Any]:
    return {**trainer.state_dict(), "stop_reason": trainer.history.stop_reason}


class _Snapshot(Callback):
    """Saves a trainer before the first thing that follows an update."""

    def __init__(self, trainer: Trainer, split: int) -> None:
        self.saved: io.BytesIO | None = None
        self._trainer = trainer
        self._split = split

    def on_epoch_begin(self, state: TrainState) -> None:
        self._save_after(state.step)

    def on_batch_begin(self, state: TrainState) -> None:
        self._save_after(state.step)

    def _save_after(self, step: int) -> None:
        if step == self._split and self.saved is None:
            self.saved = io.BytesIO()
            torch.save(self._trainer.state_dict(), self.saved)
            self.saved.seek(0)
