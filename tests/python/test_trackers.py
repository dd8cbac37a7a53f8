"""What each tracker writes, and how it goes on."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from hotloop.monitoring import (
    CsvTracker,
    JsonlTracker,
    MlflowTracker,
    TensorBoardTracker,
    Tracker,
    WandbTracker,
    mlflow_tracker,
)
from hotloop.testing import (
    differences,
)

NAN, INF = math.nan, math.inf

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
