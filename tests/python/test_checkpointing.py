"""When a trainer saves, what it goes on from, and how it ends at a signal."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hotloop.callbacks import Callback, Checkpointing, EarlyStopping, Save, TrainState
from hotloop.checkpoint import CheckpointManager
from hotloop.config import TrainingConfig
from hotloop.errors import CheckpointError, NonFiniteError
from hotloop.loops import Steps, Trainer
from hotloop.loops.feed import Feed
from hotloop.loops.loaders import First
from hotloop.loops.signals import Signals
from hotloop.testing import (
    CrashAt,
    FakeCheckpoints,
    InjectedError,
    RecordingCallback,
    TinyModel,
    differences,
)
from hotloop.testing.resume import TIMES


def make(
    *callbacks: Callback, batches: int = 4, val_loader: Any = None, **arguments: Any
) -> Trainer:
    """Return a trainer of two epochs, four updates each."""
    names = TrainingConfig.__dataclass_fields__
    settings = {name: arguments.pop(name) for name in list(arguments) if name in names}
    model = TinyModel()
    return Trainer(
        model,
        TrainingConfig(**{"epochs": 2, "progress": False, **settings}),
        arguments.pop("loader", None) or model.batches(batches),
        val_loader,
        callbacks,
        **{"loss": nn.functional.mse_loss, **arguments},
    )


class At(Callback):
    """Does something once, at an event such as "on_step_end 0:3"."""

    def __init__(self, event: str, action: Callable[[], Any]) -> None:
        self._hook, _, self._at = event.partition(" ")
        self._action = action
        self._is_done = False

    def _see(self, hook: str, state: TrainState) -> Any:
        if hook == self._hook and f"{state.epoch}:{state.step}" == self._at and not self._is_done:
            self._is_done = True
            return self._action()
        return None

    def on_batch_end(self, state: TrainState) -> Any:
        return self._see("on_batch_end", state)

    def on_step_end(self, state: TrainState) -> Any:
        return self._see("on_step_end", state)

    def on_validation_begin(self, state: TrainState) -> Any:
        return self._see("on_validation_begin", state)

    def on_epoch_end(self, state: TrainState) -> Any:
        return self._see("on_epoch_end", state)


def steps_of(checkpoints: FakeCheckpoints) -> list[tuple[int, int]]:
    return [(manifest.epoch, manifest.step) for manifest in checkpoints.manifests]


def assert_same(first: Trainer, second: Trainer) -> None:
    assert differences(first.state_dict(), second.state_dict(), ignored=TIMES) == []


# When


@pytest.mark.parametrize(
    ("arguments", "saved"),
    [
        ({}, [(1, 4), (2, 8)]),
        ({"every": None}, [(2, 8)]),
        ({"every": None, "at_end": False}, []),
        ({"every": "3 steps"}, [(0, 3), (1, 6), (2, 8)]),
        ({"every": "4 steps"}, [(0, 4), (1, 8), (2, 8)]),
        ({"every": "0.5 epochs", "at_end": False}, [(0, 2), (0, 4), (1, 6), (1, 8)]),
        ({"every": "2 epochs", "at_end": False}, [(2, 8)]),
    ],
)
def test_when_a_run_is_saved(arguments: dict[str, Any], saved: list[tuple[int, int]]) -> None:
    checkpoints = FakeCheckpoints()
    make(Checkpointing(checkpoints, **arguments)).train()
    assert steps_of(checkpoints) == saved


def test_a_callback_may_ask_for_a_checkpoint() -> None:
    checkpoints = FakeCheckpoints()
    trainer = make(At("on_step_end 1:5", Save), Checkpointing(checkpoints, None, at_end=False))
    trainer.train()
    assert steps_of(checkpoints) == [(1, 5)]


def test_nobody_saves_without_a_place() -> None:
    with pytest.raises(ValueError, match="nowhere to save to and resume from; pass checkpoints="):
        make(At("on_step_end 0:1", Save)).train()
    with pytest.raises(ValueError, match="nowhere to save to"):
        make().save_checkpoint("a")
    with pytest.raises(ValueError, match="nowhere to save to"):
        make(resume="auto")
    with pytest.raises(ValueError, match="nonfinite='rollback' needs checkpoints"):
        make(nonfinite="rollback")
    steps = Steps([1], callbacks=[Checkpointing(FakeCheckpoints())])
    message = r"in place of Checkpointing call CheckpointManager\.save"
    with pytest.raises(TypeError, match=message), steps:
        list(steps)


def test_arguments_of_checkpointing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown on_error 'wran' .*'warn'"):
        Checkpointing(tmp_path, on_error="wran")
    with pytest.raises(ValueError, match="keep_last must be given to the CheckpointManager"):
        Checkpointing(FakeCheckpoints(), keep_last=3)
    with pytest.raises(ValueError, match="a cadence must be"):
        Checkpointing(tmp_path, "daily")


def test_a_directory_is_all_it_takes(tmp_path: Path) -> None:
    whole = make(checkpoints=tmp_path, early_stopping=9, val_loader=TinyModel(3).batches(1))
    whole.train()
    manager = CheckpointManager(tmp_path)
    names = [manifest.name for manifest in manager.checkpoints()]
    assert names == ["step_00000008", "step_00000004"]
    assert manager.checkpoints()[0].metrics == whole.state_dict()["progress"]["metrics"]
    assert manager.checkpoints()[0].config == whole.config.to_dict()
    assert manager.best == tmp_path / "step_00000008"


def test_a_trial_saves_and_resumes_nothing(tmp_path: Path) -> None:
    make(checkpoints=tmp_path / "a", fast_dev_run=2, resume="auto").train()
    assert not (tmp_path / "a").exists()


def test_what_a_save_that_fails_does(caplog: pytest.LogCaptureFixture) -> None:
    error = CheckpointError("no space left")
    checkpoints = FakeCheckpoints(error)
    trainer = make(Checkpointing(checkpoints, 1))
    with pytest.raises(CheckpointError, match="no space left"):
        trainer.train()
    # The run was saved when it failed.
    assert steps_of(checkpoints) == [(0, 1)]
    checkpoints = FakeCheckpoints(None, error)
    with caplog.at_level(logging.WARNING, "hotloop"):
        make(Checkpointing(checkpoints, 2, on_error="warn")).train()
    assert steps_of(checkpoints) == [(0, 2), (1, 6), (1, 8), (2, 8)]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "the run goes on without a checkpoint"
    ]


class _Background(FakeCheckpoints):
    def __init__(self, *failures: CheckpointError | None) -> None:
        super().__init__(*failures)
        self.asked: list[int] = []

    def save_async(self, state: Any, **about: Any) -> None:
        self.asked.append(about["step"])

    def wait(self) -> None:
        super().wait()
        if self.asked == [4, 8]:
            raise CheckpointError("the disk is gone")


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_what_the_background_raises_comes_out_at_the_end(
    on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = _Background()
    trainer = make(Checkpointing(checkpoints, is_async=True, on_error=on_error))
    if on_error == "raise":
        with pytest.raises(CheckpointError, match="the disk is gone"):
            trainer.train()
    else:
        trainer.train()
        assert "the last checkpoint was not saved" in caplog.messages
    assert checkpoints.asked == [4, 8]
    assert steps_of(checkpoints) == []


class _Failing(FakeCheckpoints):
    """Fails in the background after the first save."""

    def check(self) -> None:
        if len(self.states) == 1:
            raise CheckpointError("the disk is gone")


def test_what_the_background_raises_comes_out_at_the_next_step() -> None:
    trainer = make(Checkpointing(_Failing(), 2, is_async=True, on_exception=False))
    with pytest.raises(CheckpointError, match="the disk is gone"):
        trainer.train()
    assert trainer.state_dict()["progress"]["step"] == 3


# From where


def test_a_named_checkpoint_is_pinned_and_loaded(tmp_path: Path) -> None:
    trainer = make(Checkpointing(tmp_path, None, at_end=False))
    saved = trainer.save_checkpoint("before", is_best=True)
    assert saved == tmp_path / "before"
    before = [param.clone() for param in trainer.model.parameters()]
    trainer.train()
    manifest = CheckpointManager(tmp_path).checkpoints()[0]
    assert (manifest.is_pinned, manifest.is_best, manifest.step) == (True, True, 0)
    for source in (saved, "before", "latest", "best"):
        other = make(Checkpointing(tmp_path))
        other.load_checkpoint(source)
        assert all(a.equal(b) for a, b in zip(other.model.parameters(), before))
    without = make(resume=saved)
    assert all(a.equal(b) for a, b in zip(without.model.parameters(), before))


def test_resume_begins_anew_where_there_is_nothing(tmp_path: Path) -> None:
    first, second = make(), make(checkpoints=tmp_path, resume="auto")
    first.train()
    second.train()
    assert all(a.equal(b) for a, b in zip(first.model.parameters(), second.model.parameters()))


def test_a_finished_run_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = make(checkpoints=tmp_path, resume="auto")
    whole.train()
    again = make(checkpoints=tmp_path, resume="auto")
    weights = [param.clone() for param in again.model.parameters()]
    history = again.train()
    assert caplog.messages == [
        "the run is finished, at epoch 2 and step 8: there is nothing to train"
    ]
    assert history["train_loss"] == whole.history["train_loss"]
    assert all(a.equal(b) for a, b in zip(again.model.parameters(), weights))
    with pytest.raises(ValueError, match="the run is over, at epoch 2 and step 8"):
        again.train()
    longer = make(checkpoints=tmp_path, resume="auto", epochs=3)
    longer.train()
    assert longer.state_dict()["progress"]["step"] == 12


def test_a_run_that_stopped_early_is_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping("train_loss", target=1e9)

    make(stopping(), checkpoints=tmp_path).train()
    again = make(stopping(), checkpoints=tmp_path, resume="auto")
    again.train()
    assert again.state_dict()["progress"]["step"] == 4
    (message,) = caplog.messages
    assert message.startswith("the run is finished, at epoch 1 and step 4 (train_loss is ")


def test_other_settings_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(checkpoints=tmp_path, accumulate=2).train()
    make(checkpoints=tmp_path, epochs=5, log_every=7, resume="auto")
    assert caplog.messages == [
        "the run goes on from 'step_00000004' with other settings: accumulate was 2 and is 1; "
        "log_every was '50 steps' and is 7"
    ]


def test_another_model_is_refused(tmp_path: Path) -> None:
    make(checkpoints=tmp_path).train()
    model = nn.Linear(1, 1)
    message = r"'step_00000008' is of a run with other parts: (?s:.*)Missing key"
    with pytest.raises(CheckpointError, match=message):
        Trainer(model, train_loader=[1], loss=nn.MSELoss(), resume=tmp_path / "step_00000008")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        make(resume=tmp_path / "step_00000009")


# After a failure


@pytest.mark.parametrize("hook", ["on_batch_end 1:5", "on_step_end 1:6", "on_epoch_end 0:4"])
def test_a_run_that_fails_is_saved_behind_its_last_update(hook: str, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("unplugged")

    trainer = make(At(hook, fail), checkpoints=tmp_path, save_every="100 steps")
    with pytest.raises(OSError, match="unplugged"):
        trainer.train()
    resumed = make(checkpoints=tmp_path, resume="auto")
    assert resumed.state_dict()["progress"]["step"] == int(hook[-1])
    resumed.train()
    whole = make()
    whole.train()
    for one, other in zip(resumed.model.parameters(), whole.model.parameters()):
        assert one.equal(other)


def test_an_epoch_does_not_end_twice(tmp_path: Path) -> None:
    step = {"name": "step", "every": 1, "gamma": 0.5}

    def fail() -> None:
        raise OSError("unplugged")

    def trainer(*callbacks: Callback) -> Trainer:
        return make(
            *callbacks,
            checkpoints=tmp_path,
            resume="auto",
            scheduler=step,
            schedule_unit="epoch",
            epochs=3,
        )

    with pytest.raises(OSError, match="unplugged"):
        trainer(At("on_epoch_end 1:8", fail)).train()
    resumed = trainer()
    recording = RecordingCallback()
    resumed.callbacks.add(recording)
    resumed.train()
    assert recording.events[1:4] == ["on_epoch_begin 1:8", "on_epoch_end 1:8", "on_epoch_begin 2:8"]
    whole = make(checkpoints=tmp_path / "b", scheduler=step, schedule_unit="epoch", epochs=3)
    whole.train()
    assert_same(resumed, whole)


class _Half(torch.optim.SGD):
    """Fails when it has updated some of the parameters."""

    def step(self, closure: Any = None) -> None:
        self.param_groups[0]["params"][0].data.add_(1)
        raise RuntimeError("out of memory")


def test_half_an_update_is_never_saved(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = FakeCheckpoints()
    model = TinyModel()
    trainer = Trainer(
        model,
        TrainingConfig(progress=False),
        model.batches(2),
        callbacks=[Checkpointing(checkpoints)],
        loss=nn.functional.mse_loss,
        optimizer=_Half(model.parameters(), lr=0.1),
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert steps_of(checkpoints) == []
    assert "the run ended inside of an update" in caplog.text


def test_what_is_not_saved_when_a_run_fails() -> None:
    checkpoints = FakeCheckpoints()
    with pytest.raises(InjectedError):
        make(CrashAt(2), Checkpointing(checkpoints, on_exception=False)).train()
    with pytest.raises(NonFiniteError):
        make(Checkpointing(checkpoints, 9), loader=_Poisoned(2), clip_norm=1.0).train()
    assert steps_of(checkpoints) == []


# Signals


def ends(trainer: Trainer) -> int | str | None:
    """Train, and return the status that the process would end with."""
    try:
        trainer.train()
    except SystemExit as error:
        return error.code
    except KeyboardInterrupt:
        return 130
    return None


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_ends_the_run(number: int, status: int) -> None:
    before = signal.getsignal(number)
    checkpoints = FakeCheckpoints()
    recording = RecordingCallback()
    saving = Checkpointing(checkpoints, 100)
    sending = At("on_batch_end 0:2", lambda: signal.raise_signal(number))
    assert ends(make(recording, sending, saving)) == status
    assert steps_of(checkpoints) == [(0, 3)]
    error = "KeyboardInterrupt" if status == 130 else "SystemExit"
    assert recording.events[-3:] == [
        "on_step_end 0:3",
        f"on_exception 0:3 {error}",
        "on_train_end 0:3",
    ]
    assert signal.getsignal(number) is before


class _SignalAt(Callback):
    """Sends SIGTERM after one of the batches."""

    def __init__(self, batch: int) -> None:
        self._left = batch

    def on_batch_end(self, state: TrainState) -> None:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGTERM)


def test_signals_end_a_run_between_the_batches_of_an_update() -> None:
    checkpoints = FakeCheckpoints()

    def trainer(*callbacks: Callback) -> Trainer:
        return make(*callbacks, Checkpointing(checkpoints, 100), accumulate=3, batches=7)

    whole = trainer()
    whole.train()
    for batch in range(1, 15):
        checkpoints = FakeCheckpoints()
        assert ends(trainer(_SignalAt(batch))) == 143
        (state,) = checkpoints.states
        assert (state["window"] is not None) == (batch % 7 not in (0, 3, 6) or batch % 7 == 0)
        resumed = trainer()
        resumed.load_checkpoint("latest")
        resumed.train()
        assert_same(resumed, whole)


class _Drawing(nn.Module):
    """A loss that takes random numbers, in validation too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return ((inputs + torch.randn(3)) * self.weight).square().mean()


def test_a_signal_breaks_off_a_validation_which_is_made_again() -> None:
    def trainer(*callbacks: Callback) -> Trainer:
        return Trainer(
            _Drawing(),
            TrainingConfig(epochs=2, progress=False, validate_every="0.5 epochs", seed=3),
            [torch.ones(2, 3)] * 4,
            [torch.ones(2, 3)] * 3,
            callbacks,
        )

    whole = trainer(Checkpointing(FakeCheckpoints(), 100))
    whole.train()
    for event in ("on_validation_begin 0:2", "on_validation_begin 0:4", "on_validation_begin 1:8"):
        checkpoints = FakeCheckpoints()
        recording = RecordingCallback()
        sending = At(event, lambda: signal.raise_signal(signal.SIGTERM))
        assert ends(trainer(recording, sending, Checkpointing(checkpoints, 100))) == 143
        assert event.replace("begin", "end") not in recording.events
        resumed = trainer(Checkpointing(checkpoints, 100))
        resumed.load_checkpoint("latest")
        torch.rand(5)
        resumed.train()
        assert_same(resumed, whole)


@pytest.mark.parametrize("event", ["on_epoch_end 1:8", "on_train_end 2:8"])
def test_a_signal_at_the_end_of_a_run_is_not_lost(event: str, tmp_path: Path) -> None:
    class Sending(Callback):
        def on_epoch_end(self, state: TrainState) -> None:
            self._see("on_epoch_end", state)

        def on_train_end(self, state: TrainState) -> None:
            self._see("on_train_end", state)

        def _see(self, hook: str, state: TrainState) -> None:
            if f"{hook} {state.epoch}:{state.step}" == event:
                signal.raise_signal(signal.SIGTERM)

    assert ends(make(Sending(), checkpoints=tmp_path)) == 143
    again = make(checkpoints=tmp_path, resume="auto")
    again.train()
    assert (again.state_dict()["progress"]["epoch"], len(again.history["train_loss"])) == (2, 2)


def test_the_programs_own_handler_is_called_too() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        sending = At("on_batch_end 0:0", lambda: signal.raise_signal(signal.SIGUSR1))
        assert ends(make(sending, Checkpointing(FakeCheckpoints()))) == 138
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_a_second_signal_ends_at_once() -> None:
    checkpoints = FakeCheckpoints()

    def send() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal did nothing")

    assert ends(make(At("on_batch_end 0:1", send), Checkpointing(checkpoints, 100))) == 130


def test_signals_that_nobody_asked_for_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []
    looking = At("on_batch_end 0:0", lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    make(looking).train()
    make(looking, Checkpointing(FakeCheckpoints(), signals=())).train()
    assert seen == [before]


def test_a_failure_after_a_signal_ends_the_run_and_saves_nothing() -> None:
    def send() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("out of memory")

    checkpoints = FakeCheckpoints()
    assert ends(make(At("on_batch_end 0:2", send), Checkpointing(checkpoints, 100))) == 143
    assert steps_of(checkpoints) == []


class _Mortal(Dataset[Any]):
    """Kills the worker that loads a certain sample, and signals the run before if asked to."""

    def __init__(self, fatal: int | None, has_signal: bool) -> None:
        self._fatal, self._has_signal = fatal, has_signal
        inputs, targets = zip(*TinyModel().batches(8))
        self._samples = list(zip(torch.cat(inputs), torch.cat(targets)))

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        if index == self._fatal:
            if self._has_signal:
                os.kill(os.getppid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGKILL)
        return self._samples[index]


@pytest.mark.parametrize("has_signal", [True, False])
def test_a_run_whose_worker_died_is_saved_as_it_is(has_signal: bool) -> None:
    checkpoints = FakeCheckpoints()

    def trainer(fatal: int | None = None) -> Trainer:
        loader = DataLoader(_Mortal(fatal, has_signal), 2, num_workers=1, prefetch_factor=1)
        return make(Checkpointing(checkpoints, 100), loader=loader, accumulate=3, seed=3)

    whole = trainer()
    whole.train()
    checkpoints = FakeCheckpoints()
    failing = trainer(11)
    if has_signal:
        assert ends(failing) == 143
    else:
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            failing.train()
    (state,) = checkpoints.states
    assert state["progress"]["batch"] in (4, 5)
    resumed = trainer()
    resumed.load_state_dict(state)
    resumed.train()
    assert_same(resumed, whole)


def test_other_threads_note_nothing() -> None:
    import threading

    def work() -> None:
        with Signals([signal.SIGTERM]) as signals:
            seen.append(signal.getsignal(signal.SIGTERM))
            assert list(signals.watch([1, 2])) == [1, 2]

    seen: list[Any] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


# Rollback


def rolling(*callbacks: Callback, **settings: Any) -> Trainer:
    return make(*callbacks, nonfinite="rollback", **settings)


class _Poisoned:
    """Batches of which some have NaN for a target."""

    def __init__(self, *bad: int, batches: int = 6) -> None:
        self._bad = bad
        self._batches = TinyModel().batches(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for index, (inputs, target) in enumerate(self._batches):
            yield inputs, target * float("nan") if index in self._bad else target


def test_a_rollback_goes_on_without_the_bad_batches(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = FakeCheckpoints()
    trainer = rolling(Checkpointing(checkpoints, 2), loader=_Poisoned(3), epochs=1)
    trainer.train()
    without = make(loader=[b for i, b in enumerate(TinyModel().batches(6)) if i != 3], epochs=1)
    without.train()
    for one, other in zip(trainer.model.parameters(), without.model.parameters()):
        assert one.equal(other)
    assert trainer.history.latest("train_loss") == without.history.latest("train_loss")
    assert trainer.state_dict()["progress"]["step"] == 5
    assert caplog.messages == [
        "a loss or a gradient is not finite, in batches [3] of epoch 0: the run goes on from "
        "'step_00000002' at step 2 without them"
    ]


def test_a_rollback_leaves_out_all_batches_of_the_update_and_the_next_epoch_has_them() -> None:
    checkpoints = FakeCheckpoints()
    trainer = rolling(Checkpointing(checkpoints, 1), loader=_Poisoned(3), accumulate=2, epochs=1)
    trainer.train()
    # Of 0..5 the updates are (0, 1) and (4, 5).
    assert trainer.state_dict()["progress"]["step"] == 2
    assert trainer.state_dict()["feed"]["left_out"] == [(0, 2), (0, 3)]


def test_rollbacks_are_bounded() -> None:
    checkpoints = FakeCheckpoints()
    trainer = rolling(Checkpointing(checkpoints, 1), loader=_Poisoned(1, 3, 5), max_rollbacks=2)
    with pytest.raises(NonFiniteError, match=r"in batches \[5\] of epoch 0, after 2 rollbacks"):
        trainer.train()
    trainer = rolling(Checkpointing(FakeCheckpoints(), 1), loader=_Poisoned(0))
    with pytest.raises(NonFiniteError, match="there is no checkpoint to roll back to"):
        trainer.train()


# The feed


class _Stateful:
    """A loader that knows where it is."""

    def __init__(self) -> None:
        self._next = 0

    def __iter__(self) -> Iterator[Any]:
        start, self._next = self._next, 0
        for index in range(start, 4):
            self._next = index + 1
            yield TinyModel().batches(4)[index]
        self._next = 0

    def __len__(self) -> int:
        return 4

    def state_dict(self) -> dict[str, int]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._next = state["next"]


def test_a_loader_with_a_state_goes_on_by_itself() -> None:
    checkpoints = FakeCheckpoints()
    whole = make(Checkpointing(checkpoints, 1), loader=_Stateful())
    whole.train()
    assert [state["feed"]["loader"] for state in checkpoints.states[:4]] == [
        {"next": 1},
        {"next": 2},
        {"next": 3},
        {"next": 4},
    ]
    for state in checkpoints.states[:-1]:
        resumed = make(Checkpointing(FakeCheckpoints()), loader=_Stateful())
        resumed.load_state_dict(state)
        resumed.train()
        assert_same(resumed, whole)
    with pytest.raises(ValueError, match="a loader with a state_dict and this one has none"):
        make().load_state_dict(checkpoints.states[0])


class _Told(Dataset[Any]):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return TinyModel().batches(1)[0][0][0], torch.ones(1)


def test_samplers_and_datasets_are_told_the_epoch() -> None:
    data = _Told()
    loader = DataLoader(data, 1)
    feed = Feed(loader)
    feed.batches(5, 0, lambda: None)
    assert data.epochs == [5]


def test_the_limit_of_a_loader_counts_from_the_first_batch() -> None:
    feed = Feed(First(DataLoader(TensorDataset(torch.arange(10.0))), 5))
    assert len(list(feed.batches(0, 0, lambda: None))) == 5
    rest = [float(batch[0]) for batch in feed.batches(0, 3, lambda: None)]
    assert rest == [3.0, 4.0]
