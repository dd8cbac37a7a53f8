"""The trainer's updates in Mojo against those of torch: the same run, in fewer calls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from hotloop import backend, optimizers
from hotloop.callbacks import (
    Callback,
    GradientAccumulationSchedule,
    LearningRateMonitor,
    TrainState,
)
from hotloop.config import TrainingConfig
from hotloop.errors import BackendError, NonFiniteError, UnsupportedModelError
from hotloop.loops import Trainer
from hotloop.loops.loaders import First
from hotloop.loops.native_loop import NativeLoop, index_loader
from hotloop.metrics import F1, Accuracy, MeanSquaredError
from hotloop.programs import NativeTrainer
from hotloop.schedulers import ReduceOnPlateau, Scheduler, create_schedule
from tests.conftest import needs_native

SAMPLES = 150


def classes(dtype: torch.dtype = torch.float32) -> TensorDataset:
    torch.manual_seed(3)
    return TensorDataset(torch.randn(SAMPLES, 6, dtype=dtype), torch.randint(0, 4, (SAMPLES,)))


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)).to(dtype)


def trained(engine: str, **options: Any) -> Trainer:
    """Train on batches of 16, of which the last of an epoch has 6."""
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "seed": 1, "log_every": 4}
    data = options.pop("data", None) or classes()
    model = options.pop("model", None) or network(data.tensors[0].dtype)
    make = options.pop("make", None)
    if make is not None:
        options |= make(model)
    settings |= options.pop("config", {})
    config = TrainingConfig(progress=False, **settings)
    loss = options.pop("loss", nn.CrossEntropyLoss())
    loader = options.pop("loader", data)
    trainer = Trainer(model, config, loader, data, loss=loss, engine=engine, **options)
    trainer.train()
    return trainer


def assert_same_run(ours: Trainer, theirs: Trainer, tolerance: float) -> None:
    assert (ours.engine, theirs.engine) == ("native", "torch")
    points, expected = (each.history.state_dict()["points"] for each in (ours, theirs))
    assert points.keys() == expected.keys()
    for name, values in points.items():
        assert [step for step, _ in values] == [step for step, _ in expected[name]]
        if "second" not in name:
            for (_, value), (_, other) in zip(values, expected[name]):
                assert math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance), name
    for parameter, other in zip(ours.model.parameters(), theirs.model.parameters()):
        torch.testing.assert_close(parameter, other, rtol=tolerance, atol=tolerance)


def with_sgd(model: nn.Module) -> dict[str, Any]:
    return {"optimizer": optimizers.SGD(model.parameters(), lr=0.1, momentum=0.9)}


def with_plateau(model: nn.Module) -> dict[str, Any]:
    optimizer = optimizers.AdamW(model.parameters(), lr=0.05)
    plateau = ReduceOnPlateau("val_loss", patience=0, factor=0.5)
    schedule = create_schedule("cosine", 100)
    return {"optimizer": optimizer, "scheduler": Scheduler(optimizer, schedule, plateau=plateau)}


def with_torchs_schedule(model: nn.Module) -> dict[str, Any]:
    optimizer = optimizers.AdamW(model.parameters(), lr=0.01)
    return {
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95),
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "schedule": {"config": {"scheduler": "cosine", "warmup": 0.2}},
    "metrics": {"metrics": lambda: {"accuracy": Accuracy(), "f1": F1()}},
    "clipping": {"config": {"clip_norm": 0.3}},
    "skipping": {"config": {"nonfinite": "skip"}},
    "often": {"config": {"log_every": 1, "validate_every": "3 steps"}},
    "max_steps": {"config": {"epochs": None, "max_steps": 17}},
    "limited": {"config": {"limit_train_batches": 5, "validate_every": "0.5 epochs"}},
    "stopping": {"config": {"epochs": 40, "early_stopping": 1, "learning_rate": 0.03}},
    "sgd": {"make": with_sgd},
    "plateau": {"make": with_plateau},
    "torch's schedule": {"make": with_torchs_schedule},
}


@needs_native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_run_is_that_of_torch(variant: str, dtype: torch.dtype) -> None:
    def options() -> dict[str, Any]:
        made = {**VARIANTS[variant], "data": classes(dtype)}
        if "metrics" in made:
            made["metrics"] = made["metrics"]()
        return made

    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    assert_same_run(trained("native", **options()), trained("torch", **options()), tolerance)


OPTIMIZERS = sorted(
    name
    for name in optimizers.__all__
    if isinstance(getattr(optimizers, name), type)
    and issubclass(getattr(optimizers, name), torch.optim.Optimizer)
    and name != "NativeStep"
)


@needs_native
@pytest.mark.parametrize("config", [{}, {"scheduler": "cosine", "warmup": 0.2}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str, config: dict[str, Any]) -> None:
    kind = getattr(optimizers, name)

    def with_it(model: nn.Module) -> dict[str, Any]:
        matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
        return {"optimizer": kind(matrices if name == "Muon" else model.parameters(), lr=0.01)}

    ours, theirs = (trained(engine, make=with_it, config=config) for engine in ("auto", "torch"))
    # The steps of these are more than a pass of the kernels.
    is_more = name in ("Muon", "Prodigy", "ScheduleFreeAdamW", "ScheduleFreeSGD")
    assert ours.engine == ("torch" if is_more else "native")
    assert ("outside of the kernels" in ours.engine_reason) == is_more
    for parameter, other in zip(ours.model.parameters(), theirs.model.parameters()):
        torch.testing.assert_close(parameter, other, rtol=2e-5, atol=2e-5)


@needs_native
@pytest.mark.parametrize("config", [{}, {"clip_norm": 0.3}, {"nonfinite": "skip"}])
def test_many_updates_are_one_call(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = NativeTrainer.train_batches

    def counted(self: Any, x: Any, y: Any, order: torch.Tensor, *rest: Any) -> int:
        calls.append(len(order))
        return original(self, x, y, order, *rest)

    monkeypatch.setattr(NativeTrainer, "train_batches", counted)
    rare = {"epochs": 20, "log_every": "1 epoch", "validate_every": None}
    trained("native", config=rare | config)
    assert sum(calls) == 20 * SAMPLES
    # From the first calls it is known that they may be longer.
    assert calls[-1] == SAMPLES


@needs_native
def test_samples_that_come_twice_have_outputs_of_their_own() -> None:
    def options() -> dict[str, Any]:
        data = classes()
        sampler = WeightedRandomSampler([1.0] * SAMPLES, 200, generator=torch.Generator())
        return {
            "data": data,
            "loader": DataLoader(data, 16, sampler=sampler),
            "metrics": {"accuracy": Accuracy()},
            "config": {"learning_rate": 0.05},
        }

    assert_same_run(trained("native", **options()), trained("torch", **options()), 2e-5)


@needs_native
def test_callbacks_see_the_steps_that_they_look_at() -> None:
    class Steps(Callback):
        def __init__(self, cadence: int | None) -> None:
            self.step_cadence = cadence
            self.seen: list[tuple[int, int, int]] = []

        def on_step_end(self, state: TrainState) -> None:
            assert model.training
            self.seen.append((state.step, state.batch, state.samples))

    model = network().eval()
    each = Steps(1)
    trained("native", callbacks=[each], model=model, config={"epochs": 2})
    expected = Steps(1)
    trained("torch", callbacks=[expected], config={"epochs": 2})
    assert each.seen == expected.seen
    third = Steps(3)
    trained("native", callbacks=[third], config={"epochs": 2, "log_every": "1 epoch"})
    assert {step for step, _, _ in third.seen} >= {3, 6, 9, 10, 12, 15, 18, 20}
    assert set(third.seen) <= set(expected.seen)

    def monitored(model: nn.Module) -> dict[str, Any]:
        optimizer = optimizers.AdamW(model.parameters(), lr=0.01)
        return {"optimizer": optimizer, "callbacks": [LearningRateMonitor(optimizer, every=4)]}

    values = []
    for engine in ("native", "torch"):
        trainer = trained(engine, make=monitored, config={"scheduler": "cosine"})
        (monitor,) = (c for c in trainer.callbacks if isinstance(c, LearningRateMonitor))
        values.append((monitor.steps, monitor.values))
    assert values[0] == values[1]


@needs_native
@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_run_goes_on_from_a_checkpoint_of_either_engine(engine: str, tmp_path: Path) -> None:
    def run(which: str, **options: Any) -> Trainer:
        config = {"epochs": 3, "scheduler": "cosine", "save_every": "1 steps"}
        config |= options.pop("config", {})
        return trained(which, config=config, **options)

    whole = run("native", checkpoints=tmp_path / "whole")

    class Ending(Callback):
        def on_step_end(self, state: TrainState) -> None:
            if state.step == 13:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        run(engine, checkpoints=tmp_path / "cut", callbacks=[Ending()])
    rest = run("native", checkpoints=tmp_path / "cut", resume="auto")
    for ours, expected in zip(rest.model.parameters(), whole.model.parameters()):
        if engine == "native":
            assert ours.equal(expected)
        else:
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert len(rest.history.state_dict()["points"]["train_loss"]) == 3


@needs_native
def test_an_interrupt_leaves_whole_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"epochs": 3, "scheduler": "cosine", "log_every": "1 epoch", "seed": 1}
    options: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "engine": "native"}
    config = TrainingConfig(progress=False, batch_size=16, **settings)
    whole, cut = (
        Trainer(network(), config, classes(), metrics={"accuracy": Accuracy()}, **options)
        for _ in range(2)
    )
    whole.train()
    original = NativeTrainer.train_batches
    calls = 0

    def interrupted(self: Any, x: Any, y: Any, order: torch.Tensor, *rest: Any) -> int:
        nonlocal calls
        calls += 1
        if calls < 4 or len(order) <= 48:
            return original(self, x, y, order, *rest)
        original(self, x, y, order[:32], *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(NativeTrainer, "train_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert 0 < cut._run.step < whole._run.step
    monkeypatch.undo()
    cut.train()
    assert cut._run.step == whole._run.step
    for ours, expected in zip(cut.model.parameters(), whole.model.parameters()):
        assert ours.equal(expected)
    accuracies = [run.history["train_accuracy"] for run in (cut, whole)]
    assert accuracies[0] == accuracies[1]
    losses = [run.history["train_loss"] for run in (cut, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@needs_native
@pytest.mark.parametrize("place", ["between updates", "before they are counted"])
def test_a_run_that_fails_is_saved_unless_its_counters_are_behind(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainingConfig(epochs=3, progress=False, batch_size=16, log_every="1 epoch")
    trainer = Trainer(
        network(),
        config,
        classes(),
        loss=nn.CrossEntropyLoss(),
        engine="native",
        checkpoints=tmp_path,
    )
    owner, name = (NativeTrainer, "train_batches")
    if place == "before they are counted":
        owner, name = (NativeLoop, "_measure")
    original = getattr(owner, name)
    calls = 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(MemoryError):
        trainer.train()
    assert trainer._run.step == 1
    is_behind = place == "before they are counted"
    assert ("inside of an update" in caplog.text) == is_behind
    assert (tmp_path / f"step_{trainer._run.step:08}").exists() != is_behind


def nan_data() -> TensorDataset:
    data = classes()
    data.tensors[0][70] = math.nan
    return data


@needs_native
def test_what_is_not_finite() -> None:
    with pytest.raises(NonFiniteError, match=r"the loss of a batch is nan, .*nonfinite='skip'"):
        trained("native", data=nan_data(), config={"epochs": 1})
    model = network()
    with pytest.raises(NonFiniteError):
        trained("native", data=nan_data(), model=model, config={"epochs": 1})
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@needs_native
@pytest.mark.parametrize("log_every", [4, "1 epoch"])
def test_updates_that_are_not_finite_are_skipped(log_every: int | str) -> None:
    class Skipped(Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int, str]] = []

        def on_step_skipped(self, state: TrainState) -> None:
            self.seen.append((state.step, state.batch, str(state.grad_norm)))

    watchers = Skipped(), Skipped()
    config = {"nonfinite": "skip", "validate_every": None, "log_every": log_every}
    ours, theirs = (
        trained(engine, data=nan_data(), config=config, callbacks=[watcher])
        for engine, watcher in zip(("native", "torch"), watchers)
    )
    assert_same_run(ours, theirs, 2e-5)
    assert watchers[0].seen == watchers[1].seen
    assert len(watchers[0].seen) == ours._run.skipped == 3


@needs_native
def test_a_skipped_update_is_measured() -> None:
    # One sample has a feature whose weights are 0: its loss is finite, and its gradient is not.
    data = classes()
    data.tensors[0][:, 5] = 0
    data.tensors[0][70] = torch.tensor([0.0] * 5 + [3e38])
    target = torch.zeros(SAMPLES, 1)
    target[70] = 1000
    seen: dict[str, list[Any]] = {"native": [], "torch": []}

    class Skipped(Callback):
        def __init__(self, engine: str) -> None:
            self.engine = engine

        def on_step_skipped(self, state: TrainState) -> None:
            seen[self.engine].append((state.step, float(state.loss), state.grad_norm))

    def run(engine: str) -> Trainer:
        torch.manual_seed(5)
        model = nn.Linear(6, 1)
        with torch.no_grad():
            model.weight[:, 5] = 0
        return trained(
            engine,
            data=TensorDataset(data.tensors[0], target),
            model=model,
            loss=nn.MSELoss(),
            metrics={"mse": MeanSquaredError()},
            callbacks=[Skipped(engine)],
            config={"nonfinite": "skip", "validate_every": None, "log_every": "1 epoch"},
        )

    assert_same_run(run("native"), run("torch"), 2e-5)
    assert len(seen["native"]) == len(seen["torch"]) == 3
    for (step, loss, norm), other in zip(seen["native"], seen["torch"]):
        assert (step, norm) == (other[0], math.inf) == (other[0], other[2])
        assert loss == pytest.approx(other[1], rel=1e-5)


@needs_native
def test_masks_depend_on_the_seed_and_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(log_every: int | str, seed: int = 1) -> Trainer:
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 4))
        return trained("native", model=model, config={"log_every": log_every, "seed": seed})

    seeds: list[int] = []
    original = NativeTrainer.train_batches

    def noted(self: Any, x: Any, y: Any, order: Any, rates: Any, outputs: Any, seed: int) -> int:
        seeds.append(seed)
        return original(self, x, y, order, rates, outputs, seed)

    monkeypatch.setattr(NativeTrainer, "train_batches", noted)
    often, rare = run(1), run("1 epoch")
    for mine, other in zip(often.model.parameters(), rare.model.parameters()):
        assert mine.equal(other)
    first = set(seeds)
    seeds.clear()
    run(1, seed=2)
    assert first.isdisjoint(seeds)
    assert 0 not in first


@needs_native
def test_a_rollback_leaves_the_batch_out(tmp_path: Path) -> None:
    runs = [
        trained(
            engine,
            data=nan_data(),
            checkpoints=tmp_path / engine,
            config={
                "nonfinite": "rollback",
                "save_every": "2 steps",
                "epochs": 2,
                "validate_every": None,
            },
        )
        for engine in ("native", "torch")
    ]
    assert_same_run(*runs, 2e-5)


class Watching(Callback):
    def on_batch_end(self, state: TrainState) -> None:
        pass


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "model": (
        {"model": nn.Sequential(nn.Linear(6, 4), nn.Softplus())},
        "the model has no kernels: 1: Softplus has no kernel",
    ),
    "loss": ({"loss": nn.NLLLoss()}, "the loss NLLLoss has no kernel"),
    "optimizer": (
        {"make": lambda model: {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}},
        "SGD has no kernel; use that of hotloop.optimizers",
    ),
    "precision": ({"config": {"precision": "bf16"}}, "does without: precision"),
    "accumulate": (
        {"config": {"accumulate": 2, "clip_value": 1.0}},
        "does without: accumulate, clip_value",
    ),
    "batches": ({"callbacks": [Watching()]}, "a callback with on_batch_begin or on_batch_end"),
    "loader": ({"loader": list(DataLoader(classes(), 16))}, "a torch DataLoader.*got list"),
    "workers": (
        {"loader": DataLoader(classes(), 16, num_workers=1)},
        "must have no workers and no collate_fn",
    ),
}


@needs_native
@pytest.mark.parametrize("part", UNSUPPORTED)
def test_what_has_no_kernel(part: str) -> None:
    options, message = UNSUPPORTED[part]
    config = {"epochs": 1, "max_steps": 1, "validate_every": None} | options.get("config", {})
    with pytest.raises(UnsupportedModelError, match=message):
        trained("native", **{**options, "config": config})
    trainer = trained("auto", **{**options, "config": config})
    assert trainer.engine == "torch"
    assert re.search(message, trainer.engine_reason)


@needs_native
def test_hooks_would_not_be_called() -> None:
    model = network()
    model[1].register_forward_hook(lambda *_: None)
    model[2].bias.register_hook(lambda grad: grad)
    model.register_forward_pre_hook(lambda *_: None)
    model[0].weight.register_post_accumulate_grad_hook(lambda _: None)
    assert NativeTrainer.supports(model) == [
        f"{name}: its hooks would not be called"
        for name in ("the model", "1", "0.weight", "2.bias")
    ]


@needs_native
def test_what_comes_up_during_a_run_is_not_passed_over() -> None:
    with pytest.raises(
        UnsupportedModelError, match="accumulate is 2, and the kernels update after"
    ):
        trained("native", callbacks=[GradientAccumulationSchedule({1: 2})])

    class Adding(Callback):
        def on_epoch_begin(self, state: TrainState) -> None:
            if state.epoch == 1:
                trainer.callbacks.add(Watching())

    data = classes()
    options: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "engine": "native"}
    config = TrainingConfig(epochs=3, progress=False)
    trainer = Trainer(network(), config, data, callbacks=[Adding()], **options)
    with pytest.raises(UnsupportedModelError, match="would not be called; take it away"):
        trainer.train()
    assert trainer.history["train_loss"]
    trainer = Trainer(network(), config, data, **options)
    data.tensors[1][7] = 4
    with pytest.raises(ValueError, match=r"y\[7\] is 4, must be a class in \[0, 4\)"):
        trainer.train()
    loader = DataLoader(classes(), 2, sampler=[3, SAMPLES])  # type: ignore[arg-type]
    trainer = Trainer(network(), config, loader, **options)
    with pytest.raises(IndexError, match="range object index out of range"):
        trainer.train()


@needs_native
def test_hooks_of_an_optimizer_would_not_be_called() -> None:
    def hooked(model: nn.Module) -> dict[str, Any]:
        optimizer = optimizers.AdamW(model.parameters(), lr=0.01)
        optimizer.register_step_post_hook(lambda *_: None)
        return {"optimizer": optimizer}

    assert trained("auto", make=hooked).engine_reason == "the hooks of AdamW would not be called"


@needs_native
def test_auto_takes_the_kernels() -> None:
    trainer = trained("auto")
    assert (trainer.engine, trainer.engine_reason) == ("native", "")


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "current", lambda: backend.Backend("torch", "a reason"))
    with pytest.raises(BackendError, match="whole loops need the kernels: a reason"):
        trained("native")
    trainer = trained("auto")
    assert (trainer.engine, trainer.engine_reason) == (
        "torch",
        "whole loops need the kernels: a reason",
    )
    with pytest.raises(ValueError, match="unknown engine 'numba'; it is one of auto"):
        trained("numba")


LOADERS: dict[str, Callable[[TensorDataset], Any]] = {
    "in order": lambda data: DataLoader(data, 16),
    "shuffled": lambda data: DataLoader(data, 16, shuffle=True, drop_last=True),
    "own generator": lambda data: DataLoader(
        data, 16, shuffle=True, generator=torch.Generator().manual_seed(7)
    ),
    "own sampler": lambda data: DataLoader(data, 16, sampler=RandomSampler(data, num_samples=40)),
    "first": lambda data: First(DataLoader(data, 16, shuffle=True), 4),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_indices_are_those_of_the_loader(kind: str) -> None:
    numbers = torch.arange(SAMPLES)
    data = TensorDataset(numbers, numbers)
    torch.manual_seed(11)
    expected = [[batch[0].tolist() for batch in loader] for loader in [LOADERS[kind](data)] * 2]
    state = torch.get_rng_state()
    torch.manual_seed(11)
    indices = index_loader(LOADERS[kind](data))
    assert [list(indices), list(indices)] == expected
    assert torch.get_rng_state().equal(state)
    assert len(indices) == len(expected[0])


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU]
)
def test_activations_keep_what_is_no_number(
    activation: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), activation()).to(dtype)
    nn.init.ones_(model[0].weight)
    trainer = NativeTrainer(
        model, loss="mse", optimizer=optimizers.SGD(model.parameters()), batch_size=4
    )
    x = torch.tensor([[math.nan], [math.inf], [-math.inf], [1.0]], dtype=dtype)
    expected = model(x).detach()
    # torch's exact GELU of infinity is NaN on some CPUs.
    expected[1] = 1 if activation in (nn.Tanh, nn.Sigmoid) else math.inf
    torch.testing.assert_close(trainer.predict(x), expected, equal_nan=True)


@needs_native
def test_masks_of_dropout_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    def run(log_every: int, seed: int = 1, **options: Any) -> Trainer:
        model = network()
        model.insert(2, nn.Dropout(0.4))
        config = {"epochs": 2, "log_every": log_every, "save_every": "1 steps", "seed": seed}
        return trained("native", model=model, config=config, **options)

    class Ending(Callback):
        def on_step_end(self, state: TrainState) -> None:
            if state.step == 7:
                raise InterruptedError

    whole = run(1, checkpoints=tmp_path / "whole")
    # In calls of another length, and in two processes.
    other = run(5, checkpoints=tmp_path / "other")
    with pytest.raises(InterruptedError):
        run(1, checkpoints=tmp_path / "cut", callbacks=[Ending()])
    rest = run(3, checkpoints=tmp_path / "cut", resume="auto")
    for parameter, *same in zip(*(each.model.parameters() for each in (whole, other, rest))):
        assert all(parameter.equal(each) for each in same)
    different = run(1, seed=2, checkpoints=tmp_path / "different")
    assert not whole.model[0].weight.equal(different.model[0].weight)
