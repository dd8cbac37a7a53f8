"""The trainer against loops written out by hand, and what it is told in a config."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hotloop.callbacks import (
    Accumulate,
    Callback,
    Checkpointing,
    EarlyStopping,
    LearningRateMonitor,
    ProgressBar,
    Stop,
    TrainState,
    Validate,
)
from hotloop.config import TrainingConfig
from hotloop.errors import NonFiniteError, OverflowStreakError
from hotloop.loops import StepOutput, Trainer, evaluate
from hotloop.losses import LossSum, cross_entropy
from hotloop.metrics import Accuracy
from hotloop.optimizers import SGD, AdamW, WeightAverage
from hotloop.precision import Precision
from hotloop.schedulers import (
    Constant,
    Cosine,
    ReduceOnPlateau,
    Scheduler,
    Step,
    Warmup,
    as_lr_scheduler,
)
from hotloop.testing import FakeCheckpoints, FakeClock, RecordingCallback, differences


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


def make_batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(n, 3), torch.randint(0, 4, (n,))) for n in sizes]


class Recorder(Callback):
    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[str] = []
        self.states: list[TrainState] = []
        self.stop_at = stop_at

    def _record(self, event: str, state: TrainState) -> None:
        self.events.append(f"{event} {state.epoch}:{state.step}")
        self.states.append(state)

    def on_train_begin(self, state: TrainState) -> None:
        self._record("train begin", state)

    def on_epoch_begin(self, state: TrainState) -> None:
        self._record("epoch begin", state)

    def on_step_end(self, state: TrainState) -> Stop | None:
        self._record("step", state)
        return Stop("enough") if state.step == self.stop_at else None

    def on_step_skipped(self, state: TrainState) -> None:
        self._record("skipped", state)

    def on_epoch_end(self, state: TrainState) -> None:
        self._record("epoch end", state)

    def on_train_end(self, state: TrainState) -> None:
        self._record("train end", state)


SETTINGS = {field.name for field in dataclasses.fields(TrainingConfig)}
SETTINGS -= {"optimizer", "scheduler", "precision"}


def make_trainer(**options: Any) -> Trainer:
    model = options.pop("model", None) or make_model()
    settings = {"epochs": 2, "progress": False}
    settings |= {name: options.pop(name) for name in SETTINGS & options.keys()}
    options = {"train_loader": make_batches(5, 5, 2), "loss": nn.CrossEntropyLoss()} | options
    options.setdefault("optimizer", AdamW(model.parameters(), lr=0.01))
    return Trainer(model, TrainingConfig(**settings), **options)


def test_trainer_does_what_a_hand_written_loop_does() -> None:
    batches = make_batches(5, 5, 2)
    trainer = make_trainer()
    torch.manual_seed(2)
    history = trainer.train()

    model = make_model()
    optimizer = AdamW(model.parameters(), lr=0.01)
    losses = []
    torch.manual_seed(2)
    for _ in range(2):
        total = 0.0
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        losses.append(total / 12)
    for ours, theirs in zip(trainer.model.parameters(), model.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert history["train_loss"] == pytest.approx(losses, rel=1e-12)


def test_order_of_events() -> None:
    recorder = Recorder()
    make_trainer(callbacks=[recorder], val_loader=make_batches(4)).train()
    assert recorder.events == [
        "train begin 0:0",
        *("epoch begin 0:0", "step 0:1", "step 0:2", "step 0:3", "epoch end 0:3"),
        *("epoch begin 1:3", "step 1:4", "step 1:5", "step 1:6", "epoch end 1:6"),
        "train end 2:6",
    ]
    assert recorder.states[0].steps_per_epoch == 3
    assert set(recorder.states[-1].metrics) == {"train_loss", "val_loss", "seconds"}


def test_stop_ends_after_the_update_and_validates() -> None:
    recorder = Recorder(stop_at=2)
    history = make_trainer(callbacks=[recorder], val_loader=make_batches(4)).train()
    assert recorder.events[-3:] == ["step 0:2", "epoch end 0:2", "train end 0:2"]
    assert history.stop_reason == "enough"
    assert len(history["val_loss"]) == 1


def test_train_end_runs_after_an_error() -> None:
    recorder = Recorder()
    bad = [(torch.randn(2, 99), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(RuntimeError, match="shapes"):
        make_trainer(train_loader=bad, callbacks=[recorder]).train()
    assert recorder.events[-1] == "train end 0:0"


def test_metrics_in_training_and_validation() -> None:
    history = make_trainer(metrics={"accuracy": Accuracy()}, val_loader=make_batches(3, 3)).train()
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= set(history.names())
    assert all(0 <= value <= 1 for value in history["val_accuracy"])


def test_iterables_without_a_length() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(make_batches(5, 5))

    recorder = Recorder()
    make_trainer(train_loader=Stream(), callbacks=[recorder], epochs=1).train()
    assert recorder.states[0].steps_per_epoch is None
    assert recorder.events[-1] == "train end 1:2"


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_not_finite_is_left_out_and_counted(
    make: Any, max_norm: float | None, accumulate: int
) -> None:
    good, bad = make_batches(5, 5)
    bad[0][0, 0] = float("nan")
    model = nn.Linear(3, 4)
    recorder = Recorder()
    trainer = make_trainer(
        model=model,
        optimizer=make(model.parameters(), lr=0.01),
        train_loader=[good, good, bad, good, good, good],
        epochs=1,
        clip_norm=max_norm,
        nonfinite="skip",
        accumulate=accumulate,
        callbacks=[recorder],
    )
    history = trainer.train()
    assert history["train_skipped_updates"] == [1]
    assert math.isfinite(history["train_loss"][0])
    assert all(param.isfinite().all() for param in model.parameters())
    assert recorder.states[-1].step == 6 // accumulate - 1
    assert recorder.states[-1].skipped == 1
    assert [event for event in recorder.events if "skipped" in event] == [
        f"skipped 0:{2 // accumulate}"
    ]


def test_what_is_not_finite_raises_otherwise() -> None:
    good, bad = make_batches(5, 5)
    bad[0][0, 0] = float("nan")
    model = nn.Linear(3, 4)
    before = model.weight.detach().clone()
    trainer = make_trainer(model=model, train_loader=[bad, good], epochs=1, clip_norm=1.0)
    with pytest.raises(NonFiniteError, match="norm of the gradients is nan"):
        trainer.train()
    torch.testing.assert_close(model.weight, before, rtol=0, atol=0)
    trainer = make_trainer(train_loader=[good, bad, good, good], epochs=1, log_every="2 steps")
    with pytest.raises(NonFiniteError, match="mean loss of the updates up to step 2 is nan"):
        trainer.train()
    stream = iter([good, bad, good])
    trainer = make_trainer(train_loader=stream, epochs=1, val_loader=[good])
    with pytest.raises(NonFiniteError, match="mean loss of the epoch is nan"):
        trainer.train()
    assert "val_loss" not in trainer.history


def test_validation_sees_the_average() -> None:
    model = nn.Linear(3, 4)
    average = WeightAverage(model, 0.9)
    loader = make_batches(5, 5)
    trainer = make_trainer(model=model, epochs=1, average=average, val_loader=loader)
    history = trainer.train()
    averaged, plain = nn.Linear(3, 4), evaluate(model, nn.CrossEntropyLoss(), loader)
    averaged.load_state_dict(average.state_dict()["averages"])
    expected = evaluate(averaged, nn.CrossEntropyLoss(), loader)
    assert history["val_loss"] == [expected["loss"]] != [plain["loss"]]
    (inputs, _), *_ = loader
    torch.testing.assert_close(trainer.predict(loader)[:5], averaged(inputs).detach())


def rates_of(trainer: Trainer) -> list[float]:
    """Return the learning rate that each update of a run used."""
    used: list[float] = []
    group = trainer.optimizer.param_groups[0]
    trainer.optimizer.register_step_pre_hook(lambda *_: used.append(float(group["lr"])))
    trainer.train()
    return used


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_schedules_move_once_for_each_update(make: Any, accumulate: int) -> None:
    schedule = Warmup(2).then(Cosine())

    def schedulers(optimizer: Any, updates: int) -> list[Any]:
        resolved = schedule.resolve(updates)
        return [
            schedule,
            Scheduler(optimizer, resolved),
            as_lr_scheduler(optimizer, resolved),
            torch.optim.lr_scheduler.LambdaLR(optimizer, resolved),
        ]

    updates = 2 * -(-5 // accumulate)
    expected = [0.1 * schedule.resolve(updates)(step) for step in range(updates)]
    for kind in range(4):
        model = make_model()
        optimizer = make(model.parameters(), lr=0.1)
        trainer = make_trainer(
            model=model,
            optimizer=optimizer,
            train_loader=make_batches(5, 5, 4, 5, 2),
            accumulate=accumulate,
            scheduler=schedulers(optimizer, updates)[kind],
        )
        assert rates_of(trainer) == expected


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("way", ["norm", "scaler"])
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_nothing_moves_with_updates_that_are_left_out(make: Any, way: str) -> None:
    model = make_model()
    optimizer = make(model.parameters(), lr=0.1)
    batches = make_batches(5, 5, 5, 5)
    for index in (0, 2):
        batches[index][0][0] = math.inf
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    monitor = LearningRateMonitor(optimizer)
    average = WeightAverage(model, 0.9)
    precision = Precision("fp16", init_scale=8.0) if way == "scaler" else Precision()
    trainer = make_trainer(
        model=model,
        optimizer=optimizer,
        train_loader=batches,
        epochs=1,
        nonfinite="skip" if way == "norm" else "raise",
        precision=precision,
        average=average,
        scheduler=theirs,
        callbacks=[monitor],
    )
    history = trainer.train()
    assert history["train_skipped_updates"] == [2]
    assert theirs.last_epoch == 2
    assert monitor.steps == [0, 1, 2]
    assert [record["lr"] for record in monitor.values] == [0.1, 0.05, 0.025]
    assert average.updates == 2
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}
    if way == "scaler":
        assert precision.overflows == 2
        assert precision.scaler.get_scale() == 2.0


def test_a_streak_of_overflows_is_an_error() -> None:
    (batch,) = make_batches(5)
    batch[0][:] = math.inf
    precision = Precision("fp16", max_overflows=3)
    trainer = make_trainer(train_loader=[batch] * 9, precision=precision)
    with pytest.raises(OverflowStreakError, match="4 updates in a row overflowed"):
        trainer.train()


def test_schedules_of_epochs_and_plateaus() -> None:
    model = make_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = make_trainer(
        model=model,
        optimizer=optimizer,
        train_loader=make_batches(5, 5),
        epochs=4,
        scheduler=Step(2, 0.5),
        schedule_unit="epoch",
    )
    assert rates_of(trainer) == [0.1] * 4 + [0.05] * 4

    class Worse(Accuracy):
        def __init__(self) -> None:
            super().__init__()
            self.computed = 0

        def compute(self) -> float:
            self.computed += 1
            return -self.computed

    for make in (
        lambda o: Scheduler(
            o,
            Constant(),
            plateau=ReduceOnPlateau("train_worse", mode="max", factor=0.5, patience=0),
        ),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
            o, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
        ),
    ):
        optimizer = SGD(model.parameters(), lr=0.1)
        trainer = make_trainer(
            model=model,
            optimizer=optimizer,
            train_loader=make_batches(5),
            epochs=3,
            metrics={"worse": Worse()},
            scheduler=[make(optimizer)],
        )
        assert rates_of(trainer) == [0.1, 0.1, 0.05]


def test_a_plateau_waits_for_validations() -> None:
    trainer = make_trainer()
    plateau = ReduceOnPlateau("val_loss", factor=0.5, patience=0, threshold=10.0)
    trainer = make_trainer(
        model=trainer.model,
        optimizer=trainer.optimizer,
        val_loader=make_batches(4),
        scheduler=Scheduler(trainer.optimizer, Constant(), plateau=plateau),
        epochs=6,
        validate_every="2 epochs",
    )
    assert rates_of(trainer)[::3] == [0.01] * 4 + [0.005] * 2


def test_schedules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="needs the length of the run in steps; set max_st"):
        make_trainer(train_loader=iter(make_batches(5)), scheduler=Cosine())
    with pytest.raises(TypeError, match="schedulers must be Schedule, Scheduler or torch's"):
        make_trainer(scheduler=[3])
    with pytest.raises(ValueError, match="schedule_unit must be 'step' or 'epoch', got 'batch'"):
        make_trainer(schedule_unit="batch")
    trainer = make_trainer()
    plateau = ReduceOnPlateau("val_accuracy")
    scheduler = Scheduler(trainer.optimizer, Constant(), plateau=plateau)
    trainer = make_trainer(model=trainer.model, scheduler=scheduler, val_loader=make_batches(4))
    with pytest.raises(KeyError, match="metric 'val_accuracy' is none of seconds, train_loss, val"):
        trainer.train()


def test_the_config_makes_what_is_not_given() -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(20, 3), torch.randint(0, 4, (20,)))
    config = TrainingConfig(
        epochs=3,
        batch_size=8,
        optimizer="sgd",
        learning_rate=0.1,
        optimizer_options={"momentum": 0.9},
        scheduler={"name": "cosine", "end": 0.1},
        warmup=0.25,
        average_decay=0.9,
        accumulate=2,
        early_stopping=2,
        precision="bf16",
        seed=3,
        progress=True,
    )
    trainer = Trainer(make_model(), config, data, data, loss=nn.CrossEntropyLoss())
    assert isinstance(trainer.optimizer, SGD)
    assert trainer.optimizer.param_groups[0]["momentum"] == 0.9
    assert [type(callback) for callback in trainer.callbacks] == [EarlyStopping, ProgressBar]
    assert trainer.precision.name == "bf16"
    used = rates_of(trainer)
    schedule = Warmup(0.25).then(Cosine(end=0.1)).resolve(6)
    assert used == pytest.approx([0.1 * schedule(step) for step in range(6)])
    assert trainer.average is not None
    assert trainer.average.updates == 6


def test_a_seed_repeats_a_run_and_another_does_not() -> None:
    data = TensorDataset(*make_batches(20)[0])

    def losses(seed: int) -> list[float]:
        config = TrainingConfig(epochs=2, batch_size=4, seed=seed, progress=False)
        return Trainer(make_model(), config, data, loss=nn.CrossEntropyLoss()).train()["train_loss"]

    assert losses(1) == losses(1) != losses(2)


@pytest.mark.parametrize(
    ("cadence", "steps"),
    [
        ("2 steps", [2, 4, 6, 8, 10]),
        (3, [3, 6, 9]),
        ("1 epoch", [5, 10]),
        ("2 epochs", [10]),
        ("0.4 epochs", [2, 4, 7, 9]),
        ("30 seconds", [3, 6, 9]),
        ("0.25 minutes", [2, 4, 6, 8, 10]),
        (None, []),
    ],
)
def test_cadences(cadence: Any, steps: list[int]) -> None:
    seconds = [0.0]

    class Slow(Callback):
        def on_batch_begin(self, state: TrainState) -> None:
            seconds[0] += 10

    checkpoints = FakeCheckpoints()
    saving = Checkpointing(checkpoints, cadence, at_end=False, clock=lambda: seconds[0])
    trainer = make_trainer(
        train_loader=make_batches(*[3] * 5),
        val_loader=make_batches(4),
        validate_every=cadence,
        callbacks=[Slow(), saving],
        clock=lambda: seconds[0],
    )
    history = trainer.train()
    validated = [step for step, _ in history.history("val_loss")] if steps else []
    assert ("val_loss" in history) == bool(steps)
    assert validated == steps
    assert [manifest.step for manifest in checkpoints.manifests] == steps


def test_windows_are_logged_and_read_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    tolist = Tensor.tolist
    for name in ("item", "__float__", "__bool__", "__int__", "numpy"):

        def forbidden(*args: Any, name: str = name) -> None:
            raise AssertionError(name)

        monkeypatch.setattr(Tensor, name, forbidden)
    monkeypatch.setattr(Tensor, "tolist", lambda self: reads.append(1) or tolist(self))
    trainer = make_trainer(
        model=nn.Linear(3, 4),
        train_loader=make_batches(5, 5, 2, 4) * 3,
        epochs=1,
        log_every=4,
        optimizer=None,
    )
    history = trainer.train()
    monkeypatch.undo()
    assert [step for step, _ in history.history("loss")] == [4, 8, 12]
    assert len(reads) == 3
    assert history["lr/0"] == history["lr/1"] == [1e-3] * 3
    weighted = sum(16 * loss for loss in history["loss"]) / 48
    assert history["train_loss"] == [pytest.approx(weighted)]
    assert all(rate > 0 for rate in history["samples_per_second"])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 4}, 4), ({"epochs": 2}, 6), ({"epochs": 2, "max_steps": 4}, 4)],
)
def test_what_comes_first_ends_the_run(settings: dict[str, Any], steps: int) -> None:
    recorder = Recorder()
    trainer = make_trainer(**({"epochs": None} | settings), callbacks=[recorder])
    trainer.train()
    assert recorder.states[-1].step == steps
    assert recorder.events[-2].startswith("epoch end")
    with pytest.raises(ValueError, match=f"the run is over, at epoch . and step {steps}"):
        trainer.train()


def test_time_ends_the_run_after_the_update() -> None:
    seconds = iter(range(1000))
    trainer = make_trainer(epochs=None, max_seconds=30, clock=lambda: float(next(seconds)))
    history = trainer.train()
    assert history.stop_reason is None
    assert 1 <= history.history("train_loss")[-1][0] < 30


def test_without_a_length_there_is_one_epoch() -> None:
    recorder = Recorder()
    make_trainer(epochs=None, callbacks=[recorder]).train()
    assert recorder.events[-1] == "train end 1:3"


def test_a_stopped_run_goes_on_behind_its_batches() -> None:
    model = nn.Linear(3, 4)
    whole = make_trainer(model=copy.deepcopy(model))
    whole.train()
    recorder = Recorder(stop_at=2)
    trainer = make_trainer(model=model, callbacks=[recorder])

    class Failing(Callback):
        def on_step_end(self, state: TrainState) -> None:
            if state.step == 1:
                raise KeyboardInterrupt

    trainer.callbacks.add(Failing())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    assert trainer.history.stop_reason == "enough"
    trainer.train()
    assert trainer.history.stop_reason is None
    assert [event for event in recorder.events if "step" in event] == [
        *("step 0:2", "step 0:3", "step 1:4", "step 1:5", "step 1:6")
    ]
    for a, b in zip(model.parameters(), whole.model.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_several_validation_loaders_have_names() -> None:
    loaders = {"near": make_batches(4), "far": make_batches(3, 3)}
    trainer = make_trainer(val_loader=loaders, metrics={"accuracy": Accuracy()})
    history = trainer.train()
    expected = evaluate(trainer.model, nn.CrossEntropyLoss(), loaders["far"])
    assert history["val_far_loss"][-1] == expected["loss"]
    assert {"val_near_loss", "val_near_accuracy", "val_far_accuracy"} <= set(history.names())


def test_limits_of_batches() -> None:
    seen: list[int] = []

    def step_fn(model: nn.Module, batch: Any) -> Tensor:
        seen.append(len(batch[1]))
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def sizes(**settings: Any) -> list[int]:
        seen.clear()
        trainer = make_trainer(
            loss=None,
            step_fn=step_fn,
            train_loader=make_batches(2, 3, 4, 5),
            val_loader=make_batches(6, 7),
            epochs=settings.pop("epochs", 1),
            **settings,
        )
        trainer.train()
        return list(seen)

    assert sizes() == [2, 3, 4, 5, 6, 7]
    assert sizes(limit_train_batches=2, limit_val_batches=0.5) == [2, 3, 6]
    assert sizes(fast_dev_run=1, epochs=7) == [2, 6]
    assert sizes(overfit_batches=0.5) == [2, 3, 2, 3]
    trainer = make_trainer(limit_train_batches=2, epochs=3)
    assert trainer._run.steps == 6
    with pytest.raises(ValueError, match=r"a fraction of the batches, 0.5, needs their number"):
        make_trainer(train_loader=iter(make_batches(5)), limit_train_batches=0.5)


def test_test_and_predict() -> None:
    trainer = make_trainer(metrics={"accuracy": Accuracy()}, limit_test_batches=2)
    trainer.model.train()
    batches = make_batches(4, 2, 9)
    values = trainer.test(batches)
    expected = evaluate(trainer.model, nn.CrossEntropyLoss(), batches[:2])
    assert values["test_loss"] == expected["loss"]
    assert set(values) == {"test_loss", "test_accuracy"}
    outputs = trainer.predict(batches)
    assert outputs.shape == (6, 4)
    assert not outputs.requires_grad
    assert trainer.model.training
    with pytest.raises(ValueError, match="the loader yields no batch"):
        trainer.predict([])
    with pytest.raises(ValueError, match="validate needs a val_loader"):
        trainer.validate()


def test_actions_are_applied() -> None:
    asked = {1: [Validate()], 2: [Accumulate(2), Stop("done")], 4: None}

    class Asking(Callback):
        def on_step_end(self, state: TrainState) -> Any:
            return asked.get(state.step)

    trainer = make_trainer(val_loader=make_batches(4), callbacks=[Asking()], validate_every=None)
    history = trainer.train()
    assert [step for step, _ in history.history("val_loss")] == [1]
    assert history.stop_reason == "done"
    assert trainer.accumulate == 2


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_best_weights_come_back(decay: float | None) -> None:
    class Judge(Accuracy):
        values = iter([0.5, 0.9, 0.1, 0.2, 0.3])

        def compute(self) -> float:
            return next(self.values) if not torch.is_grad_enabled() else 0.0

    weights: list[Tensor] = []

    class Weights(Callback):
        def on_validation_end(self, state: TrainState) -> None:
            average = trainer.average
            weight = trainer.model.weight
            source = weight if average is None else average.averages[weight]
            weights.append(source.detach().clone())

    stopping = EarlyStopping("val_judge", patience=3, mode="max", restore_best=True)
    trainer = make_trainer(
        model=nn.Linear(3, 4),
        epochs=9,
        average_decay=decay,
        val_loader=make_batches(4),
        metrics={"judge": Judge()},
        callbacks=[stopping, Weights()],
    )
    history = trainer.train()
    assert history["val_judge"] == [0.5, 0.9, 0.1, 0.2, 0.3]
    assert history.stop_reason == ("val_judge has not improved 3 times; the best is 0.9 at step 6")
    assert history.best("val_judge", "max") == (6, 0.9)
    torch.testing.assert_close(trainer.model.weight.detach(), weights[1], rtol=0, atol=0)
    if trainer.average is not None:
        average = trainer.average.averages[trainer.model.weight]
        torch.testing.assert_close(average, weights[1], rtol=0, atol=0)


def test_a_failed_run_keeps_its_last_weights() -> None:
    class Failing(Callback):
        def on_step_end(self, state: TrainState) -> None:
            if state.step == 5:
                weights.append(trainer.model.weight.detach().clone())
                raise KeyboardInterrupt

    weights: list[Tensor] = []
    stopping = EarlyStopping(restore_best=True)
    trainer = make_trainer(
        model=nn.Linear(3, 4), val_loader=make_batches(4), callbacks=[stopping, Failing()]
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    torch.testing.assert_close(trainer.model.weight.detach(), weights[0], rtol=0, atol=0)


def test_a_trainer_goes_on_from_a_state() -> None:
    def make(checkpoints: FakeCheckpoints) -> Trainer:
        model = nn.Linear(3, 4)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        return make_trainer(
            model=model,
            epochs=4,
            accumulate=2,
            train_loader=make_batches(5, 5, 2, 4, 3),
            scheduler=[Cosine(), Scheduler(SGD(model.parameters(), 0.1), Step(2), unit="epoch")],
            average=WeightAverage(model, 0.9),
            val_loader=make_batches(4),
            validate_every=2,
            callbacks=[EarlyStopping(patience=99), Checkpointing(checkpoints, 1, at_end=False)],
        )

    checkpoints = FakeCheckpoints()
    whole = make(checkpoints)
    expected = whole.train()
    states = {each.step: state for each, state in zip(checkpoints.manifests, checkpoints.states)}
    assert sorted(states) == list(range(1, 13))
    final = whole.state_dict()
    for split in range(1, 12):
        second = make(FakeCheckpoints())
        second.load_state_dict(states[split])
        history = second.train()
        state = second.state_dict()
        assert differences(state, final, ignored=("seconds", "samples_per_second")) == []
        assert history["val_loss"] == expected["val_loss"]
    first = whole
    state = first.state_dict()
    with pytest.raises(ValueError, match="must both have an average, or none"):
        make_trainer(model=nn.Linear(3, 4)).load_state_dict(state)
    del state["optimizer"]
    with pytest.raises(ValueError, match="the state does not fit: optimizer missing or unknown"):
        second.load_state_dict(state)


def test_predictions_follow_the_batches() -> None:
    inputs = torch.randn(4, 3)
    plain = make_trainer()
    plain.model.eval()
    expected = plain.model(inputs).detach()
    for batch in (inputs, (inputs, None), [inputs, None]):
        torch.testing.assert_close(plain.predict([batch]), expected)
    own = make_trainer(model=plain.model, loss=None)
    torch.testing.assert_close(own.predict([[inputs]]), expected)

    def step_fn(model: nn.Module, batch: Any) -> StepOutput:
        preds = model(batch[0])
        return StepOutput(preds.mean(), preds)

    stepped = make_trainer(model=plain.model, loss=None, step_fn=step_fn)
    torch.testing.assert_close(stepped.predict([[inputs, None]]), expected)
    stepped.step_fn = lambda model, batch: model(batch[0]).mean()
    with pytest.raises(TypeError, match="predict needs predictions"):
        stepped.predict([[inputs, None]])


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="save_every='1 epoch' needs checkpoints"):
        make_trainer(save_every="1 epoch")
    with pytest.raises(ValueError, match="pass it or loss, not both"):
        make_trainer(step_fn=lambda model, batch: batch)
    with pytest.raises(ValueError, match="early_stopping watches 'val_loss', which needs a val"):
        make_trainer(early_stopping=2)
    with pytest.raises(ValueError, match="train needs a train_loader"):
        make_trainer(train_loader=None).train()
    with pytest.raises(ValueError, match=r"'0.5 epochs' needs the length of an epoch"):
        make_trainer(train_loader=iter([]), val_loader=[1], validate_every="0.5 epochs")


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield from TensorDataset(*make_batches(20)[0])


def test_endless_data_needs_another_end() -> None:
    trainer = make_trainer(train_loader=DataLoader(Endless(), 4), epochs=None, max_steps=7)
    trainer.train()
    assert trainer.history.history("train_loss")[-1][0] == 7


def test_switches_of_torch_are_set_and_restored() -> None:
    class Look(Callback):
        seen: list[bool] = []

        def on_step_end(self, state: TrainState) -> None:
            self.seen.append(torch.are_deterministic_algorithms_enabled())

    make_trainer(deterministic=True, callbacks=[Look()]).train()
    assert set(Look.seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_model_may_compute_its_loss() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            output = self.linear(x)
            return {"loss": output.square().mean(), "output": output}

    batches = [{"x": torch.randn(4, 3), "y": torch.randn(4)} for _ in range(3)]
    trainer = make_trainer(model=Own(), loss=None, train_loader=batches, val_loader=batches)
    history = trainer.train()
    assert history["val_loss"][-1] < history["train_loss"][0]
    assert len(trainer.predict([{"x": torch.randn(4, 3)}])) == 1


def test_own_steps_give_losses_with_counts() -> None:
    def step_fn(model: nn.Module, batch: Any) -> StepOutput:
        inputs, target = batch
        preds = model(inputs)
        loss = nn.functional.cross_entropy(preds, target, reduction="sum")
        return StepOutput(LossSum(loss, len(target)), preds, target)

    losses = [
        make_trainer(model=nn.Linear(3, 4), metrics={"accuracy": Accuracy()}, **options)
        for options in ({}, {"loss": None, "step_fn": step_fn})
    ]
    losses[1].model.load_state_dict(losses[0].model.state_dict())
    first, second = (trainer.train() for trainer in losses)
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-6)
    assert first["train_accuracy"] == second["train_accuracy"]
    with pytest.raises(ValueError, match="metrics need predictions and targets"):
        make_trainer(
            loss=None,
            step_fn=lambda model, batch: model(batch[0]).mean(),
            metrics={"accuracy": Accuracy()},
        ).train()


def test_a_window_of_epochs_ends_with_the_last_batch_of_each() -> None:
    def act(event: str, state: Any) -> Any:
        return Accumulate(3) if event == "on_epoch_begin 1:4" else None

    trainer = make_trainer(
        train_loader=make_batches(5, 5, 5, 5),
        epochs=3,
        log_every="1 epoch",
        callbacks=[RecordingCallback(act)],
    )
    history = trainer.train()
    # Four updates in the first epoch, and two of three batches and of one in the others.
    assert [step for step, _ in history.history("loss")] == [4, 6, 8]
    assert history["loss"] == pytest.approx(history["train_loss"], rel=1e-6)


def test_a_window_of_epochs_needs_their_length() -> None:
    with pytest.raises(ValueError, match="log_every='2 epochs' needs the length of an epoch"):
        make_trainer(train_loader=iter(()), log_every="2 epochs")


def test_seconds_count_from_the_begin_of_training() -> None:
    clock = FakeClock()
    trainer = make_trainer(train_loader=make_batches(5, 5), epochs=1, max_seconds=5, clock=clock)
    clock.advance(6)
    assert len(trainer.train()["train_loss"]) == 1


def test_a_run_ends_once_its_seconds_are_up() -> None:
    clock = FakeClock()

    class Slow(Callback):
        def on_batch_begin(self, state: TrainState) -> None:
            clock.advance(10)

    trainer = make_trainer(epochs=None, max_seconds=30, clock=clock, callbacks=[Slow()])
    history = trainer.train()
    assert history.history("train_loss") == [(3, history["train_loss"][0])]


def test_a_plateau_does_not_wait_for_what_is_no_validation() -> None:
    model = make_model()
    optimizer = AdamW(model.parameters())
    scheduler = Scheduler(optimizer, Constant(), plateau=ReduceOnPlateau("train_accuracy"))
    trainer = make_trainer(model=model, optimizer=optimizer, scheduler=scheduler)
    with pytest.raises(KeyError, match="metric 'train_accuracy' is none of seconds, train_loss"):
        trainer.train()


def resumed(make: Callable[[], Trainer]) -> Trainer:
    """Train until something stops the run, and return a trainer that has its state."""
    first, second = make(), make()
    first.train()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    return second


def test_a_resumed_run_has_the_overflows_of_before() -> None:
    good, bad = make_batches(5, 5)
    bad[0][:] = math.inf

    def act(event: str, state: TrainState) -> Stop | None:
        return Stop("two") if event.startswith("on_step_skipped") and state.skipped == 2 else None

    trainer = resumed(
        lambda: make_trainer(
            model=nn.Linear(3, 4),
            train_loader=[good, *[bad] * 4],
            precision=Precision("fp16", init_scale=8.0, max_overflows=3),
            callbacks=[RecordingCallback(act)],
        )
    )
    precision = trainer.precision
    assert precision.scaler is not None
    assert (precision.streak, precision.scaler.get_scale()) == (2, 2.0)
    with pytest.raises(OverflowStreakError, match="4 updates in a row overflowed"):
        trainer.train()
    assert precision.overflows == 4


def test_a_resumed_run_has_the_accumulation_that_was_asked_for() -> None:
    def act(event: str, state: TrainState) -> Any:
        return [Accumulate(2), Stop("one")] if event == "on_step_end 0:1" else None

    trainer = resumed(
        lambda: make_trainer(
            train_loader=make_batches(5, 5, 5, 5, 5), epochs=1, callbacks=[RecordingCallback(act)]
        )
    )
    history = trainer.train()
    # One batch, and then twice two.
    assert [step for step, _ in history.history("train_loss")] == [1, 3]


def test_a_resumed_epoch_knows_that_it_was_validated() -> None:
    checkpoints = FakeCheckpoints()

    def make() -> Trainer:
        model = make_model()
        optimizer = SGD(model.parameters(), lr=0.1)
        plateau = ReduceOnPlateau("val_loss", factor=0.5, patience=0, threshold=10.0)
        return make_trainer(
            model=model,
            optimizer=optimizer,
            val_loader=make_batches(4),
            scheduler=Scheduler(optimizer, Constant(), plateau=plateau),
            validate_every=3,
            callbacks=[Checkpointing(checkpoints, 3)],
        )

    whole, second = make(), make()
    whole.train()
    # Saved after the last update of the first epoch and its validation, which the plateau, at the
    # end of the epoch, has not seen yet.
    second.load_state_dict(checkpoints.states[0])
    second.train()
    rates = [trainer.optimizer.param_groups[0]["lr"] for trainer in (whole, second)]
    assert rates == [0.05, 0.05]


def test_an_epoch_that_is_cut_moves_no_schedule_of_epochs() -> None:
    model = make_model()
    trainer = make_trainer(
        model=model,
        optimizer=SGD(model.parameters(), lr=0.1),
        scheduler=Step(1, 0.5),
        schedule_unit="epoch",
        callbacks=[Recorder(stop_at=2)],
    )
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.1
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.025


def test_a_validation_inside_an_epoch_leaves_its_metrics_alone() -> None:
    plain, validated = (
        make_trainer(metrics={"accuracy": Accuracy()}, seed=0, **options).train()
        for options in ({}, {"val_loader": make_batches(9), "validate_every": 1})
    )
    assert len(validated["val_accuracy"]) == 6
    assert validated["train_accuracy"] == plain["train_accuracy"]


def test_a_seed_is_for_all_generators_and_once() -> None:
    class Drawing(Callback):
        def on_train_begin(self, state: TrainState) -> None:
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))

    drawn: list[tuple[float, ...]] = []
    for seed in (1, 1, 2):
        trainer = make_trainer(seed=seed, callbacks=[Drawing(), Recorder(stop_at=2)])
        trainer.train()
    trainer.train()
    assert drawn[0] == drawn[1]
    for other in (drawn[1], drawn[3]):
        assert all(one != two for one, two in zip(drawn[2], other))


def test_a_window_in_which_nothing_counts_has_no_loss() -> None:
    (x, target), other = make_batches(5, 5)
    ignored = (x, torch.full_like(target, -100))
    trainer = make_trainer(train_loader=[other, ignored], epochs=1, log_every=1, loss=cross_entropy)
    history = trainer.train()
    assert [step for step, _ in history.history("loss")] == [1]
    assert [step for step, _ in history.history("lr")] == [1, 2]
    assert history["train_loss"] == history["loss"]
