"""The order of hooks: of a whole run, and of each way in which one ends early."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from hotloop.callbacks import Accumulate, Action, Callback, Callbacks, Stop, TrainState, Validate
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.testing import NanInjector, RecordingCallback, TinyModel

#: The first call of each hook in a run of `make`, but for those that need something special.
FIRST = {
    "on_train_begin": "on_train_begin 0:0",
    "on_epoch_begin": "on_epoch_begin 0:0",
    "on_batch_begin": "on_batch_begin 0:0",
    "on_batch_end": "on_batch_end 0:0",
    "on_step_end": "on_step_end 0:1",
    "on_step_skipped": "on_step_skipped 0:0",
    "on_validation_begin": "on_validation_begin 0:2",
    "on_validation_end": "on_validation_end 0:2",
    "on_epoch_end": "on_epoch_end 0:2",
}


def make(*callbacks: Callback, batches: int = 2, loader: Any = None, **settings: Any) -> Trainer:
    """Return a trainer of two epochs with two updates and a validation each."""
    model = TinyModel()
    return Trainer(
        model,
        TrainingConfig(**{"epochs": 2, "progress": False, **settings}),
        model.batches(batches) if loader is None else loader,
        TinyModel(seed=5).batches(1),
        callbacks,
        loss=nn.functional.mse_loss,
    )


def lines(text: str) -> list[str]:
    """Return the events of a text, one a line; "batch" and "step" stand for what they take."""
    events: list[str] = []
    for line in text.split("\n"):
        name, _, at = line.strip().partition(" ")
        if name == "batch":
            events += [f"on_batch_begin {at}", f"on_batch_end {at}"]
        elif name == "update":
            epoch, step = at.split(":")
            events += [f"on_batch_begin {at}", f"on_batch_end {at}"]
            events.append(f"on_step_end {epoch}:{int(step) + 1}")
        elif name == "validation":
            events += [f"on_validation_begin {at}", f"on_validation_end {at}"]
        elif name:
            events.append(f"on_{name} {at}")
    return events


def at(event: str, action: Action) -> Callable[[str, TrainState], Action | None]:
    """Return what asks for an action at the first of such events."""
    asked: list[str] = []

    def act(seen: str, state: TrainState) -> Action | None:
        if seen == event and not asked:
            asked.append(seen)
            return action
        return None

    return act


def failing(event: str, error: BaseException) -> Callable[[str, TrainState], None]:
    """Return what raises at an event."""

    def act(seen: str, state: TrainState) -> None:
        if seen == event:
            raise error

    return act


WHOLE = """
    train_begin 0:0
    epoch_begin 0:0
    update 0:0
    update 0:1
    validation 0:2
    epoch_end 0:2
    epoch_begin 1:2
    update 1:2
    update 1:3
    validation 1:4
    epoch_end 1:4
    train_end 2:4
"""


def test_a_whole_run() -> None:
    recording = RecordingCallback()
    make(recording).train()
    assert recording.events == lines(WHOLE)


def test_ends_are_called_in_the_opposite_order_of_begins() -> None:
    order: list[str] = []
    names = ("first", "second")
    callbacks = [
        RecordingCallback(lambda event, state, name=name: order.append(f"{name} {event}"))
        for name in names
    ]
    make(*callbacks, epochs=1).train()
    expected = [
        f"{name} {event}"
        for event in callbacks[0].events
        for name in (names[::-1] if event.split()[0].endswith("_end") else names)
    ]
    assert order == expected


def test_states_have_the_counts_of_their_time() -> None:
    recording = RecordingCallback()
    make(recording, epochs=1, log_every="2 steps").train()
    seen = [
        (event.split()[0][3:], state.batch, state.samples, state.window is not None)
        for event, state in zip(recording.events, recording.states)
    ]
    assert seen == [
        ("train_begin", 0, 0, False),
        ("epoch_begin", 0, 0, False),
        ("batch_begin", 0, 0, False),
        ("batch_end", 1, 0, False),
        ("step_end", 1, 4, False),
        ("batch_begin", 1, 4, False),
        ("batch_end", 2, 4, False),
        ("step_end", 2, 8, True),
        ("validation_begin", 2, 8, False),
        ("validation_end", 2, 8, False),
        ("epoch_end", 2, 8, False),
        ("train_end", 0, 8, False),
    ]
    by_hook = {event.split()[0]: state for event, state in zip(recording.events, recording.states)}
    assert "val_loss" not in by_hook["on_validation_begin"].metrics
    assert "val_loss" in by_hook["on_validation_end"].metrics
    assert by_hook["on_epoch_end"].metrics.keys() == {"train_loss", "val_loss", "seconds"}


def test_max_steps_inside_an_epoch_ends_it_as_a_whole_one() -> None:
    recording = RecordingCallback()
    history = make(recording, max_steps=3).train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        update 0:1
        validation 0:2
        epoch_end 0:2
        epoch_begin 1:2
        update 1:2
        validation 1:3
        epoch_end 1:3
    """
    # The epoch of the last hook is not looked at: the one that was cut short may count or not.
    assert recording.events[:-1] == lines(expected)
    assert recording.events[-1].startswith("on_train_end")
    assert history.stop_reason is None


STOPS = {
    "on_train_begin": "train_begin 0:0",
    "on_epoch_begin": """
        train_begin 0:0
        epoch_begin 0:0
    """,
    # The update that a batch belongs to is completed.
    "on_batch_begin": """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
    """,
    "on_batch_end": """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
    """,
    "on_step_end": """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
    """,
    "on_step_skipped": """
        train_begin 0:0
        epoch_begin 0:0
        batch 0:0
        step_skipped 0:0
    """,
    "on_validation_begin": """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        update 0:1
        validation 0:2
        epoch_end 0:2
    """,
    "on_validation_end": """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        update 0:1
        validation 0:2
        epoch_end 0:2
    """,
    "on_epoch_end": """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        update 0:1
        validation 0:2
        epoch_end 0:2
    """,
}


@pytest.mark.parametrize("hook", STOPS)
def test_stop_from_each_hook(hook: str) -> None:
    recording = RecordingCallback(at(FIRST[hook], Stop(f"from {hook}")))
    loader = NanInjector(TinyModel().batches(2), 0) if hook == "on_step_skipped" else None
    nonfinite = "raise" if loader is None else "skip"
    history = make(recording, loader=loader, nonfinite=nonfinite).train()
    expected = lines(STOPS[hook])
    assert recording.events[: len(expected)] == expected
    rest = [event.split()[0] for event in recording.events[len(expected) :]]
    # Whether an epoch that was cut short is validated and gets its end is another matter.
    ends = {"on_validation_begin", "on_validation_end", "on_epoch_end"} if hook in INSIDE else set()
    assert rest[-1] == "on_train_end"
    assert rest.count("on_train_end") == 1
    assert set(rest[:-1]) <= ends
    assert history.stop_reason == f"from {hook}"
    assert recording.states[-1].stop_reason == f"from {hook}"


INSIDE = {"on_batch_begin", "on_batch_end", "on_step_end", "on_step_skipped"}


def test_stop_inside_an_accumulated_update_completes_it() -> None:
    recording = RecordingCallback(at("on_batch_end 0:0", Stop("enough")))
    make(recording, accumulate=2, batches=4, validate_every=None).train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        batch 0:0
        batch 0:0
        step_end 0:1
    """
    assert recording.events[:7] == lines(expected)
    assert "on_batch_begin 0:1" not in recording.events


def test_the_first_of_several_reasons_counts_and_the_end_cannot_stop() -> None:
    last = RecordingCallback(at("on_step_end 0:1", Stop("of the last")))
    first = RecordingCallback(at("on_step_end 0:1", Stop("of the first")))
    # Ends are called from the last to the first.
    assert make(first, last).train().stop_reason == "of the last"
    late = RecordingCallback(at("on_train_end 2:4", Stop("too late")))
    assert make(late).train().stop_reason is None


@pytest.mark.parametrize("hook", [*FIRST, "on_train_end"])
@pytest.mark.parametrize("is_first", [True, False])
def test_exception_from_each_hook(hook: str, is_first: bool) -> None:
    event = FIRST.get(hook, "on_train_end 2:4")
    error = ZeroDivisionError(hook)
    broken, watching = RecordingCallback(failing(event, error)), RecordingCallback()
    loader = NanInjector(TinyModel().batches(2), 0) if hook == "on_step_skipped" else None
    callbacks = (broken, watching) if is_first else (watching, broken)
    trainer = make(*callbacks, loader=loader, nonfinite="raise" if loader is None else "skip")
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train()
    assert caught.value is error
    for recording in callbacks:
        assert sum(each.startswith("on_train_end") for each in recording.events) == 1
        if hook != "on_train_end":
            assert recording.errors == [error]
            kinds = [each.split()[0] for each in recording.events[-2:]]
            assert kinds == ["on_exception", "on_train_end"]
    calls = broken.events.index(event)
    is_after = is_first != hook.endswith("_end")
    # What is called after the broken one does not see that hook any more, but for the last one.
    expected = calls if is_after and hook != "on_train_end" else calls + 1
    watched = [each for each in watching.events if "exception" not in each]
    assert len(watched) - (hook != "on_train_end") == expected


def test_an_exception_while_a_run_fails_is_logged_and_the_first_one_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Callback):
        def on_exception(self, state: TrainState, error: BaseException) -> None:
            raise KeyError("second")

        def on_train_end(self, state: TrainState) -> None:
            raise KeyError("third")

    error = OSError("first")
    watching = RecordingCallback(failing("on_step_end 0:1", error))
    with pytest.raises(OSError, match="first") as caught:
        make(Broken(), watching, Broken()).train()
    assert caught.value is error
    assert watching.events[-2:] == ["on_exception 0:1 OSError", "on_train_end 0:1"]
    texts = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(texts) == 4
    assert sum("on_train_end failed while the run ended" in text for text in texts) == 2


def test_of_several_exceptions_at_the_end_of_a_good_run_the_first_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = OSError("first"), OSError("second")
    callbacks = [
        RecordingCallback(failing("on_train_end 2:4", second)),
        RecordingCallback(failing("on_train_end 2:4", first)),
    ]
    with pytest.raises(OSError, match="first"):
        make(*callbacks).train()
    assert all(each.events == lines(WHOLE) for each in callbacks)
    assert len(caplog.records) == 1


def test_an_interrupt_in_a_batch() -> None:
    class Interrupted(TinyModel):
        calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().forward(x)

    recording = RecordingCallback()
    trainer = Trainer(
        Interrupted(),
        TrainingConfig(progress=False),
        TinyModel().batches(3),
        callbacks=[recording],
        loss=nn.functional.mse_loss,
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        batch_begin 0:1
        exception 0:1 KeyboardInterrupt
        train_end 0:1
    """
    assert recording.events == lines(expected)
    assert isinstance(recording.errors[0], KeyboardInterrupt)
    # The batch was not counted: going on begins with it.
    trainer.train()
    expected = """
        train_begin 0:1
        epoch_begin 0:1
        update 0:1
        update 0:2
        epoch_end 0:3
        train_end 1:3
    """
    assert recording.events[8:] == lines(expected)


def test_an_empty_validation_loader_fails_the_run() -> None:
    recording = RecordingCallback()
    model = TinyModel()
    trainer = Trainer(
        model,
        TrainingConfig(progress=False),
        model.batches(1),
        [],
        [recording],
        loss=nn.functional.mse_loss,
    )
    with pytest.raises(ValueError, match="the loader yields no samples"):
        trainer.train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        validation_begin 0:1
        exception 0:1 ValueError
        train_end 0:1
    """
    assert recording.events == lines(expected)


def test_skipped_updates_count_batches_and_samples_but_no_steps() -> None:
    recording = RecordingCallback()
    loader = NanInjector(TinyModel().batches(3), 1)
    make(recording, loader=loader, epochs=1, nonfinite="skip", validate_every="2 steps").train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        batch 0:1
        step_skipped 0:1
        update 0:1
        validation 0:2
        epoch_end 0:2
        train_end 1:2
    """
    assert recording.events == lines(expected)
    skipped = recording.states[recording.events.index("on_step_skipped 0:1")]
    assert (skipped.batch, skipped.samples, skipped.skipped) == (2, 8, 1)
    assert recording.states[-1].skipped == 1


def test_accumulating_two_with_a_short_tail() -> None:
    recording = RecordingCallback()
    make(recording, accumulate=2, batches=5, epochs=1).train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        batch 0:0
        batch 0:0
        step_end 0:1
        batch 0:1
        batch 0:1
        step_end 0:2
        batch 0:2
        step_end 0:3
        validation 0:3
        epoch_end 0:3
        train_end 1:3
    """
    assert recording.events == lines(expected)
    samples = [
        state.samples
        for event, state in zip(recording.events, recording.states)
        if event.startswith("on_step_end")
    ]
    assert samples == [8, 16, 20]


def test_another_accumulation_begins_with_the_next_update() -> None:
    recording = RecordingCallback(at("on_batch_end 0:0", Accumulate(2)))
    make(recording, batches=3, epochs=1, validate_every=None).train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        batch 0:1
        batch 0:1
        step_end 0:2
        epoch_end 0:2
        train_end 1:2
    """
    assert recording.events == lines(expected)


def test_a_validation_that_is_asked_for_follows_the_update_once() -> None:
    recording = RecordingCallback(at("on_batch_begin 0:0", Validate()))
    make(recording, epochs=1).train()
    expected = """
        train_begin 0:0
        epoch_begin 0:0
        update 0:0
        validation 0:1
        update 0:1
        validation 0:2
        epoch_end 0:2
        train_end 1:2
    """
    assert recording.events == lines(expected)
    # The step has been validated: nothing is to be done once more.
    recording = RecordingCallback(at("on_epoch_end 0:2", Validate()))
    make(recording).train()
    assert recording.events == lines(WHOLE)


def test_callbacks_come_and_go_during_a_run_from_the_next_hook_on() -> None:
    guest, leaving = RecordingCallback(), RecordingCallback()

    def act(event: str, state: TrainState) -> None:
        if event == "on_batch_end 0:0":
            callbacks.add(guest)
            callbacks.remove(leaving)
        elif event == "on_epoch_begin 1:2":
            callbacks.remove(guest)

    trainer = make(RecordingCallback(act), leaving)
    callbacks: Callbacks = trainer.callbacks
    trainer.train()
    # It was there when the hook that removed it began.
    assert leaving.events == lines(WHOLE)[:4]
    whole = lines(WHOLE)
    assert guest.events == whole[4 : whole.index("on_epoch_begin 1:2") + 1]
    assert len(callbacks) == 1


def test_a_callback_may_remove_itself() -> None:
    def act(event: str, state: TrainState) -> None:
        if event == "on_step_end 0:1":
            trainer.callbacks.remove(recording)

    recording = RecordingCallback(act)
    trainer = make(recording)
    trainer.train()
    assert recording.events == lines(WHOLE)[:5]
