"""The order of hooks, actions, and what the progress bar prints."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
import torch
from rich.console import Console

from hotloop.callbacks import (
    Accumulate,
    Action,
    Callback,
    Callbacks,
    EarlyStopping,
    KeepWeights,
    LearningRateMonitor,
    LogMetrics,
    ProgressBar,
    RestoreWeights,
    Stop,
    TrainState,
)
from hotloop.optimizers import AdamW
from hotloop.testing import FakeTracker

STATE = TrainState(epochs=2, steps=6, steps_per_epoch=3)


def test_only_overridden_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class First(Callback):
        def on_batch_begin(self, state: TrainState) -> Stop:
            calls.append("first")
            return Stop("first")

        def on_batch_end(self, state: TrainState) -> list[Action]:
            calls.append("first")
            return [Stop("first"), Accumulate(2), KeepWeights()]

    class Second(Callback):
        def on_batch_begin(self, state: TrainState) -> None:
            calls.append("second")

        def on_batch_end(self, state: TrainState) -> Action:
            calls.append("second")
            return RestoreWeights()

    callbacks = Callbacks([First(), Callback(), Second()])
    assert callbacks.call("on_batch_begin", STATE) == [Stop("first")]
    assert calls == ["first", "second"]
    asked = callbacks.call("on_batch_end", STATE)
    assert asked == [Accumulate(2), KeepWeights(), RestoreWeights(), Stop("first")]
    assert calls == ["first", "second", "second", "first"]
    assert list(callbacks.call("on_epoch_end", STATE)) == []
    assert callbacks.hooks["on_epoch_end"] == ()


def test_a_failing_tracker_does_not_stop_a_run(caplog: pytest.LogCaptureFixture) -> None:
    failing, working = FakeTracker(["start", "log", "finish"]), FakeTracker()
    log = LogMetrics([failing, working])
    log.on_train_begin(STATE)
    log.on_step_end(STATE._replace(step=2, window={"loss": 0.5}))
    log.on_train_end(STATE)
    assert working.logged == [({"loss": 0.5}, 2)]
    assert "FakeTracker" in caplog.text


def test_callbacks_that_cannot_be() -> None:
    class Stateful(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"a": 1}

    class Dependent(Callback):
        requires = (Stateful,)

    class Wrong(Callback):
        def on_epoch_end(self, state: TrainState) -> Any:
            return "stop"

    with pytest.raises(TypeError, match="callbacks must be instances of Callback, got 3"):
        Callbacks([3])  # type: ignore[list-item]
    one = Stateful()
    with pytest.raises(ValueError, match="is registered already"):
        Callbacks([one, one])
    with pytest.raises(ValueError, match="two callbacks have the state_key"):
        Callbacks([one, Stateful()])
    with pytest.raises(ValueError, match="Dependent needs a Stateful before it"):
        Callbacks([Dependent(), one])
    assert len(Callbacks([one, Dependent()])) == 2
    with pytest.raises(TypeError, match=r"on_epoch_end must return an action .* got 'stop'"):
        Callbacks([Wrong()]).call("on_epoch_end", STATE)
    with pytest.raises(ValueError, match="is not registered"):
        Callbacks([one]).remove(Stateful())
    with pytest.raises(ValueError, match="the state is of the callbacks"):
        Callbacks([one]).load_state_dict({"Other": {}})
    with pytest.raises(ValueError, match="batches must be a positive int, got 0"):
        Accumulate(0)


def test_state_is_read_only() -> None:
    with pytest.raises(AttributeError):
        STATE.step = 3  # type: ignore[misc]


def run(bar: ProgressBar) -> None:
    state = STATE
    bar.on_train_begin(state)
    for epoch in range(2):
        for batch in range(3):
            step = 3 * epoch + batch + 1
            state = state._replace(epoch=epoch, step=step, window={"loss": 0.5})
            bar.on_step_end(state)
        bar.on_epoch_end(state._replace(metrics={"train_loss": 0.5, "x": 1 / 3}))
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


def test_progress_bar_reads_nothing_from_a_device() -> None:
    class Unreadable:
        def __float__(self) -> float:
            raise AssertionError("read")

    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=True), refresh_seconds=0)
    bar.on_train_begin(STATE)
    bar.on_step_end(STATE._replace(loss=Unreadable(), window={"lr": 0.1}))
    bar.on_train_end(STATE)


def test_progress_bar_has_a_heading_for_new_columns_and_no_old_values() -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, highlight=False))
    bar.on_train_begin(STATE)
    bar.on_epoch_end(STATE._replace(metrics={"seconds": 1.0, "train_loss": 0.5}))
    metrics = {"val_loss": 0.25, "seconds": 1.0, "train_loss": 0.5}
    bar.on_validation_end(STATE._replace(epoch=1, metrics=metrics))
    bar.on_epoch_end(STATE._replace(epoch=1, metrics=metrics))
    bar.on_epoch_end(STATE._replace(epoch=2, epochs=None, metrics=metrics))
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["epoch", "train_loss", "seconds"],
        ["1/2", "0.5000", "1.0000"],
        ["epoch", "train_loss", "val_loss", "seconds"],
        ["2/2", "0.5000", "0.2500", "1.0000"],
        ["3", "0.5000", "1.0000"],
    ]


def values_of(stopping: EarlyStopping, values: list[float]) -> list[Any]:
    return [
        stopping.on_validation_end(STATE._replace(epoch=i, step=i, metrics={"val_loss": value}))
        for i, value in enumerate(values)
    ]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "values", "stops"),
    [
        ({"patience": 2}, [1, 0.9, 0.91, 0.92], "has not improved 2 times; the best is 0.9 at"),
        ({"patience": 2}, [1, 0.9, 0.91, 0.89, 0.9], None),
        ({"patience": 2, "mode": "max"}, [0.5, 0.6, 0.6, 0.6], "has not improved 2 times"),
        # At the edge of min_delta there is no improvement.
        ({"patience": 1, "min_delta": 0.5}, [2, 1.5], "has not improved 1 times"),
        ({"patience": 1, "min_delta": 0.5}, [2, 1.25], None),
        ({"patience": 1, "min_delta": 0.5, "is_relative": True}, [-2, -3], "not improved"),
        ({"patience": 1, "min_delta": 0.5, "is_relative": True}, [-2, -3.5], None),
        ({}, [1, NAN], "val_loss is nan"),
        ({}, [1, -INF], "val_loss is -inf"),
        ({"check_finite": False, "patience": 2}, [NAN, NAN], "the best is none yet"),
        ({"check_finite": False, "patience": 2}, [NAN, 1, NAN], None),
        ({"target": 0.5}, [1, 0.5], "has reached 0.5"),
        ({"divergence": 5.0}, [1, 6], "worse than 5"),
        ({"patience": 1, "min_epochs": 4}, [1, 2, 2], None),
        ({"patience": 1, "min_epochs": 4}, [1, 2, 2, 2], "has not improved 3 times"),
    ],
)
def test_early_stopping(options: dict[str, Any], values: list[float], stops: str | None) -> None:
    answers = values_of(EarlyStopping(**options), values)
    assert not any(answers[:-1])
    if stops is None:
        assert not answers[-1]
    else:
        (action,) = answers[-1]
        assert isinstance(action, Stop)
        assert stops in action.reason


def test_early_stopping_goes_on_with_its_patience() -> None:
    first, second = EarlyStopping(patience=2), EarlyStopping(patience=2)
    assert not any(values_of(first, [1.0, 2.0]))
    second.load_state_dict(first.state_dict())
    assert values_of(second, [2.0])[0]
    assert first.state_key == "EarlyStopping(val_loss)"


def test_early_stopping_says_when_it_cannot_see() -> None:
    stopping = EarlyStopping("train_acc", patience=1)
    assert stopping.on_validation_end(STATE._replace(metrics={"val_loss": 1.0})) is None
    with pytest.raises(KeyError, match="'train_acc' is none of train_loss"):
        stopping.on_epoch_end(STATE._replace(metrics={"train_loss": 1.0}))
    with pytest.warns(UserWarning, match="never seen its metric 'val_loss'"):
        EarlyStopping().on_train_end(STATE._replace(step=3))
    for options, message in (
        ({"mode": "low"}, "unknown mode 'low'"),
        ({"patience": 0}, "patience must be a positive int, got 0"),
        ({"min_delta": -1}, "min_delta must be at least 0 and finite, got -1"),
        ({"min_epochs": 0.5}, "min_epochs must be an int of at least 0, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            EarlyStopping(**options)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (None, "finished"),
        ("why", "stopped"),
        (ValueError(), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_log_metrics_writes_what_was_measured(
    ending: Any, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = FakeTracker()
    logger = logging.getLogger("test")
    log = LogMetrics([tracker], logger=logger, config={"a": 1}, run_id="run")
    with caplog.at_level(logging.INFO):
        log.on_train_begin(STATE)
        log.on_step_end(STATE._replace(step=1))
        log.on_step_end(STATE._replace(step=2, window={"loss": 0.5}))
        metrics = {"train_loss": 0.25, "val_loss": 0.125}
        log.on_validation_end(STATE._replace(step=2, metrics=metrics))
        log.on_epoch_end(STATE._replace(step=2, metrics=metrics))
        end = STATE
        if isinstance(ending, BaseException):
            log.on_exception(STATE, ending)
        else:
            end = STATE._replace(stop_reason=ending)
        log.on_train_end(end)
        log.on_train_end(end)
    assert tracker.calls == [
        ("start", {"a": 1}, "run"),
        ("log", {"loss": 0.5}, 2),
        ("log", {"val_loss": 0.125}, 2),
        ("log", {"epoch": 1, "train_loss": 0.25}, 2),
        ("finish", status),
    ]
    assert [record.message for record in caplog.records] == [
        *("step 2 loss=0.5", "step 2 val_loss=0.125", "step 2 epoch=1 train_loss=0.25")
    ]


def test_learning_rate_monitor_records_each_group() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = AdamW(groups)
    logged: list[tuple[dict[str, float], int]] = []
    monitor = LearningRateMonitor(
        optimizer, every=2, log=lambda values, step: logged.append((dict(values), step))
    )
    for _ in range(2):
        monitor.on_train_begin(STATE)
        for step in (1, 2, 3, 4):
            optimizer.param_groups[0]["lr"] = step / 10
            monitor.on_step_end(STATE._replace(step=step))
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
