"""Callbacks that measure, draw, describe and time a run."""

from __future__ import annotations

import builtins
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from hotloop.callbacks import (
    Accumulate,
    Callbacks,
    DeviceStats,
    GradientAccumulationSchedule,
    ModelSummary,
    PlotCurves,
    ProgressBar,
    Stop,
    SummaryRow,
    ThroughputMonitor,
    Timer,
    TrainState,
    device_stats,
    summarize,
)
from hotloop.callbacks.rank import is_first_rank
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.testing import FakeTracker, run_ranks

STATE = TrainState()


class Clock:
    """Returns what the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def at(**values: Any) -> TrainState:
    return STATE._replace(**values)


# GradientAccumulationSchedule


def test_accumulation_has_one_batch_up_to_the_first_epoch_and_keeps_the_last_entry() -> None:
    schedule = GradientAccumulationSchedule({4: 8, 2: 3})
    asked = [schedule.on_epoch_begin(at(epoch=epoch)).batches for epoch in range(7)]
    assert asked == [1, 1, 3, 3, 8, 8, 8]
    assert schedule.on_train_begin(at(epoch=5)) == Accumulate(8)
    assert GradientAccumulationSchedule({0: 2}).on_train_begin(STATE) == Accumulate(2)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ({}, "batches must have an entry, such as {0: 1, 4: 8}, got none"),
        ({-1: 2}, "the keys of batches must be epochs, ints of at least 0, got -1"),
        ({True: 2}, "the keys of batches must be epochs, ints of at least 0, got True"),
        ({"1": 2}, "the keys of batches must be epochs, ints of at least 0, got '1'"),
        ({3: 0}, "the values of batches must be positive ints, got 0 for epoch 3"),
        ({3: 1.5}, "the values of batches must be positive ints, got 1.5 for epoch 3"),
    ],
)
def test_accumulation_says_what_is_wrong(batches: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GradientAccumulationSchedule(batches)


def test_a_trainer_accumulates_as_the_schedule_says() -> None:
    model = nn.Linear(2, 1)
    data = [(torch.ones(2, 2), torch.ones(2, 1))] * 4
    trainer = Trainer(
        model,
        TrainingConfig(epochs=3, progress=False),
        data,
        loss=nn.functional.mse_loss,
        callbacks=[GradientAccumulationSchedule({0: 4, 1: 2, 2: 3})],
    )
    steps = []
    trainer.callbacks.add(_OnEpochEnd(steps))
    trainer.train()
    assert steps == [1, 3, 5]


class _OnEpochEnd(GradientAccumulationSchedule):
    def __init__(self, steps: list[int]) -> None:
        super().__init__({0: 1})
        self._steps = steps

    def on_train_begin(self, state: TrainState) -> None:  # type: ignore[override]
        pass

    def on_epoch_begin(self, state: TrainState) -> None:  # type: ignore[override]
        pass

    def on_epoch_end(self, state: TrainState) -> None:
        self._steps.append(state.step)


# Timer


def passes(timer: Timer, clock: Clock) -> Iterator[tuple[str, Any]]:
    """Go through two updates of two batches and a validation, a known time each."""
    clock.now += 1
    timer.on_train_begin(STATE)
    for update in range(2):
        for _ in range(2):
            clock.now += 0.5  # loading
            timer.on_batch_begin(STATE)
            clock.now += 2
            timer.on_batch_end(STATE)
        clock.now += 1
        hook = timer.on_step_end if update else timer.on_step_skipped
        yield f"update {update}", hook(STATE)
    clock.now += 0.25
    timer.on_validation_begin(STATE)
    clock.now += 4
    yield "validation", timer.on_validation_end(STATE)
    clock.now += 0.25
    yield "epoch", timer.on_epoch_end(STATE)


def test_timer_tells_training_from_validation_and_from_the_rest() -> None:
    clock = Clock()
    timer = Timer(clock=clock)
    assert timer.seconds == {"train": 0, "validation": 0, "total": 0}
    assert all(action is None for _, action in passes(timer, clock))
    clock.now += 8
    timer.on_train_end(STATE)
    # Between the two batches of an update lies a loading that is not counted.
    assert timer.seconds == {"train": 10, "validation": 4, "total": 24.5}
    clock.now += 100
    assert timer.state_dict()["seconds"]["total"] == 24.5


@pytest.mark.parametrize(
    ("limit", "first"),
    [(6, "update 0"), (6.5, "update 1"), (12.5, "validation"), ("16.4 seconds", "epoch")],
)
def test_timer_stops_after_what_reaches_the_limit(limit: Any, first: str) -> None:
    clock = Clock()
    timer = Timer(limit, clock=clock)
    stops = [name for name, action in passes(timer, clock) if action is not None]
    assert stops[0] == first


def test_timer_says_why_it_stops() -> None:
    clock = Clock()
    timer = Timer("0.1 minutes", clock=clock)
    assert next(passes(timer, clock))[1] == Stop("the run has taken 6 seconds, of at most 6")


def test_a_resumed_timer_has_only_the_rest_of_the_time() -> None:
    clock = Clock()
    first = Timer(20, clock=clock)
    list(passes(first, clock))
    clock.now += 1
    state = first.state_dict()
    assert state == {"seconds": {"train": 10, "validation": 4, "total": 17.5}}
    clock.now += 1000
    second = Timer(20, clock=clock)
    second.load_state_dict(state)
    assert next(passes(second, clock)) == (
        "update 0",
        Stop("the run has taken 23.5 seconds, of at most 20"),
    )
    assert state["seconds"]["total"] == 17.5


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan"), True, "3 steps", "soon"])
def test_timer_refuses_other_limits(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"got|max_seconds"):
        Timer(limit)


# ThroughputMonitor


def test_throughput_is_that_of_the_window_without_its_validation() -> None:
    clock = Clock()
    logged: list[tuple[dict[str, float], int]] = []
    monitor = ThroughputMonitor(
        lambda values, step: logged.append((dict(values), step)),
        tokens_per_sample=10,
        flops_per_sample=6,
        peak_flops=120,
        every=2,
        clock=clock,
    )
    monitor.on_train_begin(at(samples=1000))
    clock.now += 1
    monitor.on_step_end(at(step=1, samples=1010))
    assert monitor.rates == {}
    clock.now += 1
    monitor.on_validation_begin(at(step=1))
    clock.now += 50
    monitor.on_validation_end(at(step=1))
    clock.now += 2
    monitor.on_step_end(at(step=2, samples=1020))
    clock.now += 1
    monitor.on_step_end(at(step=4, samples=1030))
    expected = {
        "samples_per_second": 5,
        "tokens_per_second": 50,
        "flops_per_second": 30,
        "mfu": 0.25,
    }
    assert logged[0] == (pytest.approx(expected), 2)
    assert logged[1] == (pytest.approx({name: 2 * v for name, v in expected.items()}), 4)
    assert monitor.rates == logged[1][0]


def test_throughput_measures_only_what_it_was_told_about() -> None:
    clock = Clock()
    monitor = ThroughputMonitor(every=1, clock=clock)
    monitor.on_train_begin(STATE)
    monitor.on_step_end(at(step=1, samples=4))
    assert monitor.rates == {}, "no time has passed"
    clock.now += 2
    monitor.on_step_end(at(step=2, samples=8))
    assert monitor.rates == {"samples_per_second": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be a positive int, got 0"),
        ({"tokens_per_sample": 0}, "tokens_per_sample must be above 0 and finite, or None; got 0"),
        ({"flops_per_sample": -1}, "flops_per_sample must be above 0"),
        ({"flops_per_sample": 1, "peak_flops": float("inf")}, "peak_flops must be above 0"),
        ({"peak_flops": 1}, "peak_flops needs flops_per_sample, which is None"),
    ],
)
def test_throughput_says_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThroughputMonitor(**arguments)


# DeviceStats


def test_device_stats_see_the_memory_that_the_process_takes() -> None:
    logged: list[tuple[dict[str, float], int]] = []
    stats = DeviceStats(2, log=lambda values, step: logged.append((dict(values), step)))
    stats.on_step_end(at(step=1))
    assert stats.values == {}
    stats.on_step_end(at(step=2, loss=torch.zeros(())))
    before = stats.values["rss_bytes"]
    taken = torch.ones(16 * 2**20)
    stats.on_step_end(at(step=4))
    assert 0.9 * 4 * taken.numel() < stats.values["rss_bytes"] - before < 8 * taken.numel()
    assert stats.values.keys() == {"rss_bytes"}
    assert [step for _, step in logged] == [2, 4]
    assert logged[-1][0] == stats.values
    with pytest.raises(ValueError, match="every must be a positive int, got 0"):
        DeviceStats(0)


def test_device_stats_have_the_peak_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stats = DeviceStats(1)
    stats.on_step_end(at(step=1))
    now = stats.values["rss_bytes"]
    monkeypatch.setattr(device_stats, "_STATM", tmp_path / "none")
    stats.on_step_end(at(step=2))
    assert stats.values.keys() == {"max_rss_bytes"}
    assert stats.values["max_rss_bytes"] >= 0.9 * now


def test_device_stats_ask_cuda_for_the_device_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 1)
    for index, name in enumerate(("memory_allocated", "memory_reserved", "max_memory_allocated")):
        monkeypatch.setattr(torch.cuda, name, lambda of, n=index: (of == device) * (n + 1))
    stats = DeviceStats(1)
    stats.on_step_end(at(step=1, loss=SimpleNamespace(device=device)))
    del stats.values["rss_bytes"]
    assert stats.values == {
        "cuda_allocated_bytes": 1,
        "cuda_reserved_bytes": 2,
        "cuda_max_allocated_bytes": 3,
    }


# PlotCurves


def draw_run(curves: PlotCurves) -> None:
    curves.on_train_begin(STATE)
    for step in range(1, 7):
        window = {"loss": 1 / step, "lr": 0.1 / step, "samples_per_second": 9.0}
        curves.on_step_end(at(step=step, window=window if step % 2 == 0 else None))
        if step % 3 == 0:
            metrics = {"val_loss": 2 / step, "val_accuracy": step / 10}
            curves.on_validation_end(at(step=step, metrics=metrics))
            metrics |= {"train_loss": 1.5 / step, "train_accuracy": step / 9, "seconds": 3.0}
            curves.on_epoch_end(at(step=step, metrics=metrics))


def test_curves_have_each_value_once_at_its_step(tmp_path: Path) -> None:
    curves = PlotCurves(tmp_path / "curves.png")
    draw_run(curves)
    assert curves.points == {
        "loss": ([2, 4, 6], [1 / 2, 1 / 4, 1 / 6]),
        "lr": ([2, 4, 6], [0.1 / 2, 0.1 / 4, 0.1 / 6]),
        "val_loss": ([3, 6], [2 / 3, 2 / 6]),
        "val_accuracy": ([3, 6], [0.3, 0.6]),
        "train_loss": ([3, 6], [0.5, 0.25]),
        "train_accuracy": ([3, 6], [3 / 9, 6 / 9]),
    }


def test_curves_of_a_kind_share_axes_with_losses_on_top(tmp_path: Path) -> None:
    curves = PlotCurves(tmp_path / "curves.png")
    draw_run(curves)
    figure = curves.draw()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate", "accuracy"]
    assert [[line.get_label() for line in axes.lines] for axes in figure.axes] == [
        ["loss", "train_loss", "val_loss"],
        ["lr"],
        ["train_accuracy", "val_accuracy"],
    ]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [3, 2, 2]
    assert figure.axes[-1].get_xlabel() == "step"
    legends = [axes.get_legend() is not None for axes in figure.axes]
    assert legends == [True, False, True]


@pytest.mark.parametrize(
    ("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_curves_are_written_as_the_suffix_says_and_nothing_is_left_over(
    tmp_path: Path, suffix: str, begin: bytes
) -> None:
    path = tmp_path / f"curves.{suffix}"
    draw_run(PlotCurves(path, names=["loss", "seconds"]))
    assert path.read_bytes().startswith(begin)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_picture_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = PlotCurves(tmp_path / "curves.png")
    draw_run(curves)
    before = curves._path.read_bytes()

    def fail(self: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(curves._figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        curves.on_epoch_end(at(step=9, metrics={"train_loss": 1.0}))
    assert curves._path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["curves.png"]


def test_pyplot_knows_nothing_of_the_curves(tmp_path: Path) -> None:
    from matplotlib import _pylab_helpers

    draw_run(PlotCurves(tmp_path / "curves.png"))
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


def test_curves_of_a_resumed_run_go_on_and_those_of_another_begin_anew(tmp_path: Path) -> None:
    first = PlotCurves(tmp_path / "curves.png", names=("val_loss",))
    draw_run(first)
    state = first.state_dict()
    assert state == {"points": {"val_loss": [[3, 6], [2 / 3, 2 / 6]]}}
    second = PlotCurves(tmp_path / "curves.png", names=("val_loss",))
    second.load_state_dict(state)
    second.on_train_begin(at(step=6))
    second.on_validation_end(at(step=9, metrics={"val_loss": 0.1}))
    assert second.points["val_loss"][0] == [3, 6, 9]
    assert state["points"]["val_loss"][0] == [3, 6]
    second.on_train_begin(STATE)
    assert second.points == {}


def test_curves_say_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"path must end in \.png, \.svg or \.pdf, got 'a\.gif'"):
        PlotCurves("a.gif")
    with pytest.raises(ValueError, match="names must hold a name, or be None for all; got none"):
        PlotCurves("a.png", names=[])
    Callbacks([PlotCurves(tmp_path / "a.png"), PlotCurves(tmp_path / "b.png")])
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'hotloop\[plots\]'"):
        PlotCurves("a.png")


# ModelSummary


class Net(nn.Module):
    """Has a frozen part, a shared one, dropout and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.last = self.body[0]
        self.body[1].requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"name": "out", "y": (self.last(self.body(self.first(x))),)}


def test_summary_counts_shared_parameters_once_and_operations_by_hand() -> None:
    rows = summarize(Net(), torch.ones(2, 3))
    first, shared = 2 * 2 * 3 * 4, 2 * 2 * 4 * 4
    assert rows == [
        SummaryRow("", "Net", 0, (2, 4), 16 + 20 + 8, 36, first + 2 * shared),
        SummaryRow("first", "Linear", 1, (2, 4), 16, 16, first),
        SummaryRow("body", "Sequential", 1, (2, 4), 28, 20, shared),
        SummaryRow("body.0", "Linear", 2, (2, 4), 20, 20, 2 * shared),
        SummaryRow("body.1", "BatchNorm1d", 2, (2, 4), 8, 0, 0),
        SummaryRow("body.2", "Dropout", 2, (2, 4), 0, 0, 0),
    ]


def test_summary_without_inputs_knows_neither_shapes_nor_operations() -> None:
    rows = summarize(Net(), depth=1)
    assert [row.name for row in rows] == ["", "first", "body"]
    assert all(row.output_shape is None and row.flops is None for row in rows)
    assert [row.name for row in summarize(Net(), depth=0)] == [""]
    with pytest.raises(ValueError, match="depth must be an int of at least 0, got -1"):
        summarize(Net(), depth=-1)


@pytest.mark.parametrize(
    "inputs", [torch.ones(2, 3), [torch.ones(2, 3)], {"x": torch.ones(2, 3)}], ids=str
)
@pytest.mark.parametrize("is_failing", [False, True])
def test_summary_leaves_the_model_and_the_generators_alone(inputs: Any, is_failing: bool) -> None:
    net = Net()
    # The statistics are in training mode.
    net.body[2].eval()
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    if is_failing:
        net.last.register_forward_hook(lambda *_: torch.rand(1) / 0 + _fail())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    generator = torch.get_rng_state()
    if is_failing:
        with pytest.raises(RuntimeError, match="broken"):
            summarize(net, inputs)
    else:
        summarize(net, inputs)
    assert [module.training for module in net.modules()] == modes
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert after == hooks
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all((param.grad == 1).all() for param in net.parameters())


def _fail() -> Tensor:
    raise RuntimeError("broken")


def printed(summary: ModelSummary, out: io.StringIO) -> str:
    summary.on_train_begin(STATE)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_summary_prints_a_table_and_the_totals() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    assert (
        printed(ModelSummary(Net(), torch.ones(2, 3), console=console), out)
        == """
 name       type          output shape          parameters   FLOPs
 ─────────────────────────────────────────────────────────────────
 first      Linear        [2, 4]                        16      48
 body       Sequential    [2, 4]         28 (20 trainable)      64
   body.0   Linear        [2, 4]                        20     128
   body.1   BatchNorm1d   [2, 4]           8 (0 trainable)       0
   body.2   Dropout       [2, 4]                         0       0

44 parameters, 36 of them trainable; 176 FLOPs of a forward pass"""
    )


def test_summary_prints_less_without_inputs() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    assert (
        printed(ModelSummary(Net(), depth=1, console=console), out)
        == """
 name    type                parameters
 ──────────────────────────────────────
 first   Linear                      16
 body    Sequential   28 (20 trainable)

44 parameters, 36 of them trainable"""
    )


# Ranks


def first_rank_of(rank: int) -> bool:
    return is_first_rank()


@pytest.mark.parametrize(("rank", "is_first"), [(None, True), ("0", True), ("1", False)])
def test_only_the_first_rank_prints_and_writes(
    rank: str | None, is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    model, tracker = nn.Linear(2, 1), FakeTracker()
    outputs = [io.StringIO() for _ in range(3)]
    terminal, plain, summary = (
        Console(file=output, force_terminal=output is outputs[0]) for output in outputs
    )
    Trainer(
        model,
        TrainingConfig(progress=False),
        [(torch.ones(3, 2), torch.ones(3, 1))],
        callbacks=[
            ProgressBar(terminal),
            ProgressBar(plain),
            ModelSummary(model, console=summary),
            PlotCurves(tmp_path / "curves.png"),
        ],
        loss=nn.MSELoss(),
        trackers=[tracker],
    ).train()
    has_written = [bool(output.getvalue()) for output in outputs]
    assert has_written == [is_first] * 3
    assert [name for name, *_ in tracker.calls] == (
        ["start", "log", "log", "finish"] if is_first else []
    )
    assert [path.name for path in tmp_path.iterdir()] == (["curves.png"] if is_first else [])


def test_the_rank_is_that_of_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_ranks(2, first_rank_of) == [True, False]
