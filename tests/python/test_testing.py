"""The tools for tests: each does what it says, and fails where it should."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import Callback, EarlyStopping, Stop, TrainState
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.optimizers import AdamW
from hotloop.testing import (
    CrashAt,
    FakeClock,
    FakeTracker,
    InjectedError,
    NanInjector,
    OomInjector,
    QuadraticProblem,
    RankError,
    RecordingCallback,
    ScriptedMetric,
    TinyModel,
    assert_resume_exact,
    assert_state_roundtrip,
    differences,
    golden,
    run_ranks,
)

STATE = TrainState(epoch=2, step=7)


def make_trainer(
    config: Mapping[str, Any] | None = None,
    loader: Any = None,
    model: nn.Module | None = None,
    **arguments: Any,
) -> Trainer:
    model = TinyModel() if model is None else model
    return Trainer(
        model,
        TrainingConfig(**{"epochs": 2, "progress": False, **(config or {})}),
        TinyModel().batches(3) if loader is None else loader,
        loss=nn.functional.mse_loss,
        **arguments,
    )


# RecordingCallback


def test_recording_has_every_hook_with_what_it_saw() -> None:
    recording = RecordingCallback()
    error = KeyError("x")
    expected = []
    for name in dir(Callback):
        if name == "on_exception":
            recording.on_exception(STATE, error)
            expected.append("on_exception 2:7 KeyError")
        elif name.startswith("on_"):
            assert name in vars(RecordingCallback)
            getattr(recording, name)(STATE)
            expected.append(f"{name} 2:7")
    assert len(expected) == 11
    assert recording.events == expected
    assert all(state is STATE for state in recording.states)
    assert recording.errors == [error]


def test_recording_returns_and_raises_what_it_is_told() -> None:
    def act(event: str, state: TrainState) -> Stop | None:
        assert state is STATE
        if event == "on_epoch_end 2:7":
            raise ValueError("told")
        return Stop("told") if event == "on_step_end 2:7" else None

    recording = RecordingCallback(act)
    assert recording.on_step_end(STATE) == Stop("told")
    assert recording.on_batch_end(STATE) is None
    with pytest.raises(ValueError, match="told"):
        recording.on_epoch_end(STATE)
    assert len(recording.events) == 3


# FakeClock, FakeTracker, ScriptedMetric


def test_clock_moves_when_told_and_with_each_call() -> None:
    clock = FakeClock()
    assert clock() == clock() == 0
    clock.advance(2.5)
    assert clock() == clock.now == 2.5
    stepping = FakeClock(step=0.5)
    assert [stepping() for _ in range(3)] == [0, 0.5, 1]
    for call in (lambda: clock.advance(-1), lambda: FakeClock(-1)):
        with pytest.raises(ValueError, match="must be at least 0, got -1"):
            call()


def test_a_trainer_measures_with_the_clock() -> None:
    history = make_trainer({"log_every": 1, "epochs": 1}, clock=FakeClock(step=1)).train()
    # Four samples a batch, and one call a window.
    assert list(history["samples_per_second"])[1:] == [4, 4]


def test_tracker_records_its_calls_and_fails_where_told() -> None:
    tracker = FakeTracker()
    values = {"loss": 1.0}
    tracker.start({"lr": 1}, "run")
    tracker.log(values, 3)
    values["loss"] = 2.0
    tracker.artifact("a.png")
    tracker.finish("finished")
    assert tracker.calls == [
        ("start", {"lr": 1}, "run"),
        ("log", {"loss": 1.0}, 3),
        ("artifact", "a.png"),
        ("finish", "finished"),
    ]
    assert tracker.logged == [({"loss": 1.0}, 3)]
    failing = FakeTracker(["log"])
    failing.start({}, None)
    with pytest.raises(RuntimeError, match="the tracker was told to fail in log"):
        failing.log({}, 1)
    assert len(failing.calls) == 2
    with pytest.raises(ValueError, match="unknown method 'write'"):
        FakeTracker(["write"])


def test_a_trainer_finishes_its_tracker() -> None:
    tracker = FakeTracker()
    make_trainer({"log_every": "2 steps"}, trackers=[tracker]).train()
    assert [call[0] for call in tracker.calls].count("start") == 1
    assert [step for values, step in tracker.logged if "loss" in values] == [2, 4, 6]
    assert tracker.calls[-1] == ("finish", "finished")


def test_metric_reads_its_script_to_the_end() -> None:
    metric = ScriptedMetric([0.5, 0.25])
    metric.update(torch.ones(1), torch.ones(1))
    assert (metric.batches, metric.compute()) == (1, 0.5)
    metric.reset()
    assert (metric.batches, metric.resets, metric.compute()) == (0, 1, 0.25)
    with pytest.raises(IndexError, match="the script has 2 values, and one more was asked for"):
        metric.compute()


def test_metric_goes_on_in_its_script() -> None:
    metric = ScriptedMetric([0.5, 0.25])
    metric.reset()
    metric.update(torch.ones(1), torch.ones(1))
    assert metric.compute() == 0.5
    other = ScriptedMetric([0.5, 0.25])
    assert_state_roundtrip(metric, other)
    assert (other.batches, other.resets, other.compute()) == (1, 1, 0.25)


def test_early_stopping_follows_a_script() -> None:
    batches = TinyModel().batches(2)
    trainer = make_trainer(
        {"epochs": 9},
        metrics={"score": ScriptedMetric([1, 2, 3, 3, 3, 3, 3])},
        val_loader=batches,
        callbacks=[EarlyStopping("val_score", patience=2, mode="max")],
    )
    assert len(trainer.train()["val_score"]) == 5


# QuadraticProblem, TinyModel


def test_quadratic_problem_is_what_its_formulas_say() -> None:
    problem = QuadraticProblem([1.0, 4.0, 9.0], noise=0.5, seed=3)
    x = problem.x.detach().clone().requires_grad_()
    problem.value(x).backward()
    assert torch.allclose(x.grad, problem.gradient(x.detach()))
    assert torch.equal(problem.gradient(problem.optimum()), torch.zeros(3, dtype=torch.float64))
    assert problem.value(problem.optimum()) == 0
    draws = torch.stack(problem.batches(4000, rows=2))
    grads = []
    for z in draws:
        problem.x.grad = None
        problem(z).backward()
        grads.append(problem.x.grad)
    sample = torch.stack(grads)
    assert torch.allclose(sample.mean(0), problem.gradient(problem.x.detach()), atol=0.03)
    assert torch.allclose(sample.T.cov(), problem.covariance(2), atol=0.01)
    assert torch.allclose(problem.covariance(), 2 * problem.covariance(2))


def test_quadratic_problem_follows_its_closed_form_under_gradient_descent() -> None:
    problem = QuadraticProblem([1.0, 4.0], seed=1)
    start = problem.x.detach().clone()
    trainer = Trainer(
        problem,
        TrainingConfig(epochs=2, progress=False),
        problem.batches(5),
        optimizer=torch.optim.SGD(problem.parameters(), lr=0.1),
    )
    trainer.train()
    expected = (1 - 0.1 * torch.tensor([1.0, 4.0], dtype=torch.float64)) ** 10 * start
    assert torch.allclose(problem.x.detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda seed: QuadraticProblem([1.0], 1.0, seed), TinyModel])
def test_problems_depend_on_their_seed_alone(make: Callable[[int], Any]) -> None:
    generator = torch.get_rng_state()
    first, again, other = make(1), make(1), make(2)
    torch.rand(3)
    assert not differences(first.state_dict(), make(1).state_dict())
    assert differences(first.state_dict(), other.state_dict())
    assert not differences(first.batches(2), again.batches(2))
    assert differences(first.batches(2), other.batches(2))
    torch.set_rng_state(generator)
    make(1).batches(2)
    assert torch.equal(torch.get_rng_state(), generator)


def test_problems_say_what_is_wrong() -> None:
    for h in ([], [1.0, 0.0], [math.inf]):
        with pytest.raises(ValueError, match="h must hold numbers above 0, got"):
            QuadraticProblem(h)
    with pytest.raises(ValueError, match="noise must be at least 0 and finite, got -1"):
        QuadraticProblem([1.0], -1)


def test_tiny_model_learns() -> None:
    history = make_trainer({"epochs": 60, "learning_rate": 0.05}).train()
    losses = list(history["train_loss"])
    assert losses[-1] < losses[0] / 5


# NanInjector, OomInjector, CrashAt


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_nan_injector_poisons_one_batch_of_all_passes() -> None:
    batches = [{"x": torch.ones(2), "n": torch.ones(2, dtype=torch.long)} for _ in range(2)]
    loader = NanInjector(batches, 3)
    assert len(loader) == 2
    seen = [*loader, *loader, *loader]
    assert [bool(batch["x"].isnan().all()) for batch in seen] == [False] * 3 + [True] + [False] * 2
    assert torch.equal(seen[3]["n"], batches[1]["n"])
    assert torch.equal(batches[1]["x"], torch.ones(2)), "the loader's own is as it was"
    pair = next(iter(NanInjector([Pair(torch.ones(1), torch.ones(1))], 0)))
    assert isinstance(pair, Pair)
    assert pair.x.isnan().all()
    with pytest.raises(ValueError, match="no floating-point tensor that could be NaN"):
        list(NanInjector([torch.ones(2, dtype=torch.long)], 0))
    with pytest.raises(ValueError, match="batch must be an int of at least 0, got -1"):
        NanInjector(batches, -1)


def test_a_poisoned_update_is_skipped() -> None:
    recording = RecordingCallback()
    loader = NanInjector(TinyModel().batches(3), 4)
    trainer = make_trainer({"nonfinite": "skip"}, loader, callbacks=[recording])
    trainer.train()
    assert [event for event in recording.events if "skipped" in event] == ["on_step_skipped 1:4"]
    assert all(param.isfinite().all() for param in trainer.model.parameters())


def test_oom_injector_raises_once() -> None:
    recording = RecordingCallback()
    trainer = make_trainer(callbacks=[recording, OomInjector(2)])
    with pytest.raises(torch.OutOfMemoryError, match="injected after 2 updates"):
        trainer.train()
    assert recording.events[-2:] == ["on_exception 0:2 OutOfMemoryError", "on_train_end 0:2"]
    trainer.train()
    assert trainer.state_dict()["progress"]["step"] == 6
    with pytest.raises(ValueError, match="step must be an int of at least 0, got -1"):
        OomInjector(-1)


def test_crash_raises_at_its_update() -> None:
    trainer = make_trainer(callbacks=[CrashAt(4)])
    with pytest.raises(InjectedError, match="injected after 4 updates"):
        trainer.train()
    assert trainer.state_dict()["progress"]["step"] == 4
    with pytest.raises(ValueError, match="step must be a positive int, got 0"):
        CrashAt(0)


def test_crash_may_end_the_process_without_any_farewell() -> None:
    code = (
        "from hotloop.testing import CrashAt\n"
        "from hotloop.callbacks import TrainState\n"
        "try:\n"
        "    CrashAt(1, exit=True).on_step_end(TrainState(step=1))\n"
        "finally:\n"
        "    print('farewell', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (70, "", "")


# differences


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a[1]: 2 and 3"]),
        ({"a": 1}, {"b": 1}, ["a: only in the first", "b: only in the second"]),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, ["a.b: int and float"]),
        ([1], [1, 2], ["state: 1 and 2 entries"]),
        ((1,), [1], ["state: tuple and list"]),
        (0.0, -0.0, ["state: 0.0 and -0.0"]),
        (math.nan, math.nan, []),
        (True, 1, ["state: bool and int"]),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan]), []),
        (
            torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            torch.tensor([[1.0, 2.0], [5.0, 6.0]]),
            ["state: 2 of 4 elements, the first at 2: 3.0 and 5.0"],
        ),
        (
            torch.tensor(0.0),
            torch.tensor(-0.0),
            ["state: 1 of 1 elements, the first at 0: 0.0 and -0.0"],
        ),
        (
            {"w": torch.ones(2)},
            {"w": torch.ones(2, dtype=torch.float64)},
            ["w: dtype torch.float32 and torch.float64"],
        ),
        (
            torch.ones(2),
            torch.ones(2, 1),
            ["state: shape torch.Size([2]) and torch.Size([2, 1])"],
        ),
        (torch.ones(0), torch.ones(0), []),
        (nn.Parameter(torch.ones(1)), torch.ones(1), []),
    ],
)
def test_differences_are_named_by_their_place(first: Any, second: Any, expected: list[str]) -> None:
    assert differences(first, second) == expected


def test_differences_leave_out_what_is_ignored_at_any_depth() -> None:
    first = {"a": [{"seconds": 1, "b": 2}], "seconds": 3}
    assert differences(first, {"a": [{"b": 2}]}, ignored=["seconds"]) == []


# assert_state_roundtrip


class Box:
    """Has whatever state the test says."""

    def __init__(self, state: Any = None, *, loads: bool = True) -> None:
        self.state = state
        self._loads = loads

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        if self._loads:
            self.state = state


def test_roundtrip_accepts_modules_optimizers_and_plain_states() -> None:
    model = TinyModel()
    optimizer = AdamW(model.parameters())
    model(model.batches(1)[0][0]).sum().backward()
    optimizer.step()
    assert_state_roundtrip(model, TinyModel(seed=1))
    assert_state_roundtrip(optimizer, AdamW(TinyModel(seed=1).parameters()))
    assert_state_roundtrip(Box({"a": [1, 2.0, None, True, "x", (1,)], 0: torch.ones(1)}), Box())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": {1}}}, r"a\.b: set"),
        ({"a": [Path("x")]}, r"a\[0\]: \w*Path"),
        ({1.5: 1}, "state: the key 1.5 is a float"),
        ([torch.float32], r"state: list|\[0\]: dtype"),
    ],
)
def test_roundtrip_refuses_what_is_not_plain(state: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_state_roundtrip(Box(state), Box())


def test_roundtrip_sees_a_state_that_is_not_taken_over() -> None:
    with pytest.raises(AssertionError, match=r"another state:\na: 1 and 2"):
        assert_state_roundtrip(Box({"a": 1}), Box({"a": 2}, loads=False))


# assert_resume_exact

FULL = {
    "epochs": 3,
    "optimizer": "AdamW",
    "scheduler": "cosine",
    "clip_norm": 1.0,
    "average_decay": 0.9,
    "early_stopping": 5,
    "log_every": "1 steps",
}


def full_trainer() -> Trainer:
    return make_trainer(FULL, val_loader=TinyModel(seed=5).batches(2))


def test_a_run_resumed_between_epochs_is_exact() -> None:
    for split in (3, 6):
        assert_resume_exact(full_trainer, split)


@pytest.mark.parametrize("split", [1, 4, 8])
def test_a_run_resumed_inside_an_epoch_is_exact(split: int) -> None:
    assert_resume_exact(full_trainer, split)


@pytest.mark.parametrize("split", [2, 3, 4])
def test_a_run_that_draws_random_numbers_is_exact(split: int) -> None:
    """The order of the batches and what a dropout leaves out are drawn."""
    samples = TensorDataset(*(torch.cat(each) for each in zip(*TinyModel().batches(3))))

    def make() -> Trainer:
        loader = DataLoader(samples, 4, shuffle=True)
        model = nn.Sequential(TinyModel(), nn.Dropout(0.5, inplace=False))
        return make_trainer({"seed": 1}, loader, model)

    assert_resume_exact(make, split)


def test_a_run_resumed_inside_a_validated_epoch_is_exact() -> None:
    def make() -> Trainer:
        config = FULL | {"validate_every": "2 steps", "accumulate": 2}
        return make_trainer(config, TinyModel().batches(5), val_loader=TinyModel(seed=5).batches(2))

    assert_resume_exact(make, 4)


class Forgetful(TinyModel):
    """Scales with a number that is not in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.scale *= 1.1
        return self.scale * super().forward(x)


def test_resuming_shows_what_the_state_lacks() -> None:
    with pytest.raises(AssertionError, match=r"model\.hidden\.weight: 12 of 12 elements") as caught:
        assert_resume_exact(lambda: make_trainer(model=Forgetful()), 3)
    assert str(caught.value).startswith("a run in one go and one resumed after 3 updates differ:")
    assert "optimizer.state" in str(caught.value)
    assert "history" in str(caught.value)


def test_resuming_shows_a_callback_that_loses_its_state() -> None:
    class Counting(Callback):
        count = 0

        def on_step_end(self, state: TrainState) -> Stop | None:
            self.count += 1
            return Stop("enough") if self.count == 5 else None

    with pytest.raises(AssertionError, match="stop_reason"):
        assert_resume_exact(lambda: make_trainer(callbacks=[Counting()]), 3)


def test_resuming_needs_a_rest_of_the_run() -> None:
    for split in (0, 6, 7):
        with pytest.raises(ValueError, match=f"less than the 6 updates of the run, got {split}"):
            assert_resume_exact(make_trainer, split)


# golden


def test_golden_compares_and_shows_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOTLOOP_UPDATE_GOLDEN", raising=False)
    path = tmp_path / "texts" / "a.txt"
    with pytest.raises(AssertionError, match="does not exist; run once with HOTLOOP_UPDATE_GOLDEN"):
        golden("one\n", path)
    with monkeypatch.context() as patch:
        patch.setenv("HOTLOOP_UPDATE_GOLDEN", "1")
        golden("one\ntwo\n", path)
    golden("one\ntwo\n", path)
    with pytest.raises(AssertionError, match=r"(?s)-two\n\+three"):
        golden("one\nthree\n", path)
    with pytest.raises(AssertionError, match="only the ends of lines differ"):
        golden("one\r\ntwo\r\n", path)
    assert path.read_bytes() == b"one\ntwo\n"


# run_ranks


def reduced(rank: int) -> tuple[int, float, int]:
    import torch.distributed as dist

    total = torch.tensor(float(rank + 1))
    dist.all_reduce(total)
    return rank, total.item(), os.getpid()


def one_fails(rank: int) -> None:
    import torch.distributed as dist

    if rank == 1:
        raise ValueError("of rank 1")
    dist.barrier()


def one_dies(rank: int) -> None:
    if rank == 1:
        os._exit(3)


def sleeps(rank: int) -> None:
    time.sleep(1000)


def test_ranks_talk_to_each_other() -> None:
    results = run_ranks(2, reduced)
    assert [result[:2] for result in results] == [(0, 3.0), (1, 3.0)]
    assert len({os.getpid(), *(result[2] for result in results)}) == 3


def test_the_traceback_of_each_rank_is_shown() -> None:
    with pytest.raises(RankError, match="rank 1: Traceback") as caught:
        run_ranks(2, one_fails)
    assert "ValueError: of rank 1" in caught.value.failures[1]
    assert 'raise ValueError("of rank 1")' in caught.value.failures[1]
    assert 0 in caught.value.failures


def test_a_rank_that_dies_is_seen() -> None:
    with pytest.raises(RankError) as caught:
        run_ranks(2, one_dies)
    assert caught.value.failures[1] == "ended with status 3 and without a result"


def test_ranks_are_killed_when_they_take_too_long() -> None:
    with pytest.raises(RankError, match=r"rank 0: took more than 0\.5 seconds, and was killed"):
        run_ranks(1, sleeps, timeout=0.5)


def test_ranks_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="ranks must be a positive int, got 0"):
        run_ranks(0, sleeps)
    with pytest.raises(ValueError, match="timeout must be above 0, got 0"):
        run_ranks(1, sleeps, timeout=0)
