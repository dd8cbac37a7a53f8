"""Runs that are stopped and go on where they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from hotloop.callbacks import Checkpointing, EarlyStopping, Stop
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.monitoring import JsonlTracker
from hotloop.testing import FakeCheckpoints, RecordingCallback, TinyModel, assert_resume_exact


def make(batches: int = 3, val_loader: Any = None, **arguments: Any) -> Trainer:
    names = TrainingConfig.__dataclass_fields__
    settings = {name: arguments.pop(name) for name in list(arguments) if name in names}
    model = TinyModel()
    return Trainer(
        model,
        TrainingConfig(**{"epochs": 2, "progress": False, **settings}),
        model.batches(batches),
        val_loader,
        loss=nn.functional.mse_loss,
        **arguments,
    )


def test_a_run_goes_on_behind_the_batches_before_a_stop() -> None:
    def act(event: str, state: Any) -> Stop | None:
        return Stop("pause") if event == "on_step_end 0:1" else None

    trainer = make(epochs=1, callbacks=[RecordingCallback(act)])
    trainer.train()
    trainer.train()
    assert trainer.state_dict()["progress"]["step"] == 3


def test_a_run_goes_on_from_a_save_after_the_last_update_of_an_epoch() -> None:
    checkpoints = FakeCheckpoints()
    make(callbacks=[Checkpointing(checkpoints, 3)]).train()
    trainer = make(callbacks=[Checkpointing(FakeCheckpoints())])
    trainer.load_state_dict(checkpoints.states[0])
    trainer.train()
    assert trainer.state_dict()["progress"]["step"] == 6


class _FailsOnce:
    def __init__(self) -> None:
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        self._passes += 1
        if self._passes == 1:
            raise OSError("unplugged")
        return iter(TinyModel().batches(1))


def test_a_run_goes_on_after_a_validation_that_failed() -> None:
    trainer = make(val_loader=_FailsOnce())
    with pytest.raises(OSError, match="unplugged"):
        trainer.train()
    trainer.train()
    assert trainer.state_dict()["progress"]["step"] == 6


def test_a_cadence_of_a_fraction_of_an_epoch_is_resumed() -> None:
    def make_trainer() -> Trainer:
        return make(4, TinyModel().batches(1), validate_every="0.5 epochs")

    assert_resume_exact(make_trainer, 1)


def test_the_best_weights_of_before_are_restored_by_a_resumed_run() -> None:
    def make_trainer() -> Trainer:
        stopping = EarlyStopping(patience=9, restore_best=True)
        # So large a rate that the first epoch stays the best one.
        return make(
            val_loader=TinyModel(3).batches(1), epochs=3, learning_rate=3.0, callbacks=[stopping]
        )

    assert_resume_exact(make_trainer, 6)


def test_the_means_of_an_epoch_and_a_window_are_resumed() -> None:
    assert_resume_exact(lambda: make(4, log_every="2 steps"), 3)


def test_a_window_across_the_end_of_an_epoch_has_the_loss_of_all_of_its_updates() -> None:
    single = list(make(log_every="1 steps").train()["loss"])
    window = list(make(log_every="4 steps").train()["loss"])
    assert window == [pytest.approx(sum(single[:4]) / 4), pytest.approx(sum(single[4:]) / 2)]


def test_a_run_goes_on_with_the_batches_of_an_update_that_failed() -> None:
    def act(event: str, state: Any) -> None:
        if event == "on_batch_end 0:0" and len(recording.events) < 5:
            raise OSError("unplugged")

    recording = RecordingCallback(act)
    trainer = make(4, accumulate=2, epochs=1, callbacks=[recording])
    with pytest.raises(OSError, match="unplugged"):
        trainer.train()
    trainer.train()
    whole = make(4, accumulate=2, epochs=1)
    whole.train()
    for resumed, straight in zip(trainer.model.parameters(), whole.model.parameters()):
        assert resumed.equal(straight)


def test_a_resumed_run_goes_on_in_its_trackers_file(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    checkpoints = FakeCheckpoints()

    def run(steps: int, state: dict[str, Any] | None = None) -> None:
        trainer = make(
            epochs=None,
            max_steps=steps,
            callbacks=[Checkpointing(checkpoints, 2)],
            log_every=1,
            trackers=[JsonlTracker(path)],
            run_id="a",
        )
        if state is not None:
            trainer.load_state_dict(state)
        trainer.train()

    run(3)
    run(6, checkpoints.states[0])
    steps = [step for step, values in JsonlTracker.read(path) if "loss" in values]
    assert steps == [1, 2, 3, 4, 5, 6]
