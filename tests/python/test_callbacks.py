"""The order of hooks, actions, and what the progress bar prints."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from rich.console import Console

from hotloop.callbacks import (
    Callback,
    Callbacks,
    LearningRateMonitor,
    ProgressBar,
    Stop,
    TrainState,
)
from hotloop.optimizers import AdamW

STATE = TrainState(epoch=0, epochs=2, step=0, steps_per_epoch=3)


def test_only_overridden_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class First(Callback):
        def on_batch_end(self, state: TrainState) -> Stop:
            calls.append("first")
            return Stop("first")

    class Second(Callback):
        def on_batch_end(self, state: TrainState) -> None:
            calls.append("second")

    callbacks = Callbacks([First(), Callback(), Second()])
    assert callbacks.call("on_batch_end", STATE) == [Stop("first")]
    assert calls == ["first", "second"]
    assert callbacks.call("on_epoch_end", STATE) == []


def test_state_is_read_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        STATE.step = 3  # type: ignore[misc]


def run(bar: ProgressBar) -> None:
    state = STATE
    bar.on_train_begin(state)
    for epoch in range(2):
        for batch in range(3):
            step = 3 * epoch + batch + 1
            state = dataclasses.replace(state, epoch=epoch, step=step, loss=torch.tensor(0.5))
            bar.on_batch_end(state)
        bar.on_epoch_end(dataclasses.replace(state, metrics={"train_loss": 0.5, "x": 1 / 3}))
    bar.on_train_end(state)


def test_progress_bar_prints_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    run(ProgressBar(Console(file=out, highlight=False), refresh_seconds=0))
    assert out.getvalue().splitlines() == [
        "epoch     train_loss       x",
        "1/2           0.5000  0.3333",
        "2/2           0.5000  0.3333",
    ]


def test_progress_bar_draws_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=80)
    run(ProgressBar(console, refresh_seconds=0))
    assert "epoch 2/2" in out.getvalue()
    assert "6/6 loss 0.5000" in out.getvalue()


def test_progress_bar_reads_the_loss_only_to_show_it() -> None:
    class Unreadable:
        def __float__(self) -> float:
            raise AssertionError("read")

    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=True), refresh_seconds=1e9)
    bar.on_train_begin(STATE)
    bar._shown_at = float("inf")
    bar.on_batch_end(dataclasses.replace(STATE, loss=Unreadable()))
    bar.on_train_end(STATE)


def test_learning_rate_monitor_records_each_group() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = AdamW(groups)
    logged: list[tuple[dict[str, float], int]] = []
    monitor = LearningRateMonitor(
        optimizer, every=2, log=lambda values, step: logged.append((dict(values), step))
    )
    for _ in range(2):
        monitor.on_train_begin(STATE)
        for step in (1, 2, 2, 3, 4):
            optimizer.param_groups[0]["lr"] = step / 10
            monitor.on_batch_end(dataclasses.replace(STATE, step=step))
        assert monitor.steps == [0, 2, 4]
        assert monitor.values[1:] == [{"lr/0": 0.2, "lr/1": 0.2}, {"lr/0": 0.4, "lr/1": 0.2}]
    assert [step for _, step in logged] == [0, 2, 4] * 2
    assert logged[-1][0] == monitor.values[-1]
    momentum = LearningRateMonitor(optimizer, "momentum")
    momentum.on_train_begin(STATE)
    assert momentum.values == [{"momentum/0": 0.9, "momentum/1": 0.9}]
    with pytest.raises(ValueError, match="field must be one that the optimizer has, got 'rho'"):
        LearningRateMonitor(optimizer, "rho")
    with pytest.raises(ValueError, match="every must be a positive int, got 0"):
        LearningRateMonitor(optimizer, every=0)
