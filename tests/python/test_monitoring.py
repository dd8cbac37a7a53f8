"""What a run reports: each tracker against what it wrote, the outbox, rates and outliers."""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import math
import os
import re
import resource
import statistics
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hotloop.callbacks import LogMetrics
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.monitoring import (
    STATUSES,
    AnomalyDetector,
    CsvTracker,
    JsonlTracker,
    MlflowTracker,
    Outbox,
    TensorBoardTracker,
    Throughput,
    Tracker,
    WandbTracker,
    memory,
    memory_use,
    mlflow_tracker,
    redact,
    transformer_flops_per_token,
)
from hotloop.monitoring.json_value import json_value
from hotloop.testing import (
    CrashAt,
    FakeClock,
    FakeTracker,
    InjectedError,
    TinyModel,
    assert_state_roundtrip,
    differences,
)

NAN, INF = math.nan, math.inf
#: Seconds after which a test that would hang fails instead.
PATIENCE = 10.0

FileTracker = JsonlTracker | CsvTracker
FILES = pytest.mark.parametrize("cls", [JsonlTracker, CsvTracker])


def outbox_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("Outbox")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert outbox_threads() == []


# Stand-ins for wandb and mlflow: of each signature the arguments that the trackers use.


class FakeWandb(ModuleType):
    """Records the calls of wandb, and those of the runs that it makes."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[Any, ...]] = []

    def init(
        self,
        *,
        project: str,
        dir: str | None,
        id: str | None,
        config: dict[str, Any],
        mode: str,
        resume: str | None,
    ) -> FakeWandbRun:
        self.calls.append(("init", project, dir, id, config, mode, resume))
        return FakeWandbRun(self.calls)


class FakeWandbRun:
    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.summary: dict[str, Any] = {}
        self._calls = calls

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        self._calls.append(("log", data, step))

    def log_artifact(self, artifact_or_path: str) -> None:
        self._calls.append(("log_artifact", artifact_or_path))

    def finish(self, exit_code: int | None = None) -> None:
        self._calls.append(("finish", exit_code, self.summary))


class FakeMetric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class FakeParam(NamedTuple):
    key: str
    value: str


class FakeMlflow(ModuleType):
    """Records the calls of its clients.

    Attributes:
        experiment: The id of the experiment that exists, if one does.
        found: The ids of the runs that a search finds.
    """

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[Any, ...]] = []
        self.experiment: str | None = None
        self.found: list[str] = []

    def MlflowClient(self, tracking_uri: str | None = None) -> FakeMlflowClient:  # noqa: N802
        self.calls.append(("MlflowClient", tracking_uri))
        return FakeMlflowClient(self)


def run_entity(run_id: str) -> SimpleNamespace:
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id))


class FakeMlflowClient:
    def __init__(self, mlflow: FakeMlflow) -> None:
        self._mlflow = mlflow
        self._calls = mlflow.calls

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        self._calls.append(("get_experiment_by_name", name))
        found = self._mlflow.experiment
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str) -> str:
        self._calls.append(("create_experiment", name))
        return "new"

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str = "",
        max_results: int = 1000,
        order_by: list[str] | None = None,
    ) -> list[SimpleNamespace]:
        self._calls.append(("search_runs", experiment_ids, filter_string, max_results, order_by))
        return [run_entity(run_id) for run_id in self._mlflow.found]

    def create_run(
        self,
        experiment_id: str,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> SimpleNamespace:
        self._calls.append(("create_run", experiment_id, tags, run_name))
        return run_entity("made")

    def update_run(self, run_id: str, status: str | None = None) -> None:
        self._calls.append(("update_run", run_id, status))

    def log_batch(
        self,
        run_id: str,
        metrics: list[FakeMetric] | None = None,
        params: list[FakeParam] | None = None,
    ) -> None:
        self._calls.append(("log_batch", run_id, metrics or [], params or []))

    def log_artifact(self, run_id: str, local_path: str) -> None:
        self._calls.append(("log_artifact", run_id, local_path))

    def set_tag(self, run_id: str, key: str, value: Any) -> None:
        self._calls.append(("set_tag", run_id, key, value))

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        self._calls.append(("set_terminated", run_id, status))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    module = FakeMlflow()
    entities = ModuleType("mlflow.entities")
    vars(entities).update(Metric=FakeMetric, Param=FakeParam)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(mlflow_tracker, "time", SimpleNamespace(time=lambda: 1.5))
    return module


# What all trackers have in common

MAKERS: dict[str, Callable[[Path], Tracker]] = {
    "JsonlTracker": lambda path: JsonlTracker(path / "a.jsonl"),
    "CsvTracker": lambda path: CsvTracker(path / "a.csv"),
    "TensorBoardTracker": lambda path: TensorBoardTracker(path),
    "WandbTracker": lambda path: WandbTracker("project"),
    "MlflowTracker": lambda path: MlflowTracker("experiment"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_trackers_are_started_once_and_finished_once(
    name: str, tmp_path: Path, wandb: FakeWandb, mlflow: FakeMlflow
) -> None:
    tracker = MAKERS[name](tmp_path)

    calls: list[Callable[[], None]] = [
        lambda: tracker.log({"a": 1.0}, 1),
        lambda: tracker.artifact("x"),
        lambda: tracker.finish("finished"),
    ]

    def assert_not_started() -> None:
        for call in calls:
            with pytest.raises(RuntimeError, match=f"{name} is not started; call start first"):
                call()

    assert_not_started()
    for _ in range(2):
        tracker.start({}, "run")
        with pytest.raises(RuntimeError, match=f"{name} is already started; call finish first"):
            tracker.start({}, "run")
        message = (
            "status must be one of 'finished', 'stopped', 'failed', 'interrupted', got 'Finished'"
        )
        with pytest.raises(ValueError, match=message):
            tracker.finish("Finished")
        tracker.finish("finished")
        assert_not_started()


@pytest.mark.parametrize("name", MAKERS)
def test_no_tracker_writes_a_secret(
    name: str, tmp_path: Path, wandb: FakeWandb, mlflow: FakeMlflow
) -> None:
    tracker = MAKERS[name](tmp_path)
    tracker.start({"lr": 0.5, "wandb": {"api_key": "5f3c1e"}}, "run")
    tracker.finish("finished")
    written = repr(wandb.calls) + repr(mlflow.calls)
    for path in tmp_path.iterdir():
        written += path.read_bytes().decode("utf-8", "replace")
    assert "5f3c1e" not in written
    assert "api_key" in written
    assert "***" in written


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("TensorBoardTracker", "torch.utils.tensorboard", "tensorboard"),
        ("WandbTracker", "wandb", "wandb"),
        ("MlflowTracker", "mlflow", "mlflow"),
    ],
)
def test_what_is_not_installed_is_named_by_the_constructor(
    name: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, extra, None)
    message = f"{name} needs {module}, which cannot be imported (import of {extra} halted"
    with pytest.raises(ImportError, match=re.escape(message)) as caught:
        MAKERS[name](tmp_path)
    assert str(caught.value).endswith(f": pip install 'hotloop[{extra}]'")


# JsonlTracker and CsvTracker


def file_tracker(cls: type[FileTracker], tmp_path: Path) -> tuple[FileTracker, Path]:
    path = tmp_path / f"a.{'csv' if cls is CsvTracker else 'jsonl'}"
    return cls(path), path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_jsonl_has_a_line_for_each_call(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.jsonl"
    tracker = JsonlTracker(path)
    tracker.start({"lr": 3e-4, "name": "Zoë", "eps": INF}, "run")
    tracker.log({"loss": 0.5, "step_time": torch.tensor(2)}, 1)  # type: ignore[dict-item]
    tracker.log({}, 1)
    tracker.log({"a": NAN, "b": INF, "c": -INF, "d": -0.0, "e": 1e-300}, 10)
    tracker.artifact(Path("out") / "model.safetensors")
    tracker.finish("stopped")
    assert path.read_bytes().decode() == (
        '{"run_id": "run", "config": {"lr": 0.0003, "name": "Zoë", "eps": "inf"}}\n'
        '{"step": 1, "loss": 0.5, "step_time": 2.0}\n'
        '{"step": 1}\n'
        '{"step": 10, "a": "nan", "b": "inf", "c": "-inf", "d": -0.0, "e": 1e-300}\n'
        '{"artifact": "out/model.safetensors"}\n'
        '{"status": "stopped"}\n'
    )


def test_jsonl_names_files_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    tracker, path = file_tracker(JsonlTracker, tmp_path)
    name = os.fsdecode(b"a\xff")
    tracker.start({"data": name})
    tracker.artifact(name)
    tracker.finish("finished")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0] == {"run_id": None, "config": {"data": name}}
    assert lines[1] == {"artifact": name}


def test_csv_has_a_row_for_each_call_and_a_column_for_each_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.csv"
    tracker = CsvTracker(path)
    tracker.start({"lr": 3e-4, "name": "Zoë", "eps": INF}, "run")
    about: dict[str, Any] = {
        "run_id": "run",
        "config": {"lr": 0.0003, "name": "Zoë", "eps": "inf"},
        "artifacts": [],
        "status": None,
    }
    assert json.loads((path.parent / "a.csv.json").read_bytes()) == about
    assert path.read_bytes() == b"step\n"
    tracker.log({"loss": 0.5, "lr": 1}, 1)
    tracker.log({"lr": 2.0}, 1)
    tracker.log({}, 2)
    tracker.log({"z": NAN, "loss": -INF, 'a,"b"\nc': INF}, 10)
    tracker.log({"lr": torch.tensor(0.25)}, 11)  # type: ignore[dict-item]
    tracker.artifact(Path("out") / "model.safetensors")
    tracker.artifact("b")
    assert path.read_bytes().decode() == (
        'step,loss,lr,z,"a,""b""\nc"\n1,0.5,1.0,,\n1,,2.0,,\n2,,,,\n10,-inf,,nan,inf\n11,,0.25,,\n'
    )
    tracker.finish("failed")
    about |= {"artifacts": ["out/model.safetensors", "b"], "status": "failed"}
    text = (path.parent / "a.csv.json").read_text()
    assert text == json.dumps(about, indent=2) + "\n"
    assert sorted(contents(path.parent)) == ["a.csv", "a.csv.json"]


VALUES: list[tuple[int, dict[str, float]]] = [
    (1, {"loss": 0.1, "a": NAN}),
    (2, {"loss": INF, "a": -INF}),
    (2, {"Größe": 5e-324}),
    (7, {"loss": -0.0}),
    (8, {"loss": 1 / 3, "a": 1e308}),
]


@FILES
def test_what_was_written_is_read(cls: type[FileTracker], tmp_path: Path) -> None:
    tracker, path = file_tracker(cls, tmp_path)
    tracker.start({})
    assert cls.read(path) == []
    for number, (step, values) in enumerate(VALUES, start=1):
        tracker.log(values, step)
        # Nothing waits in a buffer of this process.
        assert not differences(cls.read(path), VALUES[:number])
    tracker.artifact("x")
    tracker.finish("finished")
    assert not differences(cls.read(str(path)), VALUES)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[1][:3])
    assert not differences(cls.read(path), VALUES)
    path.write_bytes(b"")
    assert cls.read(path) == []


@FILES
def test_steps_ascend(cls: type[FileTracker], tmp_path: Path) -> None:
    tracker, path = file_tracker(cls, tmp_path)
    tracker.start({})
    tracker.log({"a": 1.0}, 5)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="step must not be below the last one, 5, got 4"):
        tracker.log({"a": 2.0}, 4)
    for step in (6.0, "6", None, True, np.int64(6)):
        with pytest.raises(ValueError, match=re.escape(f"step must be an int, got {step!r}")):
            tracker.log({"a": 2.0}, step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="values must have no name 'step', which is the"):
        tracker.log({"step": 2.0}, 6)
    with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
        tracker.log({"a": "x"}, 9)  # type: ignore[dict-item]
    assert path.read_bytes() == before
    # What was refused is not the last step.
    tracker.log({"a": 3.0}, 5)
    tracker.finish("finished")
    assert cls.read(path) == [(5, {"a": 1.0}), (5, {"a": 3.0})]


@FILES
def test_a_resumed_run_repeats_no_step(cls: type[FileTracker], tmp_path: Path) -> None:
    tracker, path = file_tracker(cls, tmp_path)
    tracker.start({"lr": 1}, "run")
    for step in (2, 3, 4):
        tracker.log({"a": float(step)}, step)
    tracker.artifact("first")
    # Not finished: what a run that was killed leaves behind.
    tracker._started().close()
    again = cls(path)
    again.start({"lr": 2}, "run")
    again.log({"a": 9.0, "new": 9.0}, 3)
    with pytest.raises(ValueError, match="step must not be below the last one, 3, got 2"):
        again.log({"a": 9.0}, 2)
    again.log({"a": 9.0}, 4)
    again.log({"b": 5.0}, 5)
    again.log({"b": 5.5}, 5)
    again.artifact("second")
    again.finish("finished")
    rows: list[tuple[int, dict[str, float]]] = [(step, {"a": float(step)}) for step in (2, 3, 4)]
    assert cls.read(path) == [*rows, (5, {"b": 5.0}), (5, {"b": 5.5})]
    if cls is JsonlTracker:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[0] == {"run_id": "run", "config": {"lr": 1}}
        assert [line for line in lines[1:] if "step" not in line] == [
            {"artifact": "first"},
            {"artifact": "second"},
            {"status": "finished"},
        ]
    else:
        assert json.loads((tmp_path / "a.csv.json").read_text()) == {
            "run_id": "run",
            "config": {"lr": 1},
            "artifacts": ["first", "second"],
            "status": "finished",
        }
        assert path.read_text().splitlines()[0] == "step,a,b"


def test_csv_has_no_status_while_a_resumed_run_goes_on(tmp_path: Path) -> None:
    tracker, path = file_tracker(CsvTracker, tmp_path)
    for status in ("interrupted", "finished"):
        tracker.start({}, "run")
        about = path.with_name("a.csv.json")
        assert json.loads(about.read_text())["status"] is None
        tracker.finish(status)
        assert json.loads(about.read_text())["status"] == status


@FILES
def test_a_run_goes_on_wherever_a_crash_tore_its_file(
    cls: type[FileTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    tracker, path = file_tracker(cls, tmp_path)
    tracker.start({}, "run")
    first = len(path.read_bytes()) if cls is JsonlTracker else 0
    for step, values in VALUES:
        tracker.log(values, step)
    tracker.finish("finished")
    whole = path.read_bytes()
    ends = [at for at in range(len(whole) + 1) if whole[:at].endswith(b"\n")]
    for cut in range(first, len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = cls(path)
        again.start({}, "run")
        kept = max((end for end in ends if end <= cut), default=0)
        assert path.read_bytes() == (whole[:kept] or b"step\n")
        # Step 2 has two rows: the second is lost where the crash came between them.
        has_half = [step for step, _ in cls.read(path)] == [1, 2]
        for step, values in VALUES:
            again.log(values, step)
        again.finish("finished")
        expected = [VALUES[0], VALUES[1], *VALUES[3:]] if has_half else VALUES
        assert not differences(cls.read(path), expected)


@FILES
@pytest.mark.parametrize(
    ("owner", "run_id"), [("other", "run"), (None, "run"), ("other", None), (None, None)]
)
def test_the_file_of_another_run_is_refused_and_kept(
    cls: type[FileTracker], owner: str | None, run_id: str | None, tmp_path: Path
) -> None:
    tracker, path = file_tracker(cls, tmp_path)
    tracker.start({}, owner)
    tracker.log({"a": 1.0}, 1)
    tracker.finish("finished")
    with path.open("ab") as file:
        file.write(b"torn")
    before = contents(tmp_path)
    message = rf"a\.\w+ .*exists and is of run {owner!r}, not {run_id!r}: choose another path, .*"
    with pytest.raises(FileExistsError, match=message + "or resume with its run_id"):
        tracker.start({}, run_id)
    assert contents(tmp_path) == before
    with pytest.raises(RuntimeError, match="is not started"):
        tracker.log({}, 2)


def test_jsonl_takes_an_empty_file_and_refuses_one_with_a_torn_first_line(tmp_path: Path) -> None:
    tracker, path = file_tracker(JsonlTracker, tmp_path)
    path.write_bytes(b"")
    tracker.start({}, "run")
    tracker.finish("finished")
    assert path.read_bytes() == b'{"run_id": "run", "config": {}}\n{"status": "finished"}\n'
    path.write_bytes(b'{"run_id": "run"')
    with pytest.raises(FileExistsError, match="is of run None, not 'run'"):
        tracker.start({}, "run")
    assert path.read_bytes() == b'{"run_id": "run"'


def test_csv_goes_on_with_one_of_its_files_only_if_that_names_the_run(tmp_path: Path) -> None:
    tracker, path = file_tracker(CsvTracker, tmp_path)
    path.write_bytes(b"step,a\n1,1.0\n")
    with pytest.raises(FileExistsError, match="is of run None, not 'run'"):
        tracker.start({}, "run")
    assert contents(tmp_path) == {"a.csv": b"step,a\n1,1.0\n"}
    path.unlink()
    tracker.start({"lr": 1}, "run")
    tracker.finish("finished")
    path.unlink()
    tracker.start({"lr": 2}, "run")
    tracker.log({"a": 1.0}, 1)
    tracker.finish("finished")
    assert path.read_bytes() == b"step,a\n1,1.0\n"
    assert json.loads((tmp_path / "a.csv.json").read_text())["config"] == {"lr": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not JSON\n", "line 1 is not JSON: Expecting value"),
        (b"{}\n\xff\n", "line 2 is not JSON: 'utf-8' codec can't decode"),
        (b"{}\n[1]\n", "line 2 must be a JSON object whose 'step' is an int, got [1]"),
        (b'{}\n{"step": "1"}\n', "line 2 must be a JSON object whose 'step' is an int, got {"),
        (b'{}\n{"step": 1, "a": null}\n', "line 2 must have numbers: float() argument"),
        (b'{}\n{"step": 1, "a": "x"}\n', "line 2 must have numbers: could not convert"),
    ],
)
def test_jsonl_says_what_it_cannot_read(content: bytes, message: str, tmp_path: Path) -> None:
    tracker, path = file_tracker(JsonlTracker, tmp_path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}, {message}")):
        JsonlTracker.read(path)
    with pytest.raises((ValueError, FileExistsError)):
        tracker.start({}, "run")
    assert contents(tmp_path) == {"a.jsonl": content}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,step\n1,2\n", " must begin with the column 'step', got ['a', 'step']"),
        (b"\nstep,a\n", " must begin with the column 'step', got []"),
        (b"step,a\n1,2\n3\n", ", row 3 must have a step and 1 cells with a number or nothing"),
        (b"step,a\n1,2,3\n", ", row 2 must have a step and 1 cells with a number or nothing"),
        (b"step,a\n1.5,2\n", ", row 2 must have a step"),
        (b"step,a\n1,x\n", ", row 2 must have a step and 1 cells .* nothing, got ['1', 'x']"),
        (b"step,\xff\n", " is not a table: 'utf-8' codec can't decode"),
        (b"step,a\rb\n", ", row 2 must have a step"),
        (b"step," + b"a" * 140_000 + b"\n", " is not a table: field larger than field limit"),
    ],
)
def test_csv_says_what_it_cannot_read(content: bytes, message: str, tmp_path: Path) -> None:
    tracker, path = file_tracker(CsvTracker, tmp_path)
    tracker.start({}, "run")
    tracker.finish("finished")
    path.write_bytes(content)
    before = contents(tmp_path)
    pattern = re.escape(f"{path}{message}").replace(r"\.\*", ".*")
    with pytest.raises(ValueError, match=pattern):
        CsvTracker.read(path)
    with pytest.raises(ValueError, match=pattern):
        tracker.start({}, "run")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x", "a.csv.json is not JSON: Expecting value"), (b"[]", "must be a JSON object, got []")],
)
def test_csv_says_what_it_cannot_read_about_the_run(
    content: bytes, message: str, tmp_path: Path
) -> None:
    tracker, path = file_tracker(CsvTracker, tmp_path)
    about = path.with_name("a.csv.json")
    about.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        tracker.start({}, "run")
    about.write_bytes(b'{"a": 1}')
    with pytest.raises(FileExistsError, match="is of run None, not 'run'"):
        tracker.start({}, "run")
    assert contents(tmp_path) == {"a.csv.json": b'{"a": 1}'}


def test_csv_keeps_its_table_when_a_new_column_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, path = file_tracker(CsvTracker, tmp_path)
    tracker.start({})
    tracker.log({"a": 1.0}, 1)

    def fail(source: Any, target: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            tracker.log({"b": 2.0}, 2)
        assert path.read_bytes() == b"step,a\n1,1.0\n"
    tracker.log({"b": 2.0}, 2)
    tracker.finish("finished")
    assert path.read_bytes() == b"step,a,b\n1,1.0,\n2,,2.0\n"


# TensorBoardTracker


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    directory = tmp_path / "new" / "folder"
    tracker = TensorBoardTracker(directory)
    before = set(threading.enumerate())
    tracker.start({"lr": 0.5, "token": "x", "nested": {"n": INF}}, "run")
    tracker.artifact("before")
    tracker.log({"train/loss": 0.1, "lr": 2}, 3)
    tracker.log({"train/loss": NAN}, 3)
    tracker.log({"train/loss": INF}, 10)
    tracker.artifact(Path("out") / "model.safetensors")
    tracker.finish("stopped")
    assert set(threading.enumerate()) == before
    # A resumed run repeats a step in a second file.
    tracker.start({}, None)
    tracker.artifact("again")
    tracker.log({"train/loss": 7.0}, 10)
    tracker.finish("finished")
    assert len(list(directory.iterdir())) == 2
    events = accumulator(str(directory)).Reload()
    assert events.Tags()["scalars"] == ["train/loss", "lr"]

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def texts(tag: str) -> list[tuple[int, str]]:
        return [
            (event.step, event.tensor_proto.string_val[0].decode())
            for event in events.Tensors(f"{tag}/text_summary")
        ]

    third = torch.tensor(0.1).item()
    assert not differences(scalars("train/loss"), [(3, third), (3, NAN), (10, INF), (10, 7.0)])
    assert scalars("lr") == [(3, 2.0)]
    config = (
        "    {\n"
        '        "lr": 0.5,\n'
        '        "token": "***",\n'
        '        "nested": {\n'
        '            "n": "inf"\n'
        "        }\n"
        "    }"
    )
    assert texts("config") == [(0, config), (0, "    {}")]
    assert texts("run_id") == [(0, "run"), (0, "None")]
    assert texts("artifact") == [(0, "before"), (10, "out/model.safetensors"), (0, "again")]
    assert texts("status") == [(10, "stopped"), (10, "finished")]


# WandbTracker


def test_wandb_gets_its_calls_in_order(wandb: FakeWandb) -> None:
    tracker = WandbTracker("project")
    assert wandb.calls == []
    tracker.start({"lr": 0.5, "hf_token": "x", "eps": NAN, "path": Path("a") / "b"}, "run")
    tracker.log({"loss": torch.tensor(0.5), "n": 1}, 3)  # type: ignore[dict-item]
    tracker.artifact(Path("out") / "model.safetensors")
    tracker.finish("finished")
    config = {"lr": 0.5, "hf_token": "***", "eps": "nan", "path": "a/b"}
    assert wandb.calls == [
        ("init", "project", None, "run", config, "offline", None),
        ("log", {"loss": 0.5, "n": 1.0}, 3),
        ("log_artifact", "out/model.safetensors"),
        ("finish", 0, {"status": "finished"}),
    ]
    assert [type(value) for value in wandb.calls[1][1].values()] == [float, float]


@pytest.mark.parametrize(
    ("mode", "run_id", "resume"),
    [
        ("offline", "run", None),
        ("disabled", "run", None),
        ("online", "run", "allow"),
        ("online", None, None),
    ],
)
def test_wandb_goes_on_with_a_named_run_online(
    mode: str, run_id: str | None, resume: str | None, wandb: FakeWandb, tmp_path: Path
) -> None:
    tracker = WandbTracker("project", mode, tmp_path)
    tracker.start({}, run_id)
    tracker.finish("finished")
    assert wandb.calls[0] == ("init", "project", str(tmp_path), run_id, {}, mode, resume)


@pytest.mark.parametrize(
    ("status", "code"), [("finished", 0), ("stopped", 0), ("failed", 1), ("interrupted", 1)]
)
def test_wandb_gets_an_exit_code(status: str, code: int, wandb: FakeWandb) -> None:
    tracker = WandbTracker("project")
    tracker.start({})
    tracker.finish(status)
    assert wandb.calls[-1] == ("finish", code, {"status": status})


def test_wandb_has_three_modes() -> None:
    message = "mode must be one of 'offline', 'online', 'disabled', got 'Online'"
    with pytest.raises(ValueError, match=message):
        WandbTracker("project", "Online")


# MlflowTracker

SEARCH = (
    "search_runs",
    ["7"],
    "tags.`hotloop.run_id` = 'run'",
    1,
    ["attributes.start_time DESC"],
)


def test_mlflow_gets_its_calls_in_order(mlflow: FakeMlflow) -> None:
    tracker = MlflowTracker("experiment")
    assert mlflow.calls == []
    config = {"lr": 0.5, "a": {"b": {"c": True, "api_key": "x"}, "d": [1, INF]}, "e": {}, "f": None}
    tracker.start(config)
    tracker.log({"loss": torch.tensor(0.5), "n": 1}, 3)  # type: ignore[dict-item]
    tracker.log({}, 4)
    tracker.artifact(Path("out") / "model.safetensors")
    tracker.finish("finished")
    params = [
        ("lr", "0.5"),
        ("a.b.c", "True"),
        ("a.b.api_key", "***"),
        ("a.d", "[1, 'inf']"),
        ("e", "{}"),
        ("f", "None"),
    ]
    assert mlflow.calls == [
        ("MlflowClient", "sqlite:///mlflow.db"),
        ("get_experiment_by_name", "experiment"),
        ("create_experiment", "experiment"),
        ("create_run", "new", {}, None),
        ("log_batch", "made", [], params),
        ("log_batch", "made", [("loss", 0.5, 1500, 3), ("n", 1.0, 1500, 3)], []),
        ("log_artifact", "made", "out/model.safetensors"),
        ("set_tag", "made", "hotloop.status", "finished"),
        ("set_terminated", "made", "FINISHED"),
    ]


def test_mlflow_names_a_new_run(mlflow: FakeMlflow) -> None:
    mlflow.experiment = "7"
    tracker = MlflowTracker("experiment", "http://localhost:5000")
    tracker.start({}, "run")
    assert mlflow.calls == [
        ("MlflowClient", "http://localhost:5000"),
        ("get_experiment_by_name", "experiment"),
        SEARCH,
        ("create_run", "7", {"hotloop.run_id": "run"}, "run"),
    ]


def test_mlflow_goes_on_with_a_run_that_it_finds(mlflow: FakeMlflow) -> None:
    mlflow.experiment = "7"
    mlflow.found = ["old"]
    tracker = MlflowTracker("experiment")
    tracker.start({"lr": 2}, "run")
    tracker.log({"a": 1.0}, 1)
    assert mlflow.calls[2:] == [
        SEARCH,
        ("update_run", "old", "RUNNING"),
        ("log_batch", "old", [("a", 1.0, 1500, 1)], []),
    ]


@pytest.mark.parametrize(
    ("status", "terminated"),
    [
        ("finished", "FINISHED"),
        ("stopped", "FINISHED"),
        ("failed", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_mlflow_gets_a_status_of_its_own(status: str, terminated: str, mlflow: FakeMlflow) -> None:
    tracker = MlflowTracker("experiment")
    tracker.start({})
    tracker.finish(status)
    assert mlflow.calls[-2:] == [
        ("set_tag", "made", "hotloop.status", status),
        ("set_terminated", "made", terminated),
    ]


def test_mlflow_gets_no_more_in_a_call_than_it_takes(mlflow: FakeMlflow) -> None:
    tracker = MlflowTracker("experiment")
    tracker.start({str(number): number for number in range(250)})
    tracker.log({str(number): float(number) for number in range(2001)}, 1)
    batches = [call[2:] for call in mlflow.calls if call[0] == "log_batch"]
    sizes = [(len(metrics), len(params)) for metrics, params in batches]
    assert sizes == [(0, 100), (0, 100), (0, 50), (1000, 0), (1000, 0), (1, 0)]
    params = [param.key for _, batch in batches for param in batch]
    assert params == [str(number) for number in range(250)]
    metrics = [metric.value for batch, _ in batches for metric in batch]
    assert metrics == list(range(2001))


def test_mlflow_refuses_a_quote_before_it_calls_anything(mlflow: FakeMlflow) -> None:
    with pytest.raises(ValueError, match='run_id must have no quote in it, got "it\'s"'):
        MlflowTracker("experiment").start({}, "it's")
    assert mlflow.calls == []


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


# redact and json_value


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apiKey", "apikey", "API_KEY", "OPENAI_API_KEY", "APIKey", "keys", "api-key"),
        *("token", "hf_token", "accessTokens", "token_file", "key2", "HF_TOKEN_2", "TOKENS3"),
        *("password", "passwd", "Passphrase", "dbPassword", "client_secret", "SECRETS"),
        *("aws_credentials", "credentialFile"),
    ],
)
def test_a_secret_is_hidden_by_its_name(name: str) -> None:
    for value in ("x", b"x", ["x"], {"a": "x"}, Path("x")):
        assert redact({name: value}) == {name: "***"}
        assert redact({"a": [{"b": ({name: value},)}]}) == {"a": [{"b": [{name: "***"}]}]}


@pytest.mark.parametrize(
    "name", ["lr", "tokenizer", "keyboard", "tokenizer_name", "keyring", "keypoints", "pass"]
)
def test_what_is_no_secret_stays(name: str) -> None:
    assert redact({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", [512, 0.5, True, None])
def test_numbers_are_hidden_only_where_they_may_be_secrets(value: Any) -> None:
    config = {"max_tokens": value, "use_key": value, "password": value, "secret": value}
    assert redact(config) == config | {"password": "***", "secret": "***"}


@dataclasses.dataclass
class Account:
    user: str
    api_key: str


@dataclasses.dataclass(frozen=True)
class Slots:
    __slots__ = ("inner", "token")
    token: str
    inner: dict[str, str]


def test_redact_copies_and_leaves_its_argument_as_it_was() -> None:
    inner = {"token": "x", "list": [1, (2, 3)]}
    config: dict[Any, Any] = {"a": MappingProxyType(inner), 3: Path("p"), "b": [inner]}
    hidden = redact(config)
    expected = {"token": "***", "list": [1, [2, 3]]}
    assert hidden == {"a": expected, 3: Path("p"), "b": [expected]}
    assert inner == {"token": "x", "list": [1, (2, 3)]}
    hidden["b"][0]["list"].append(4)
    assert inner["list"] == [1, (2, 3)]


def test_redact_looks_into_dataclasses() -> None:
    config = {"account": Account("me", "x"), "all": [Slots("x", {"password": "x"})], "cls": Account}
    assert redact(config) == {
        "account": {"user": "me", "api_key": "***"},
        "all": [{"token": "***", "inner": {"password": "***"}}],
        "cls": Account,
    }


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "a"),
        (1, 1),
        (True, True),
        (None, None),
        (0.1, 0.1),
        (np.float64(0.5), 0.5),
        (NAN, "nan"),
        (np.float64(INF), "inf"),
        (-INF, "-inf"),
        ((1, [NAN]), [1, ["nan"]]),
        (MappingProxyType({1: {"a": (Path("a") / "b",)}}), {"1": {"a": ["a/b"]}}),
        (torch.float32, "torch.float32"),
        ({1}, "{1}"),
        (Level.LOW, 1),
    ],
)
def test_json_value_is_what_json_holds(value: Any, expected: Any) -> None:
    result = json_value(value)
    assert result == expected
    assert json.loads(json.dumps(result, allow_nan=False)) == expected
    if isinstance(value, float):
        assert type(result) is type(expected)


# AnomalyDetector


def detector_of(values: list[float], **arguments: Any) -> AnomalyDetector:
    detector = AnomalyDetector(max(len(values), 2), **arguments)
    for value in values:
        detector.update(value)
    return detector


@pytest.mark.parametrize(
    ("values", "k", "median", "scale"),
    [
        # The distances from 3 are 2, 1, 0, 1 and 97.
        ([100.0, 2.0, 3.0, 4.0, 1.0], 2.0, 3.0, 1.0),
        # Those from 3 are 2, 1, 1 and 5.
        ([8.0, 1.0, 4.0, 2.0], 1.0, 3.0, 1.5),
        ([-1.0, 0.0, 1.0], 6.0, 0.0, 1.0),
        # No distance at all: eps of the median, and at least eps itself.
        ([512.0] * 5, 6.0, 512.0, 512e-6),
        ([-512.0] * 4, 6.0, -512.0, 512e-6),
        ([0.0] * 5, 6.0, 0.0, 1e-6),
        ([0.25] * 5, 6.0, 0.25, 1e-6),
    ],
)
def test_a_value_is_flagged_beyond_k_scaled_distances(
    values: list[float], k: float, median: float, scale: float
) -> None:
    for sign in (1, -1):
        for factor, is_flagged in ((1 - 1e-6, False), (1 + 1e-6, True)):
            value = median + sign * k * 1.4826 * scale * factor
            assert detector_of(values, k=k).update(value) is is_flagged


def test_a_value_right_at_the_bound_is_not_flagged() -> None:
    bound = 6.0 * 1.4826
    assert detector_of([-1.0, 0.0, 1.0]).update(bound) is False
    assert detector_of([-1.0, 0.0, 1.0]).update(math.nextafter(bound, INF)) is True


def test_the_least_scale_is_an_argument() -> None:
    assert detector_of([1.0] * 3, eps=0.5).update(1 + 6 * 1.4826 * 0.49) is False
    assert detector_of([1.0] * 3, eps=0.5).update(1 + 6 * 1.4826 * 0.51) is True


class Reference:
    """What a detector without a cooldown is by its definition."""

    def __init__(self, window: int, k: float) -> None:
        self.values: deque[float] = deque(maxlen=window)
        self.k = k

    def update(self, value: float) -> bool:
        if not math.isfinite(value):
            return True
        is_far = False
        if len(self.values) >= math.ceil((self.values.maxlen or 0) / 2):
            median = statistics.median(self.values)
            mad = statistics.median(abs(one - median) for one in self.values)
            scale = max(mad, 1e-6 * abs(median), 1e-6)
            is_far = abs(value - median) > self.k * 1.4826 * scale
        self.values.append(value)
        return is_far


@given(
    values=st.lists(
        st.floats(-3, 3, width=16) | st.integers(-2, 2) | st.sampled_from([NAN, INF, 50.0]),
        max_size=60,
    ),
    window=st.integers(2, 9),
    k=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_the_sorted_window_gives_what_the_definition_says(
    values: list[float], window: int, k: float
) -> None:
    detector, reference = AnomalyDetector(window, k), Reference(window, k)
    for value in values:
        assert detector.update(value) is reference.update(value)
    assert detector.state_dict()["values"] == list(reference.values)


def test_the_value_itself_is_not_in_its_window() -> None:
    # In a window of ten with the value itself in it, no value is 3 standard deviations away.
    detector = detector_of([0.0, 1.0] * 5, k=3.0)
    assert detector.update(100.0) is True


def test_what_is_not_finite_is_flagged_at_once_and_stays_out() -> None:
    detector = AnomalyDetector(4)
    assert [detector.update(value) for value in (NAN, INF, -INF)] == [True] * 3
    assert detector.state_dict() == {"values": [], "cooling": 0}
    assert [detector.update(value) for value in (1.0, 2.0, NAN)] == [False, False, True]
    assert detector.state_dict()["values"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("window", "least", "flagged"), [(4, None, 2), (5, None, 3), (4, 1, 1), (4, 4, 4)]
)
def test_nothing_is_flagged_before_there_are_enough_values(
    window: int, least: int | None, flagged: int
) -> None:
    for count in range(window + 1):
        detector = AnomalyDetector(window, min_values=least)
        for _ in range(count):
            detector.update(1.0)
        assert detector.update(9.0) is (count >= flagged)


#: Of any twenty of them in a row, the median is 0 and the MAD 1.
QUIET = [-2.0, -1.0, 0.0, 1.0, 2.0] * 4


def test_an_outlier_is_flagged_and_not_the_values_after_it() -> None:
    detector = AnomalyDetector(20)
    series = QUIET * 3
    series[33] = 1000.0
    assert [step for step, value in enumerate(series) if detector.update(value)] == [33]


def test_a_new_level_is_flagged_for_half_a_window_and_then_accepted() -> None:
    detector = AnomalyDetector(20)
    assert not any(map(detector.update, QUIET))
    assert [detector.update(1000.0) for _ in range(60)] == [True] * 10 + [False] * 50


def test_normal_values_are_flagged_less_than_once_in_ten_thousand() -> None:
    detector = AnomalyDetector()
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).tolist()
    assert sum(map(detector.update, values)) < 10


def test_after_a_flagged_value_there_is_a_cooldown() -> None:
    detector = detector_of(QUIET, cooldown=2)
    flags = [detector.update(value) for value in (50.0, 50.0, 0.0, 50.0, 0.0, 0.0, 50.0)]
    assert flags == [True, False, False, True, False, False, True]
    # What is not finite is flagged even then, and begins a cooldown of its own.
    flags = [detector.update(value) for value in (NAN, 0.0, NAN, 50.0, 50.0, 50.0)]
    assert flags == [True, False, True, False, False, True]
    detector.reset()
    assert detector.state_dict() == {"values": [], "cooling": 0}
    assert [detector.update(value) for value in (50.0, -50.0)] == [False, False]


def test_a_detector_goes_on_from_its_state() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(1)).tolist()
    values[20] = values[21] = values[24] = 99.0
    whole = AnomalyDetector(8, 3.0, cooldown=2)
    flags = [whole.update(value) for value in values]
    assert flags[20:25] == [True, False, False, False, True]
    first = AnomalyDetector(8, 3.0, cooldown=2)
    for value in values[:22]:
        first.update(value)
    assert first.state_dict() == {"values": values[14:22], "cooling": 1}
    second = AnomalyDetector(8, 3.0, cooldown=2)
    second.update(7.0)
    assert_state_roundtrip(first, second)
    assert [second.update(value) for value in values[22:]] == flags[22:]
    first.state_dict()["values"].clear()
    assert len(first.state_dict()["values"]) == 8


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"values": []}, "state must have the keys 'cooling', 'values', got ['values']"),
        ({"values": [], "cooling": 0, "a": 1}, "got ['a', 'cooling', 'values']"),
        ({"values": [1.0] * 4, "cooling": 0}, "must be at most 3 finite numbers, got 4 values"),
        ({"values": [NAN], "cooling": 0}, "must be at most 3 finite numbers, got 1 values"),
        (
            {"values": [], "cooling": -1},
            "cooling of the state must be an int of at least 0",
        ),
        ({"values": [], "cooling": 1.5}, "must be an int of at least 0, got 1.5"),
    ],
)
def test_a_detector_refuses_a_wrong_state(state: Any, message: str) -> None:
    detector = AnomalyDetector(3, cooldown=1)
    detector.update(1.0)
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.load_state_dict(state)
    assert detector.state_dict() == {"values": [1.0], "cooling": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 1}, "window must be an int of at least 2, got 1"),
        ({"window": 10.0}, "window must be an int of at least 2, got 10.0"),
        ({"k": 0}, "k must be a finite number above 0, got 0"),
        ({"k": INF}, "k must be a finite number above 0, got inf"),
        ({"k": NAN}, "k must be a finite number above 0, got nan"),
        ({"eps": 0.0}, "eps must be a finite number above 0, got 0.0"),
        ({"eps": INF}, "eps must be a finite number above 0, got inf"),
        ({"cooldown": -1}, "cooldown must be an int of at least 0, got -1"),
        ({"cooldown": 1.0}, "cooldown must be an int of at least 0, got 1.0"),
        ({"min_values": 0}, "min_values must be an int in [1, 100], got 0"),
        ({"min_values": 101}, "min_values must be an int in [1, 100], got 101"),
    ],
)
def test_a_detector_says_what_is_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AnomalyDetector(**arguments)


# Throughput


def test_rates_are_taken_over_the_last_updates() -> None:
    clock = FakeClock()
    throughput = Throughput(2, clock=clock)
    assert throughput.rates() == {}
    throughput.update(1000)
    assert throughput.rates() == {}
    seen = []
    for samples, seconds in ((8, 2.0), (16, 2.0), (32, 4.0), (0, 1.0)):
        clock.advance(seconds)
        throughput.update(samples)
        seen.append(throughput.rates())
    # 8 / 2, 24 / 4, 48 / 6 and 32 / 5.
    assert seen == [{"samples_per_second": rate} for rate in (4.0, 6.0, 8.0, 6.4)]


def test_tokens_are_counted_where_there_are_any() -> None:
    clock = FakeClock()
    throughput = Throughput(1, clock=clock)
    throughput.update(1, 50)
    clock.advance(0.5)
    throughput.update(2, 300)
    assert throughput.rates() == {"samples_per_second": 4.0, "tokens_per_second": 600.0}
    clock.advance(0.5)
    throughput.update(3)
    assert throughput.rates() == {"samples_per_second": 6.0}


def test_while_no_time_passes_there_is_no_rate() -> None:
    throughput = Throughput(clock=FakeClock())
    throughput.update(1)
    throughput.update(1)
    assert throughput.rates() == {}


def test_a_new_window_leaves_out_the_time_before_it() -> None:
    clock = FakeClock(step=2.0)
    throughput = Throughput(clock=clock)
    throughput.update(4)
    throughput.update(4)
    assert throughput.rates() == {"samples_per_second": 2.0}
    throughput.reset()
    assert throughput.rates() == {}
    clock.advance(1000)
    throughput.update(4)
    throughput.update(8, 2)
    assert throughput.rates() == {"samples_per_second": 4.0, "tokens_per_second": 1.0}


@pytest.mark.parametrize(
    ("flops", "peak", "mfu"), [(2e12, 320e12, 0.4), (2e12, None, None), (None, 320e12, None)]
)
def test_mfu_needs_the_operations_of_a_sample_and_of_the_devices(
    flops: float | None, peak: float | None, mfu: float | None
) -> None:
    clock = FakeClock(step=0.5)
    throughput = Throughput(flops_per_sample=flops, peak_flops=peak, clock=clock)
    throughput.update(32)
    throughput.update(32)
    # 64 samples a second.
    assert throughput.rates().get("mfu") == mfu


def test_mfu_of_palm_540b_is_that_of_its_paper() -> None:
    # Chowdhery et al., 2022: 238.3 thousand tokens a second on 6144 chips of 275 TFLOP/s are
    # 46.2 %.
    size = {"layers": 118, "heads": 48, "head_size": 256, "sequence_length": 2048}
    per_token = transformer_flops_per_token(540_350_000_000, **size)
    clock = FakeClock(step=2048)
    throughput = Throughput(
        flops_per_sample=2048 * per_token, peak_flops=6144 * 275e12, clock=clock
    )
    for _ in range(2):
        throughput.update(238_300, 2048 * 238_300)
    rates = throughput.rates()
    assert rates["tokens_per_second"] == 238_300
    assert round(rates["mfu"], 3) == 0.462


def test_operations_of_a_token_are_those_of_the_formula() -> None:
    # 6 * 2 + 12 * 3 * 5 * 7 * 11
    assert transformer_flops_per_token(2, 3, 5, 7, 11) == 13_872
    # GPT-2 small: 6 * 124e6 = 744e6, and 12 * 12 * 12 * 64 * 1024 = 113,246,208.
    assert transformer_flops_per_token(124_000_000, 12, 12, 64, 1024) == 857_246_208


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window must be a positive int, got 0"),
        ({"window": 1.0}, "window must be a positive int, got 1.0"),
        ({"flops_per_sample": 0}, "flops_per_sample must be above 0 or None, got 0"),
        ({"peak_flops": -1.0}, "peak_flops must be above 0 or None, got -1.0"),
        ({"peak_flops": NAN}, "peak_flops must be above 0 or None, got nan"),
    ],
)
def test_throughput_says_what_is_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Throughput(**arguments)


@pytest.mark.parametrize("counts", [(-1, 0), (0, -1)])
def test_counts_are_not_negative(counts: tuple[int, int]) -> None:
    clock = FakeClock(step=1.0)
    throughput = Throughput(clock=clock)
    message = f"samples and tokens must be at least 0, got {counts[0]} and {counts[1]}"
    with pytest.raises(ValueError, match=message):
        throughput.update(*counts)
    assert clock.now == 0
    throughput.update(1)
    throughput.update(1, 1)
    assert throughput.rates() == {"samples_per_second": 1.0, "tokens_per_second": 1.0}


# memory_use


def test_resident_memory_is_read_from_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statm = tmp_path / "statm"
    statm.write_text("1000 70 3 1 0 5 0\n")
    monkeypatch.setattr(memory, "_STATM", statm)
    expected = {"rss": 70.0 * resource.getpagesize()}
    for device in (None, "cpu", torch.device("cpu")):
        assert memory_use(device) == expected


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_resident_memory_grows_with_what_is_written() -> None:
    before = memory_use()["rss"]
    block = bytearray(b"x") * (64 << 20)
    grown = memory_use()["rss"] - before
    assert len(block) * 0.9 < grown < len(block) * 1.5


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_resident_memory_is_the_largest_one_where_there_is_no_proc(
    platform: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000 + who))
    assert memory_use() == {"rss": float((5000 + resource.RUSAGE_SELF) * unit)}


def test_memory_of_cuda_is_what_its_allocator_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("memory_allocated", "memory_reserved", "max_memory_allocated")
    for number, name in enumerate(names):
        monkeypatch.setattr(
            torch.cuda, name, lambda device, number=number: {"cuda:1": 10 + number}[device]
        )
    use = memory_use("cuda:1")
    assert use.pop("rss") > 0
    assert use == {"cuda_allocated": 10.0, "cuda_reserved": 11.0, "cuda_max_allocated": 12.0}
    assert all(type(value) is float for value in use.values())


def test_statuses_are_the_ends_that_a_run_can_have() -> None:
    assert STATUSES == ("finished", "stopped", "failed", "interrupted")
    assert logging.getLogger("hotloop").level == logging.NOTSET
