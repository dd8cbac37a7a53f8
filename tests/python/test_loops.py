"""The loops against loops written out by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hotloop.callbacks import Callback, LearningRateMonitor, Stop, TrainState
from hotloop.loops import Trainer, evaluate, train_epoch, training_step
from hotloop.metrics import Accuracy
from hotloop.optimizers import SGD, AdamW, WeightAverage
from hotloop.schedulers import (
    Constant,
    Cosine,
    ReduceOnPlateau,
    Scheduler,
    Step,
    Warmup,
    as_lr_scheduler,
)


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

    def on_batch_end(self, state: TrainState) -> Stop | None:
        self._record("batch", state)
        return Stop("enough") if state.step == self.stop_at else None

    def on_epoch_end(self, state: TrainState) -> None:
        self._record("epoch end", state)

    def on_train_end(self, state: TrainState) -> None:
        self._record("train end", state)


def make_trainer(**options: Any) -> Trainer:
    model = options.pop("model", None) or make_model()
    options = {"train_loader": make_batches(5, 5, 2), "epochs": 2} | options
    optimizer = AdamW(model.parameters(), lr=0.01)
    return Trainer(model, optimizer, nn.CrossEntropyLoss(), **options)


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
        *("epoch begin 0:0", "batch 0:1", "batch 0:2", "batch 0:3", "epoch end 0:3"),
        *("epoch begin 1:3", "batch 1:4", "batch 1:5", "batch 1:6", "epoch end 1:6"),
        "train end 1:6",
    ]
    assert recorder.states[0].steps_per_epoch == 3
    assert set(recorder.states[-1].metrics) == {"train_loss", "val_loss", "seconds"}


def test_stop_ends_after_the_update_and_validates() -> None:
    recorder = Recorder(stop_at=2)
    history = make_trainer(callbacks=[recorder], val_loader=make_batches(4)).train()
    assert recorder.events[-3:] == ["batch 0:2", "epoch end 0:2", "train end 0:2"]
    assert history.stop_reason == "enough"
    assert len(history.epochs) == 1


def test_train_end_runs_after_an_error() -> None:
    recorder = Recorder()
    bad = [(torch.randn(2, 99), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(RuntimeError, match="shapes"):
        make_trainer(train_loader=bad, callbacks=[recorder]).train()
    assert recorder.events[-1] == "train end 0:0"


def test_metrics_in_training_and_validation() -> None:
    history = make_trainer(metrics={"accuracy": Accuracy()}, val_loader=make_batches(3, 3)).train()
    assert list(history.epochs[0]) == [
        *("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
    ]
    assert all(0 <= value <= 1 for value in history["val_accuracy"])


def test_train_twice_starts_counting_anew() -> None:
    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder], epochs=1)
    trainer.train()
    trainer.train()
    assert recorder.events[:7] == recorder.events[7:]


def test_evaluate_changes_nothing() -> None:
    model = make_model()
    model.train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    loss = nn.CrossEntropyLoss()
    first = evaluate(model, loss, make_batches(5, 2), {"accuracy": Accuracy()})
    torch.set_rng_state(rng)
    assert first == evaluate(model, loss, make_batches(5, 2), {"accuracy": Accuracy()})
    assert [module.training for module in model] == [True, True, False, True]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_evaluate_weighs_by_samples() -> None:
    model = make_model()
    loss = nn.CrossEntropyLoss()
    batches = make_batches(5, 2)
    whole = [tuple(torch.cat(parts) for parts in zip(*batches))]
    split, joined = evaluate(model, loss, batches), evaluate(model, loss, whole)
    assert split["loss"] == pytest.approx(joined["loss"], rel=1e-6)


def test_evaluate_restores_modes_after_an_error() -> None:
    model = make_model()
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(model, nn.CrossEntropyLoss(), [(torch.randn(2, 99), torch.zeros(2).long())])
    assert model.training


def test_training_step_adds_gradients() -> None:
    model = nn.Linear(3, 4)
    (batch,) = make_batches(5)
    result = training_step(model, batch, nn.CrossEntropyLoss())
    assert len(result.target) == len(result.preds) == 5
    assert not result.loss.requires_grad
    once = model.weight.grad.clone()
    training_step(model, batch, nn.CrossEntropyLoss())
    torch.testing.assert_close(model.weight.grad, 2 * once)


def test_iterables_without_a_length() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(make_batches(5, 5))

    recorder = Recorder()
    make_trainer(train_loader=Stream(), callbacks=[recorder], epochs=1).train()
    assert recorder.states[0].steps_per_epoch is None
    assert recorder.events[-1] == "train end 0:2"


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3"])
def test_epochs_must_be_positive(epochs: Any) -> None:
    with pytest.raises(ValueError, match=f"epochs must be a positive int, got {epochs!r}"):
        make_trainer(epochs=epochs)


@pytest.mark.parametrize("batches", [[], make_batches(0)])
def test_empty_loaders_raise(batches: Any) -> None:
    model, loss = nn.Linear(3, 4), nn.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="loader yields no samples; check"):
        train_epoch(model, optimizer, loss, batches)
    with pytest.raises(ValueError, match="loader yields no samples; check"):
        evaluate(model, loss, batches)


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
def test_clipping_and_averaging_are_those_of_torch(make: Any) -> None:
    batches = make_batches(5, 5, 2)
    model = nn.Linear(3, 4)
    other = copy.deepcopy(model)
    optimizer = make(model.parameters(), lr=0.01)
    reference = torch.optim.AdamW(other.parameters(), lr=0.01, fused=True)
    average = WeightAverage(model, 0.9)
    expected = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    values = train_epoch(
        model, optimizer, nn.CrossEntropyLoss(), batches, max_norm=0.3, average=average
    )
    norms = []
    for x, y in batches:
        other.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        norms.append(float(nn.utils.clip_grad_norm_(other.parameters(), 0.3)))
        reference.step()
        expected.update_parameters(other)
    assert max(norms) > 0.3
    assert values["grad_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)
    assert values["skipped_updates"] == 0
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b)
    for a, b in zip(average.averages.values(), expected.module.parameters()):
        torch.testing.assert_close(a, b.detach())


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
def test_a_gradient_that_is_not_finite_is_left_out_and_counted(make: Any) -> None:
    good, bad = make_batches(5, 5)
    bad[0][0, 0] = float("nan")
    model = nn.Linear(3, 4)
    optimizer = make(model.parameters(), lr=0.01)
    recorder = Recorder()
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        [good, bad, good],
        epochs=1,
        max_norm=1.0,
        callbacks=[recorder],
    )
    history = trainer.train()
    assert history["train_skipped_updates"] == [1]
    assert all(param.isfinite().all() for param in model.parameters())
    assert recorder.states[-1].step == 2


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
        trainer = Trainer(
            model,
            optimizer,
            nn.CrossEntropyLoss(),
            make_batches(5, 5, 4, 5, 2),
            epochs=2,
            accumulate=accumulate,
            schedulers=[schedulers(optimizer, updates)[kind]],
        )
        assert rates_of(trainer) == expected


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("way", ["max_norm", "scaler"])
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_schedules_stand_still_for_updates_that_are_left_out(make: Any, way: str) -> None:
    model = make_model()
    optimizer = make(model.parameters(), lr=0.1)
    batches = make_batches(5, 5, 5, 5)
    for index in (0, 2):
        batches[index][0][0] = math.inf
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    monitor = LearningRateMonitor(optimizer)
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        batches,
        epochs=1,
        max_norm=1.0 if way == "max_norm" else None,
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0) if way == "scaler" else None,
        schedulers=[theirs],
        callbacks=[monitor],
    )
    history = trainer.train()
    assert history["train_skipped_updates"] == [2]
    assert theirs.last_epoch == 2
    assert monitor.steps == [0, 1, 2]
    assert [record["lr"] for record in monitor.values] == [0.1, 0.05, 0.025]


def test_schedules_of_epochs_and_plateaus() -> None:
    model = make_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        make_batches(5, 5),
        epochs=4,
        schedulers=[Step(2, 0.5)],
        schedule_unit="epoch",
    )
    assert rates_of(trainer) == [0.1] * 4 + [0.05] * 4

    class Worse(Accuracy):
        count = 0

        def compute(self) -> float:
            Worse.count += 1
            return -Worse.count

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
        trainer = Trainer(
            model,
            optimizer,
            nn.CrossEntropyLoss(),
            make_batches(5),
            epochs=3,
            metrics={"worse": Worse()},
            schedulers=[make(optimizer)],
        )
        assert rates_of(trainer) == [0.1, 0.1, 0.05]


def test_state_of_schedules_goes_on() -> None:
    def make() -> tuple[Trainer, Any]:
        model = make_model()
        optimizer = SGD(model.parameters(), lr=0.1)
        theirs = torch.optim.lr_scheduler.StepLR(SGD(model.parameters(), lr=0.1), 2)
        schedulers = [Scheduler(optimizer, Cosine(20)), theirs]
        trainer = Trainer(
            model,
            optimizer,
            nn.CrossEntropyLoss(),
            make_batches(5, 5, 5),
            epochs=1,
            schedulers=schedulers,
        )
        return trainer, schedulers

    trainer, schedulers = make()
    with pytest.warns(UserWarning, match="Detected call"):
        trainer.train()
    other, resumed = make()
    other.schedules.load_state_dict(trainer.schedules.state_dict())
    assert [s.state_dict() for s in resumed] == [s.state_dict() for s in schedulers]
    assert other.optimizer.param_groups[0]["lr"] == 0.1 * Cosine(20)(3)
    with pytest.raises(ValueError, match="the state is of 2 schedulers"):
        make_trainer().schedules.load_state_dict(trainer.schedules.state_dict())


def test_schedules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"call resolve\(total\) first"):
        make_trainer(train_loader=iter(make_batches(5)), schedulers=[Cosine()])
    with pytest.raises(TypeError, match="schedulers must be Schedule, Scheduler or torch's"):
        make_trainer(schedulers=["cosine"])
    with pytest.raises(ValueError, match="schedule_unit must be 'step' or 'epoch', got 'batch'"):
        make_trainer(schedule_unit="batch")
    with pytest.raises(ValueError, match="accumulate must be a positive int, got 0"):
        make_trainer(accumulate=0)
    trainer = make_trainer()
    plateau = ReduceOnPlateau("val_accuracy")
    scheduler = Scheduler(trainer.optimizer, Constant(), plateau=plateau)
    trainer = make_trainer(model=trainer.model, schedulers=[scheduler])
    with pytest.raises(KeyError, match="metric 'val_accuracy' is none of train_loss"):
        trainer.train()


def test_accumulated_updates_are_those_of_the_whole_window() -> None:
    results = []
    for sizes, accumulate in (((5, 3, 2, 4), 3), ((10, 4), 1)):
        torch.manual_seed(0)
        model = nn.Linear(3, 4)
        inputs, target = make_batches(14)[0]
        batches = list(zip(inputs.split(sizes), target.split(sizes)))
        optimizer = SGD(model.parameters(), lr=0.1)
        train_epoch(model, optimizer, nn.CrossEntropyLoss(), batches, accumulate=accumulate)
        results.append(model.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
