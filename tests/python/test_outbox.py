"""The thread that trackers are called in, and trackers of a trainer."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from hotloop.callbacks import LogMetrics
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.monitoring import (
    CsvTracker,
    JsonlTracker,
    Outbox,
    Tracker,
)
from hotloop.testing import (
    CrashAt,
    FakeTracker,
    InjectedError,
    TinyModel,
    differences,
)

NAN, INF = math.nan, math.inf
#: Seconds after which a test that would hang fails instead.
PATIENCE = 10.0

FileTracker = JsonlTracker | CsvTracker
FILES = pytest.mark.parametrize("cls", [JsonlTracker, CsvTracker])


def outbox_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("Outbox")]


def file_tracker(cls: type[FileTracker], tmp_path: Path) -> tuple[FileTracker, Path]:
    path = tmp_path / f"a.{'csv' if cls is CsvTracker else 'jsonl'}"
    return cls(path), path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert outbox_threads() == []


# Outbox


class Gate(FakeTracker):
    """Waits in one of its methods until it is opened.

    Attributes:
        entered: Set by the call that waits.
        opened: What it waits for.
        threads: Where the calls were made.
    """

    def __init__(self, method: str, failing: tuple[str, ...] = ()) -> None:
        super().__init__(failing)
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.threads: set[int] = set()
        self._method = method

    def _record(self, *call: Any) -> None:
        self.threads.add(threading.get_ident())
        if call[0] == self._method:
            self.entered.set()
            assert self.opened.wait(PATIENCE)
        super()._record(*call)


def joined() -> bool:
    """Wait for the threads of outboxes, and return whether they have ended."""
    for thread in outbox_threads():
        thread.join(PATIENCE)
    return not outbox_threads()


def test_outbox_makes_the_calls_in_order_in_one_thread_of_its_own() -> None:
    tracker = Gate("nothing")
    outbox = Outbox(tracker)
    outbox.start({"lr": 1, "api_key": "x"}, "run")
    (thread,) = outbox_threads()
    for step in range(400):
        outbox.log({"a": step}, step)
    outbox.artifact("b")
    outbox.finish("stopped")
    assert tracker.calls == [
        ("start", {"lr": 1, "api_key": "***"}, "run"),
        *(("log", {"a": step}, step) for step in range(400)),
        ("artifact", "b"),
        ("finish", "stopped"),
    ]
    assert (outbox.dropped, outbox.failed) == (0, 0)
    assert tracker.threads == {thread.ident}
    assert (thread.name, thread.daemon) == ("Outbox Gate", True)
    assert not thread.is_alive()


def test_outbox_does_not_wait_for_a_tracker_and_drops_what_finds_the_queue_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Gate("start")
    outbox = Outbox(tracker, capacity=3)
    outbox.start({})
    assert tracker.entered.wait(PATIENCE)
    for step in range(6):
        outbox.log({"a": 1.0}, step)
    outbox.artifact("b")
    assert tracker.calls == []
    assert outbox.dropped == 4
    tracker.opened.set()
    outbox.finish("finished")
    assert [call[-1] for call in tracker.calls] == [None, 0, 1, 2, "finished"]
    assert (outbox.dropped, outbox.failed) == (4, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "Gate: 4 calls were dropped, 0 failed"
    ]


def test_outbox_posts_copies() -> None:
    tracker = Gate("start")
    outbox = Outbox(tracker)
    config: dict[str, Any] = {"a": {"b": [1]}}
    outbox.start(config)
    values = {"a": 1.0}
    outbox.log(values, 1)
    values["a"] = 2.0
    config["a"]["b"].append(2)
    config["c"] = 3
    tracker.opened.set()
    outbox.finish("finished")
    assert tracker.calls[:2] == [("start", {"a": {"b": [1]}}, None), ("log", {"a": 1.0}, 1)]


def test_outbox_counts_what_fails_and_warns_of_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = FakeTracker(["log", "artifact", "finish"])
    outbox = Outbox(tracker)
    outbox.start({})
    for step in range(3):
        outbox.log({}, step)
    outbox.artifact("a")
    outbox.finish("finished")
    assert (outbox.failed, outbox.dropped) == (5, 0)
    assert len(tracker.calls) == 6
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("hotloop", "WARNING")
    ] * 2
    first, last = caplog.records
    assert first.getMessage() == (
        "FakeTracker failed, which does not stop the run; later failures are counted"
    )
    assert first.exc_info is not None
    assert str(first.exc_info[1]) == "the tracker was told to fail in log"
    assert last.getMessage() == "FakeTracker: 0 calls were dropped, 5 failed"
    # The next run counts anew, and warns anew.
    caplog.clear()
    outbox.start({})
    assert (outbox.failed, outbox.dropped) == (0, 0)
    outbox.finish("finished")
    assert outbox.failed == 1
    assert len(caplog.records) == 2


def test_outbox_says_nothing_of_a_run_that_went_well(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(FakeTracker())
    outbox.start({})
    outbox.log({}, 1)
    outbox.finish("finished")
    assert caplog.records == []


def test_outbox_survives_a_tracker_that_exits() -> None:
    class Exits(FakeTracker):
        def log(self, values: Mapping[str, float], step: int) -> None:
            super().log(values, step)
            raise SystemExit(step)

    tracker = Exits()
    outbox = Outbox(tracker)
    outbox.start({})
    outbox.log({}, 1)
    outbox.log({}, 2)
    outbox.finish("finished")
    assert [call[0] for call in tracker.calls] == ["start", "log", "log", "finish"]
    assert outbox.failed == 2


@FILES
def test_outbox_counts_errors_of_use(cls: type[FileTracker], tmp_path: Path) -> None:
    tracker, path = file_tracker(cls, tmp_path)
    outbox = Outbox(tracker)
    outbox.start({}, "run")
    for step in (2, 1, 3):
        outbox.log({"a": 1.0}, step)
    outbox.finish("finished")
    assert outbox.failed == 1
    assert [step for step, _ in cls.read(path)] == [2, 3]
    before = contents(tmp_path)
    outbox.start({}, "other")
    outbox.log({"a": 1.0}, 4)
    outbox.finish("finished")
    assert outbox.failed == 3
    assert contents(tmp_path) == before


def test_finish_waits_for_the_calls_and_joins_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = Gate("log")
    outbox = Outbox(tracker)
    outbox.start({})
    (thread,) = outbox_threads()
    for step in range(5):
        outbox.log({}, step)
    join = threading.Thread.join
    waited: list[float | None] = []

    def open_and_join(self: threading.Thread, timeout: float | None = None) -> None:
        assert self is thread
        waited.append(timeout)
        tracker.opened.set()
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", open_and_join)
    outbox.finish("finished", timeout=PATIENCE)
    assert [call[0] for call in tracker.calls] == ["start", *["log"] * 5, "finish"]
    assert not thread.is_alive()
    assert outbox.dropped == 0
    (timeout,) = waited
    assert timeout is not None
    assert PATIENCE / 2 < timeout <= PATIENCE


@pytest.mark.parametrize("timeout", [0, 0.05])
@pytest.mark.parametrize("capacity", [2, 3])
def test_finish_does_not_wait_for_a_tracker_that_hangs(
    timeout: float, capacity: int, caplog: pytest.LogCaptureFixture
) -> None:
    # With a capacity of 2 the queue is full, and has no room for the last call.
    tracker = Gate("start")
    outbox = Outbox(tracker, capacity)
    outbox.start({})
    assert tracker.entered.wait(PATIENCE)
    outbox.log({}, 1)
    outbox.log({}, 2)
    outbox.finish("failed", timeout)
    assert tracker.calls == []
    assert len(outbox_threads()) == 1
    assert outbox.dropped == 2
    assert caplog.records[-1].getMessage() == "Gate: 2 calls were dropped, 0 failed"
    outbox.finish("finished")
    tracker.opened.set()
    assert joined()
    assert [call[0] for call in tracker.calls] == ["start", "finish"]
    assert tracker.calls[-1] == ("finish", "failed")


def test_finish_is_called_once_even_if_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Gate("finish")
    outbox = Outbox(tracker)
    outbox.start({})
    with monkeypatch.context() as patch:
        # The time is up once the tracker hangs.
        patch.setattr(
            threading.Thread, "join", lambda self, timeout: tracker.entered.wait(PATIENCE)
        )
        outbox.finish("finished")
    assert [call[0] for call in tracker.calls] == ["start"]
    tracker.opened.set()
    assert joined()
    assert [call[0] for call in tracker.calls] == ["start", "finish"]
    assert outbox.dropped == 0


def test_a_run_is_dropped_while_the_tracker_hangs_in_the_one_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Gate("log")
    outbox = Outbox(tracker)
    outbox.start({}, "first")
    outbox.log({}, 1)
    assert tracker.entered.wait(PATIENCE)
    outbox.log({}, 2)
    outbox.finish("finished", timeout=0)
    assert outbox.dropped == 1
    caplog.clear()
    outbox.start({}, "second")
    assert [record.getMessage() for record in caplog.records] == [
        "Gate still hangs in a call of the run before; every call of this run is dropped"
    ]
    outbox.log({}, 3)
    outbox.artifact("a")
    assert outbox.dropped == 2
    outbox.finish("finished")
    assert len(outbox_threads()) == 1
    tracker.opened.set()
    assert joined()
    outbox.start({}, "third")
    outbox.finish("finished")
    assert [call[1:] for call in tracker.calls] == [
        ({}, "first"),
        ({}, 1),
        ("finished",),
        ({}, "third"),
        ("finished",),
    ]


def test_outbox_drops_what_comes_before_start_and_after_finish() -> None:
    tracker = FakeTracker()
    outbox = Outbox(tracker)
    outbox.finish("finished")
    outbox.log({}, 1)
    assert outbox.dropped == 1
    outbox.start({})
    assert outbox.dropped == 0
    with pytest.raises(RuntimeError, match="Outbox is already started; call finish first"):
        outbox.start({})
    outbox.finish("finished")
    outbox.finish("failed")
    outbox.log({}, 1)
    outbox.artifact("a")
    assert outbox.dropped == 2
    assert [call[0] for call in tracker.calls] == ["start", "finish"]


def test_outbox_starts_no_thread_for_a_configuration_that_cannot_be_copied() -> None:
    outbox = Outbox(FakeTracker())
    with pytest.raises(AttributeError):
        outbox.start(None)  # type: ignore[arg-type]
    assert outbox_threads() == []
    outbox.start({})
    outbox.finish("finished")


@pytest.mark.parametrize("capacity", [0, -1, 1.5, None])
def test_outbox_says_what_a_capacity_is(capacity: Any) -> None:
    message = f"capacity must be a positive int, got {capacity!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        Outbox(FakeTracker(), capacity)


def test_finish_says_what_its_arguments_are() -> None:
    tracker = FakeTracker()
    outbox = Outbox(tracker)
    outbox.start({})
    for timeout in (-1, NAN, INF, 2 * threading.TIMEOUT_MAX):
        message = rf"timeout must be in \[0, \d+\] seconds, got {timeout!r}"
        with pytest.raises(ValueError, match=message):
            outbox.finish("finished", timeout)
    with pytest.raises(ValueError, match=r"status must be one of 'finished', .* got 'done'"):
        outbox.finish("done")
    outbox.finish("finished", threading.TIMEOUT_MAX)
    assert [call[0] for call in tracker.calls] == ["start", "finish"]


# Trackers of a trainer


def make_trainer(callbacks: tuple[Any, ...] = (), trackers: tuple[Tracker, ...] = ()) -> Trainer:
    return Trainer(
        TinyModel(),
        TrainingConfig(epochs=2, progress=False, log_every="1 steps"),
        TinyModel().batches(3),
        loss=nn.functional.mse_loss,
        callbacks=callbacks,
        trackers=trackers,
    )


def test_a_trainer_runs_to_its_end_with_trackers_that_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = make_trainer().train()
    failing = FakeTracker(["start", "log", "artifact", "finish"])
    history = make_trainer(trackers=(failing,)).train()
    assert len(history["loss"]) == 6
    assert history["loss"] == plain["loss"]
    assert len(failing.calls) == 10
    assert caplog.records[-1].getMessage() == "FakeTracker: 0 calls were dropped, 10 failed"


@FILES
def test_a_trainer_that_resumes_writes_each_step_once(
    cls: type[FileTracker], tmp_path: Path
) -> None:
    tracker, path = file_tracker(cls, tmp_path)
    crashing = make_trainer((LogMetrics([tracker], run_id="run"), CrashAt(5)))
    with pytest.raises(InjectedError):
        crashing.train()
    written = cls.read(path)
    assert max(step for step, _ in written) in (4, 5)
    stopped = make_trainer((CrashAt(3),))
    with pytest.raises(InjectedError):
        stopped.train()
    tracker, _ = file_tracker(cls, tmp_path)
    resumed = make_trainer((LogMetrics([tracker], run_id="run"),))
    resumed.load_state_dict(stopped.state_dict())
    history = resumed.train()
    rows = cls.read(path)
    assert not differences(rows[: len(written)], written)
    losses = [(step, values["loss"]) for step, values in rows if "loss" in values]
    assert losses == history.history("loss") == make_trainer().train().history("loss")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
