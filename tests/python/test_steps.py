"""Loops that the user writes, with `Steps` around them."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hotloop.callbacks import (
    Accumulate,
    Action,
    Actions,
    KeepWeights,
    RestoreWeights,
    Stop,
    TrainState,
    Validate,
)
from hotloop.config import TrainingConfig
from hotloop.loops import Steps, Trainer
from hotloop.optimizers import SGD, AdamW
from hotloop.testing import FakeClock, RecordingCallback, TinyModel, differences


def loader_of(*sizes: int) -> list[Tensor]:
    return [torch.full((size, 1), float(index)) for index, size in enumerate(sizes)]


def turns(steps: Steps) -> int:
    """Run to the end, and count the turns."""
    with steps:
        return sum(1 for _ in steps)


def turn(epoch: int, step: int) -> list[str]:
    return [
        f"on_batch_begin {epoch}:{step}",
        f"on_batch_end {epoch}:{step}",
        f"on_step_end {epoch}:{step + 1}",
    ]


# Hooks


def test_order_of_hooks() -> None:
    recording = RecordingCallback()
    assert turns(Steps(loader_of(2, 3), epochs=2, callbacks=[recording])) == 4
    assert recording.events == [
        "on_train_begin 0:0",
        *("on_epoch_begin 0:0", *turn(0, 0), *turn(0, 1), "on_epoch_end 0:2"),
        *("on_epoch_begin 1:2", *turn(1, 2), *turn(1, 3), "on_epoch_end 1:4"),
        "on_train_end 2:4",
    ]


def test_hooks_are_those_of_a_trainer() -> None:
    ours, theirs = RecordingCallback(), RecordingCallback()
    model = TinyModel()
    turns(Steps(model.batches(3), epochs=2, callbacks=[ours]))
    config = TrainingConfig(epochs=2, progress=False)
    loss = nn.functional.mse_loss
    Trainer(model, config, model.batches(3), callbacks=[theirs], loss=loss).train()
    assert ours.events == theirs.events
    progress = [
        [
            (s.epoch, s.epochs, s.batch, s.step, s.steps, s.steps_per_epoch, s.samples, s.skipped)
            for s in recording.states
        ]
        for recording in (ours, theirs)
    ]
    assert progress[0] == progress[1]


def test_what_hooks_see() -> None:
    recording = RecordingCallback()
    with Steps(loader_of(2, 3), epochs=2, callbacks=[recording], log_every=2) as steps:
        for index, _ in enumerate(steps):
            steps.log(loss=index, other=torch.tensor(2.0 * index))
    by_event = dict(zip(recording.events, recording.states))
    first = by_event["on_train_begin 0:0"]
    assert (first.epochs, first.steps, first.steps_per_epoch) == (2, 4, 2)
    assert (first.samples, first.loss, first.window, dict(first.metrics)) == (0, None, None, {})
    begin, end, step = (by_event[event] for event in turn(1, 2))
    assert (begin.batch, end.batch, step.batch) == (0, 1, 1)
    assert (begin.samples, end.samples, step.samples) == (5, 5, 7)
    assert [state.loss for state in (begin, end, step)] == [1.0, 1.0, 2.0]
    assert step.window is None
    assert begin.metrics == {"train_loss": 0.5, "train_other": 1.0}
    last = by_event["on_step_end 1:4"]
    assert last.window is not None
    assert last.window["loss"] == 2.5
    assert by_event["on_epoch_end 1:4"].metrics == {"train_loss": 2.5, "train_other": 5.0}


STOPS = {
    "on_train_begin 0:0": ["on_train_end 0:0"],
    "on_epoch_begin 0:0": ["on_train_end 0:0"],
    "on_batch_begin 0:1": [*turn(0, 1)[1:], "on_epoch_end 0:2", "on_train_end 1:2"],
    "on_batch_end 0:1": ["on_step_end 0:2", "on_epoch_end 0:2", "on_train_end 1:2"],
    "on_step_end 0:1": ["on_epoch_end 0:1", "on_train_end 1:1"],
    "on_epoch_end 0:3": ["on_train_end 1:3"],
    "on_epoch_begin 1:3": ["on_train_end 1:3"],
    "on_train_end 2:6": [],
}


@pytest.mark.parametrize("event", STOPS)
def test_stop_from_each_hook(event: str) -> None:
    def act(seen: str, state: TrainState) -> Actions:
        return Stop("told") if seen == event else None

    recording = RecordingCallback(act)
    other = RecordingCallback()
    steps = Steps(loader_of(1, 1, 1), epochs=2, callbacks=[recording, other])
    turns(steps)
    assert recording.events[recording.events.index(event) + 1 :] == STOPS[event]
    assert other.events == recording.events
    is_late = event.startswith("on_train_end")
    assert steps.history.stop_reason == (None if is_late else "told")
    # "end" hooks run in the opposite order.
    first = (other if "_end" in event else recording).states[recording.events.index(event)]
    assert first.stop_reason is None
    assert recording.states[-1].stop_reason == (None if is_late else "told")


def test_the_first_reason_counts() -> None:
    recording = RecordingCallback(lambda event, state: Stop(event))
    steps = Steps(loader_of(1, 1), callbacks=[recording])
    assert turns(steps) == 0
    assert steps.history.stop_reason == "on_train_begin 0:0"


def test_other_actions_have_no_effect() -> None:
    asked: list[Action] = [Validate(), Accumulate(3), KeepWeights(), RestoreWeights()]
    recording = RecordingCallback(lambda event, state: asked)
    plain = RecordingCallback()
    turns(Steps(loader_of(1, 1), epochs=2, callbacks=[recording]))
    turns(Steps(loader_of(1, 1), epochs=2, callbacks=[plain]))
    assert recording.events == plain.events


# The end of a run


def test_without_a_limit_there_is_one_epoch() -> None:
    steps = Steps(loader_of(1, 1, 1))
    assert turns(steps) == 3


@pytest.mark.parametrize(
    ("limits", "count", "end"),
    [
        ({"max_steps": 3}, 3, ["on_epoch_end 1:3", "on_train_end 2:3"]),
        ({"max_steps": 2}, 2, ["on_epoch_end 0:2", "on_train_end 1:2"]),
        ({"epochs": 2, "max_steps": 3}, 3, ["on_epoch_end 1:3", "on_train_end 2:3"]),
        ({"epochs": 2, "max_steps": 99}, 4, ["on_epoch_end 1:4", "on_train_end 2:4"]),
    ],
)
def test_steps_end_a_run_inside_of_an_epoch(limits: Any, count: int, end: list[str]) -> None:
    recording = RecordingCallback()
    with Steps(loader_of(1, 1), **limits, callbacks=[recording]) as steps:
        for index, _ in enumerate(steps):
            steps.log(loss=index)
    epoch = (count - 1) // 2
    assert recording.events[-3:] == [turn(epoch, count - 1)[-1], *end]
    assert [state.steps for state in recording.states] == [count] * len(recording.states)
    # The last window is a short one.
    assert steps.history.history("loss") == [(count, (count - 1) / 2)]


@pytest.mark.parametrize(("seconds", "count"), [(10, 3), (8, 2), (8.1, 3), (0.1, 1)])
def test_time_ends_a_run_after_the_turn(seconds: float, count: int) -> None:
    clock = FakeClock()
    steps = Steps(loader_of(1, 1), max_seconds=seconds, clock=clock)
    # What lies before the run is no part of it.
    clock.advance(1000)
    with steps:
        seen = 0
        for _ in steps:
            seen += 1
            clock.advance(4)
    assert seen == count
    assert steps.history.stop_reason is None


class Counter:
    """Yields forever, and has no length."""

    def __iter__(self) -> Iterator[Tensor]:
        index = 0
        while True:
            yield torch.full((2,), float(index))
            index += 1


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(6.0))


def test_loaders_without_a_length() -> None:
    recording = RecordingCallback()
    assert turns(Steps(Counter(), max_steps=5, callbacks=[recording])) == 5
    assert (recording.states[0].steps, recording.states[0].steps_per_epoch) == (5, None)
    # It has a `__len__` that raises.
    stream = DataLoader(Stream(), batch_size=4)
    recording = RecordingCallback()
    assert turns(Steps(stream, epochs=2, callbacks=[recording])) == 4
    last = recording.states[-1]
    assert (last.steps, last.steps_per_epoch, last.samples) == (None, None, 12)


def test_a_loader_that_yields_nothing() -> None:
    recording = RecordingCallback()
    with pytest.raises(ValueError, match="the loader yields no batch; check its dataset and"):
        turns(Steps([], callbacks=[recording]))
    assert [event.split()[0] for event in recording.events] == [
        *("on_train_begin", "on_epoch_begin", "on_exception", "on_train_end")
    ]
    recording = RecordingCallback()
    once = iter(loader_of(1, 1))
    with pytest.raises(ValueError, match="the loader yields no batch"):
        turns(Steps(once, epochs=2, callbacks=[recording]))
    assert recording.events[-3:] == [
        *("on_epoch_begin 1:2", "on_exception 1:2 ValueError", "on_train_end 1:2")
    ]


def test_turns_need_a_run() -> None:
    steps = Steps(loader_of(1))
    message = "iterate inside of `with steps:`, so that the run can end properly"
    with pytest.raises(RuntimeError, match=message):
        next(iter(steps))
    turns(steps)
    with pytest.raises(RuntimeError, match=message):
        next(iter(steps))


def test_a_run_that_fails_to_begin_has_not_begun() -> None:
    def act(event: str, state: TrainState) -> Actions:
        if event == "on_train_begin 0:0":
            raise KeyError("told")
        return None

    recording = RecordingCallback(act)
    steps = Steps(loader_of(1), callbacks=[recording])
    with pytest.raises(KeyError, match="told"), steps:
        pytest.fail("not reached")
    assert recording.events[1:] == ["on_exception 0:0 KeyError", "on_train_end 0:0"]
    with pytest.raises(RuntimeError, match="iterate inside of"):
        next(iter(steps))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive int, or None, got 0"),
        ({"epochs": 1.5}, "epochs must be a positive int, or None, got 1.5"),
        ({"max_steps": -1}, "max_steps must be a positive int, or None, got -1"),
        ({"max_steps": math.nan}, "max_steps must be a positive int, or None, got nan"),
        ({"max_seconds": 0}, "max_seconds must be above 0 and finite, or None, got 0"),
        ({"log_every": "0 steps"}, "log_every: amount must be above 0 and finite, got 0.0"),
        ({"log_every": "now"}, "log_every: a cadence must be a number of steps or a text"),
    ],
)
def test_limits_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Steps(loader_of(1), **arguments)


def test_windows_in_epochs_need_their_length() -> None:
    with pytest.raises(ValueError, match=r"'0.5 epochs' needs the length of an epoch"):
        Steps(Counter(), max_steps=3, log_every="0.5 epochs")


# What the body does


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_of_the_body_ends_the_run(kind: type[BaseException]) -> None:
    recording = RecordingCallback()
    error = kind("of the body")
    steps = Steps(loader_of(1, 1, 1), callbacks=[recording])

    def run() -> None:
        with steps:
            for index, _ in enumerate(steps):
                steps.log(loss=index)
                if index == 1:
                    raise error

    with pytest.raises(kind) as caught:
        run()
    assert caught.value is error
    assert recording.errors == [error]
    assert recording.events[-4:] == [
        "on_step_end 0:1",
        "on_batch_begin 0:1",
        f"on_exception 0:1 {kind.__name__}",
        "on_train_end 0:1",
    ]
    assert "train_loss" not in steps.history


def test_a_callback_that_fails_at_the_end_hides_no_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def act(event: str, state: TrainState) -> Actions:
        if event.startswith(("on_exception", "on_train_end")):
            raise KeyError(event)
        return None

    first, second = RecordingCallback(act), RecordingCallback()

    def run() -> None:
        with Steps(loader_of(1), callbacks=[first, second]) as steps:
            for _ in steps:
                raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "hotloop"), pytest.raises(ZeroDivisionError):
        run()
    assert first.events[-2:] == second.events[-2:]
    assert [record.getMessage() for record in caplog.records] == [
        f"RecordingCallback.{hook} failed while the run ended"
        for hook in ("on_exception", "on_train_end")
    ]
    with pytest.raises(KeyError, match="on_train_end 1:1"):
        turns(Steps(loader_of(1), callbacks=[RecordingCallback(act)]))


def test_a_break_leaves_its_turn_uncounted() -> None:
    recording = RecordingCallback()
    with Steps(loader_of(1, 1, 1), callbacks=[recording]) as steps:
        for index, _ in enumerate(steps):
            steps.log(loss=index)
            if index == 1:
                break
    assert recording.events[-3:] == ["on_step_end 0:1", "on_batch_begin 0:1", "on_train_end 0:1"]
    assert recording.errors == []
    assert steps.history.stop_reason is None
    assert steps.history.names() == []


def test_two_optimizers_give_the_bits_of_a_loop_by_hand() -> None:
    batches = [torch.randn(4, 3) for _ in range(5)]
    runs: list[list[Tensor]] = []
    losses: list[float] = []
    for is_by_hand in (True, False):
        torch.manual_seed(0)
        generator, critic = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        of_g, of_d = AdamW(generator.parameters(), lr=0.01), SGD(critic.parameters(), lr=0.1)
        torch.manual_seed(1)

        def step(real: Tensor, g=generator, d=critic, of_g=of_g, of_d=of_d) -> Any:  # type: ignore[no-untyped-def]
            fake = g(torch.randn(len(real), 2))
            d_loss = d(fake.detach()).mean() - d(real).mean()
            of_d.zero_grad()
            d_loss.backward()
            of_d.step()
            g_loss = -d(fake).mean()
            of_g.zero_grad()
            g_loss.backward()
            of_g.step()
            return d_loss, g_loss

        if is_by_hand:
            for real in batches * 2:
                losses.append(step(real)[1].item())
        else:
            with Steps(batches, epochs=2, optimizers=(of_d, of_g), log_every=5) as steps:
                for real in steps:
                    d_loss, g_loss = step(real)
                    steps.log(loss=g_loss, d_loss=d_loss)
        runs.append([*generator.parameters(), *critic.parameters()])
    assert differences(*runs) == []
    means = [sum(losses[:5]) / 5, sum(losses[5:]) / 5]
    assert steps.history["train_loss"] == pytest.approx(means, rel=1e-14)
    assert steps.history["loss"] == steps.history["train_loss"]
    assert steps.history["lr/0"] == [0.1, 0.1]
    assert steps.history["lr/1"] == [0.01, 0.01]
    assert len(steps.history["train_d_loss"]) == 2


# What is logged


def test_means_are_of_the_turns_that_logged() -> None:
    with Steps(loader_of(1, 2, 3), epochs=2) as steps:
        for index, batch in enumerate(steps):
            # Turns count alike, whatever the size of their batch.
            assert len(batch) == index % 3 + 1
            steps.log(loss=2**index, always=torch.tensor(float(index)))
            if index % 2 == 0:
                steps.log(even=float(index))
            if index == 1:
                steps.log(once=0.1)
    history = steps.history
    assert history.history("train_loss") == [(3, 7 / 3), (6, 56 / 3)]
    assert history["train_always"] == [1, 4]
    assert history["train_even"] == [1, 4]
    assert history.history("train_once") == [(3, 0.1)]
    assert history.names() == [
        *("train_loss", "train_always", "train_even", "train_once", "loss"),
        "samples_per_second",
    ]


def test_means_of_many_turns_are_exact() -> None:
    values = [index / 7 for index in range(600)]
    with Steps(loader_of(*[1] * 600)) as steps:
        for index, _ in enumerate(steps):
            steps.log(of_floats=values[index], of_tensors=torch.tensor(values[index]))
            steps.log(of_graphs=torch.tensor(1.5, requires_grad=True) * 2)
    (of_floats,) = steps.history["train_of_floats"]
    assert of_floats == pytest.approx(math.fsum(values) / 600, rel=1e-15)
    (of_tensors,) = steps.history["train_of_tensors"]
    assert of_tensors == pytest.approx(torch.tensor(values).double().mean().item(), rel=1e-15)
    assert steps.history["train_of_graphs"] == [3]
    assert "loss" not in steps.history


def test_a_logged_loss_keeps_no_graph() -> None:
    recording = RecordingCallback()
    with Steps(loader_of(1), callbacks=[recording]) as steps:
        for _ in steps:
            steps.log(loss=torch.tensor(1.5, requires_grad=True) * 2)
    assert recording.states[-1].loss == 3
    assert not recording.states[-1].loss.requires_grad


def test_several_values_of_a_turn_are_all_counted() -> None:
    with Steps(loader_of(1, 1)) as steps:
        for index, _ in enumerate(steps):
            for value in range(index + 2):
                steps.log(loss=value)
    assert steps.history["train_loss"] == [(0 + 1 + 0 + 1 + 2) / 5]


@pytest.mark.parametrize(
    ("log_every", "expected"),
    [
        (3, [(3, 1), (6, 4), (8, 6.5)]),
        ("1 step", [(step, step - 1) for step in range(1, 9)]),
        ("0.5 epochs", [(2, 0.5), (4, 2.5), (6, 4.5), (8, 6.5)]),
        ("1 epoch", [(4, 1.5), (8, 5.5)]),
        ("2 epochs", [(8, 3.5)]),
        ("9 seconds", [(3, 1), (6, 4), (8, 6.5)]),
        ("0.1 minutes", [(2, 0.5), (4, 2.5), (6, 4.5), (8, 6.5)]),
        ("50 steps", [(8, 3.5)]),
    ],
)
def test_windows_hold_the_mean_loss_since_the_last(log_every: Any, expected: list[Any]) -> None:
    clock = FakeClock()
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    batches = loader_of(1, 2, 3, 4)
    with Steps(
        batches, epochs=2, log_every=log_every, clock=clock, optimizers=iter([optimizer])
    ) as steps:
        for index, _ in enumerate(steps):
            steps.log(loss=index)
            clock.advance(3)
    history = steps.history
    assert history.history("loss") == expected
    assert history["train_loss"] == [1.5, 5.5]
    assert history["lr"] == [0.5] * len(expected)
    samples = [0, 1, 3, 6, 10, 11, 13, 16, 20]
    ends = [0, *(step for step, _ in expected)]
    assert history["samples_per_second"] == [
        (samples[end] - samples[begin]) / (3 * (end - begin))
        for begin, end in itertools.pairwise(ends)
    ]


def test_a_loss_that_is_not_finite_is_shown_and_ends_nothing() -> None:
    with Steps(loader_of(1, 1, 1), log_every=1) as steps:
        for index, _ in enumerate(steps):
            steps.log(loss=[1.0, math.nan, math.inf][index])
    losses = steps.history["loss"]
    assert losses[0] == 1
    assert math.isnan(losses[1])
    assert losses[2] == math.inf
    assert math.isnan(steps.history["train_loss"][0])


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_what_is_no_scalar_is_not_logged(shape: tuple[int, ...]) -> None:
    message = re.escape(f"x must be a scalar, got shape {shape}")
    values: list[Any] = [torch.ones(shape), torch.ones(shape).tolist()]
    with Steps(loader_of(1)) as steps:
        for _ in steps:
            for value in values:
                with pytest.raises(ValueError, match=message):
                    steps.log(x=value)
            steps.log(y=1)
    assert sorted(steps.history.names()) == ["samples_per_second", "train_y"]


def test_values_stay_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    tolist = Tensor.tolist
    for name in ("item", "__float__", "__bool__", "__int__", "numpy"):

        def forbidden(*args: Any, name: str = name) -> None:
            raise AssertionError(name)

        monkeypatch.setattr(Tensor, name, forbidden)

    def read(tensor: Tensor) -> Any:
        reads.append(1)
        return tolist(tensor)

    monkeypatch.setattr(Tensor, "tolist", read)
    with Steps(loader_of(*[1] * 20), log_every=10) as steps:
        for _ in steps:
            steps.log(loss=torch.tensor(1.0))
    monkeypatch.undo()
    # One for each window; the epoch ends with one.
    assert len(reads) == 2
    assert steps.history["train_loss"] == [1]


# Batches


def test_batches_of_any_nesting_are_moved() -> None:
    batch: dict[str, Any] = {"x": [torch.ones(5, 2), (torch.ones(5),)], "name": "a"}
    with Steps([batch], device="meta") as steps:
        (moved,) = steps
    assert moved["x"][0].device.type == moved["x"][1][0].device.type == "meta"
    assert moved["x"][0].shape == (5, 2)
    assert moved["name"] == "a"
    assert batch["x"][0].device.type == "cpu"
    recording = RecordingCallback()
    with Steps([batch], device=torch.device("cpu"), callbacks=[recording]) as steps:
        (same,) = steps
    assert same is batch
    assert recording.states[-1].samples == 5


def test_batches_without_tensors_have_no_samples() -> None:
    recording = RecordingCallback()
    assert turns(Steps(range(3), callbacks=[recording])) == 3
    assert (recording.states[-1].step, recording.states[-1].samples) == (3, 0)
