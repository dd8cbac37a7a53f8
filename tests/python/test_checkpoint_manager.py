"""Saves and loads: what is there afterwards, whatever fails or is killed at whatever point."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from hotloop.checkpoint import checkpoint_directory, storage
from hotloop.checkpoint.background import HostBuffers
from hotloop.checkpoint.checkpoint import (
    read_checkpoint,
    read_manifest,
    verify_checkpoint,
    write_checkpoint,
)
from hotloop.checkpoint.checkpoint_manager import CheckpointManager
from hotloop.checkpoint.manifest import Info
from hotloop.checkpoint.pins import Pins
from hotloop.checkpoint.tree import encode_json
from hotloop.errors import CheckpointError, CorruptCheckpointError
from hotloop.testing import differences

DIRECTORY = "hotloop.checkpoint.checkpoint_directory"
NAN, INF = float("nan"), float("inf")
# All that changes the file system; `replace_file` is made of them.
OPERATIONS = (
    "create",
    "write",
    "sync",
    "close",
    "make_directory",
    "sync_directory",
    "rename",
    "remove_file",
    "remove_directory",
)


def state_of(number: int) -> dict[str, Any]:
    weight = torch.full((3,), float(number))
    return {"model": {"weight": weight, "tied": weight}, "step": number, "rate": 0.1}


def names(manager: CheckpointManager) -> list[str]:
    return [manifest.name for manifest in manager.checkpoints()]


def entries(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name != ".lock"}


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.name == "hotloop" for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def on_storage(patch: pytest.MonkeyPatch, act: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Let `act` make the operations: it gets the name of each and a function that makes it."""
    made: set[int] = set()

    def replaced(name: str) -> Callable[..., Any]:
        operation = getattr(storage, name)

        def replacement(*args: Any) -> Any:
            if name == "close" and args[0] not in made:
                # Of a file that was read.
                return operation(*args)
            result = act(name, functools.partial(operation, *args))
            if name == "create":
                made.add(result)
            elif name == "close":
                made.discard(args[0])
            return result

        return replacement

    for name in OPERATIONS:
        patch.setattr(storage, name, replaced(name))


class Fault:
    """Raises at the n-th operation, before or after it is made, and if told at all that follow."""

    def __init__(self, n: int, error: BaseException, is_after: bool, goes_on: bool) -> None:
        self.n, self.error, self.is_after, self.goes_on = n, error, is_after, goes_on
        self.count = 0

    def __call__(self, name: str, operate: Callable[[], Any]) -> Any:
        self.count += 1
        if self.count < self.n or (self.count > self.n and not self.goes_on):
            return operate()
        # What is open has to be closed for the test itself.
        if self.is_after or name == "close":
            with contextlib.suppress(FileExistsError):
                operate()
        raise self.error


def fork(work: Callable[[], object]) -> int:
    """Return the id of a process that does some work; its status is 99 if that raises."""
    with warnings.catch_warnings():
        # Python 3.12 warns of threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(99)
        os._exit(0)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save time where the machine does not fail."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# Save and load


def test_a_saved_state_is_loaded(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "runs" / "a")
    assert manager.directory == tmp_path / "runs" / "a"
    path = manager.save(
        state_of(3),
        step=3,
        epoch=1,
        metrics={"loss": 0.5, "bad": NAN},
        is_pinned=True,
        config={"layers": (1, 2)},
    )
    assert path == manager.directory / "step_00000003"
    assert entries(manager.directory) == {path.name, "latest.json"}
    assert entries(path) == {"manifest.json", "state.json", "tensors.safetensors"}
    state, manifest = CheckpointManager(manager.directory).load()
    assert not differences(state, state_of(3))
    assert state["model"]["weight"] is state["model"]["tied"]
    assert manifest.files == manager.checkpoints()[0].files
    assert (manifest.name, manifest.step, manifest.epoch) == ("step_00000003", 3, 1)
    assert (manifest.sequence, manifest.is_best, manifest.is_pinned) == (1, False, True)
    assert repr(manifest.metrics) == "{'loss': 0.5, 'bad': nan}"
    assert manifest.config == {"layers": (1, 2)}


def test_a_relative_directory_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager("a")
    monkeypatch.chdir("/")
    assert manager.save(1, step=0) == tmp_path / "a" / "step_00000000"


def test_a_new_directory_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    synced: list[Path] = []
    make = storage.make_directory

    def make_directory(path: Path) -> None:
        # Another process may be faster.
        make(path)
        made.append(path)
        make(path)

    monkeypatch.setattr(storage, "make_directory", make_directory)
    monkeypatch.setattr(storage, "sync_directory", synced.append)
    CheckpointManager(tmp_path / "a" / "b")
    assert made == [tmp_path / "a", tmp_path / "a" / "b"]
    assert synced == [tmp_path, tmp_path / "a"]


def test_each_way_to_name_a_checkpoint(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "a", metric="loss")
    paths = [
        manager.save(state_of(i), step=i, metrics={"loss": loss})
        for i, loss in enumerate([3.0, 1.0, 2.0])
    ]
    other = CheckpointManager(tmp_path / "b").save(state_of(9), step=9, name="x.Y_z-1")
    ways: list[tuple[str | Path | None, int]] = [
        (None, 2),
        ("latest", 2),
        ("best", 1),
        ("step_00000000", 0),
        (paths[1], 1),
        (other, 9),
    ]
    for way, step in ways:
        assert manager.load(way)[0]["step"] == step, way
    assert (manager.latest, manager.best) == (paths[2], paths[1])


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    assert manager.checkpoints() == []
    assert manager.latest is None
    assert manager.best is None
    assert manager.load_latest_good() is None
    assert manager.prune() == []
    for name in (None, "latest", "best"):
        with pytest.raises(CheckpointError, match=rf"^{tmp_path} has no {name or 'latest'} check"):
            manager.load(name)
    with pytest.raises(CheckpointError, match=rf"no checkpoint 'x' in {tmp_path}; .* are: none$"):
        manager.load("x")


def test_a_missing_name_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(0, step=0, name="a")
    manager.save(0, step=1, name="b")
    with pytest.raises(CheckpointError, match=r"no checkpoint 'c' in .*; there are: b, a$"):
        manager.load("c")
    with pytest.raises(CheckpointError, match=rf"there is no checkpoint {tmp_path}/c$"):
        manager.load(tmp_path / "c")
    with pytest.raises(ValueError, match=r"^'x/a' is no name .*; pass Path\('x/a'\) for a path$"):
        manager.load("x/a")


BAD_NAMES = [
    "",
    ".a",
    "-a",
    "a b",
    "a/b",
    "..",
    "a\n",
    "ä",
    "x" * 129,
    "latest",
    "best",
    "best.json",
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "latest.json", "pinned.json", 5], ids=repr)
def test_names_that_are_refused(tmp_path: Path, name: Any) -> None:
    manager = CheckpointManager(tmp_path)
    expected = rf"name must be 1 to 128 letters, digits, .* got {re.escape(repr(name))}$"
    for save in (manager.save, manager.save_async):
        with pytest.raises(ValueError, match=expected):
            save(0, step=0, name=name)
    assert entries(tmp_path) == set()


def test_the_longest_name(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(2):
        manager.save(i, step=i, name="x" * 128)
    assert manager.load("x" * 128)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_last": 0}, "keep_last must be a positive int, or None, got 0"),
        ({"keep_best": -1}, "keep_best must be an int of at least 0, got -1"),
        ({"keep_every": 0}, "keep_every must be a positive int, or None, got 0"),
        ({"metric": ""}, "metric must be the name of a metric, or None, got ''"),
        ({"metric": 3}, "metric must be the name of a metric, or None, got 3"),
        ({"mode": "Min"}, r"unknown mode 'Min' \(did you mean 'min'\?\); it is one of max, min"),
        ({"lock_timeout": -1}, "lock_timeout must be a finite number of at least 0, got -1"),
        ({"lock_timeout": NAN}, "lock_timeout must be a finite number of at least 0, got nan"),
    ],
)
def test_bad_settings(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        CheckpointManager(tmp_path / "a", **arguments)
    assert entries(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step must be an int of at least 0, got -1"),
        ({"step": 1.0}, r"step must be an int of at least 0, got 1\.0"),
        ({"step": 1, "epoch": -1}, "epoch must be an int of at least 0, got -1"),
        ({"step": 1, "metrics": {"loss": "1"}}, "metrics must map .*, got 'loss': '1'"),
    ],
)
def test_bad_arguments_of_a_save(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    manager = CheckpointManager(tmp_path)
    for save in (manager.save, manager.save_async):
        with pytest.raises(ValueError, match=f"^{message}$"):
            save(0, **arguments)
    assert entries(tmp_path) == set()


@pytest.mark.parametrize("call", ["save", "save_async"])
def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path, call: str) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(state_of(1), step=1)
    before = content(tmp_path)
    with pytest.raises(CheckpointError, match=r"^'model\.x' cannot be saved: .*builtins\.set"):
        getattr(manager, call)({"model": {"x": {1}}}, step=2)
    with pytest.raises(CheckpointError, match=r"^'a' cannot be saved: .*builtins\.set"):
        getattr(manager, call)({}, step=2, config={"a": {1}})
    manager.wait()
    assert content(tmp_path) == before
    assert entries(tmp_path) == {"step_00000001", "latest.json"}


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(CheckpointError, match=rf"^cannot make the directory {path}: "):
            CheckpointManager(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CheckpointManager(tmp_path).save(state_of(1), step=1)
    os.mkdir(tmp_path / ".saving-x")
    (tmp_path / ".lock").unlink()

    def refuse(name: str, operate: Callable[[], Any]) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", ".lock")

    on_storage(monkeypatch, refuse)
    manager = CheckpointManager(tmp_path)
    assert manager.load()[0]["step"] == 1
    with pytest.raises(
        CheckpointError, match=rf"^cannot save checkpoint 'b' in {tmp_path}: .*; make it writable$"
    ):
        manager.save(0, step=2, name="b")


# The newest and the best


def test_sequence_and_not_step_or_name_says_what_is_newest(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for name, step in (("z", 9), ("b", 5), ("a", 5)):
        manager.save(step, step=step, name=name)
    assert [(m.name, m.sequence) for m in manager.checkpoints()] == [("a", 3), ("b", 2), ("z", 1)]
    assert manager.latest == tmp_path / "a"
    manager.save(7, step=7, name="z")
    assert [(m.name, m.sequence) for m in manager.checkpoints()] == [("z", 4), ("a", 3), ("b", 2)]


def test_one_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, metric="loss")
    manager.save(state_of(1), step=1, name="a", metrics={"loss": 1.0})
    manager.save(state_of(2), step=2, name="b", metrics={"loss": 2.0})
    manager.save(state_of(3), step=3, name="a", metrics={"loss": 3.0})
    assert entries(tmp_path) == {"a", "b", "latest.json", "best.json"}
    assert manager.load("a")[0]["step"] == 3
    # The one that it replaces is not what it is compared with.
    assert [m.is_best for m in manager.checkpoints()] == [False, False]
    assert manager.best == tmp_path / "b"
    manager.save(state_of(4), step=4, name="b", metrics={"loss": 2.5})
    assert manager.checkpoints()[0].is_best


@pytest.mark.parametrize(("mode", "best"), [("min", "e"), ("max", "h")])
def test_best_is_finite_and_the_newest_of_equal_ones(tmp_path: Path, mode: str, best: str) -> None:
    manager = CheckpointManager(tmp_path, keep_last=None, metric="loss", mode=mode)
    losses = {"a": NAN, "b": 1.0, "c": 5.0, "d": INF, "e": 1.0, "f": -INF, "g": None, "h": 5.0}
    was_best = []
    for i, (name, loss) in enumerate(losses.items()):
        manager.save(i, step=i, name=name, metrics=None if loss is None else {"loss": loss})
        was_best.append(manager.checkpoints()[0].is_best)
    assert manager.best == tmp_path / best
    assert read_json(tmp_path / "best.json") == {
        "checkpoint": best,
        "step": list(losses).index(best),
        "sequence": list(losses).index(best) + 1,
        "metric": "loss",
        "value": losses[best],
    }
    expected = {"min": "be", "max": "bch"}[mode]
    assert [name for name, is_best in zip(losses, was_best) if is_best] == list(expected)
    # Without the metric it is the same one.
    assert CheckpointManager(tmp_path).best == manager.best


def test_best_is_what_was_said_without_a_metric(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=2)
    for i, is_best in enumerate([True, True, True, None, False, None]):
        manager.save(i, step=i, name=f"c{i}", is_best=is_best, metrics={"loss": -i})
    assert manager.best == tmp_path / "c2"
    assert names(manager) == ["c5", "c2", "c1"]
    assert read_json(tmp_path / "best.json") == {"checkpoint": "c2", "step": 2, "sequence": 3}


def test_the_metric_decides_and_the_word_is_written_down(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=None, metric="loss")
    manager.save(0, step=0, name="a", metrics={"loss": 1.0}, is_best=False)
    manager.save(0, step=1, name="b", metrics={"loss": 2.0}, is_best=True)
    assert manager.best == tmp_path / "a"
    assert [m.is_best for m in manager.checkpoints()] == [True, False]
    assert CheckpointManager(tmp_path).best == tmp_path / "b"


def test_pointers_are_made_anew_by_the_next_save(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, metric="loss")
    manager.save(0, step=7, name="a", metrics={"loss": 1.0})
    assert read_json(tmp_path / "latest.json") == {"checkpoint": "a", "step": 7, "sequence": 1}
    (tmp_path / "latest.json").write_text("{")
    (tmp_path / "best.json").unlink()
    manager = CheckpointManager(tmp_path, metric="loss")
    assert (manager.latest, manager.best) == (tmp_path / "a", tmp_path / "a")
    manager.save(0, step=8, name="b", metrics={"loss": 2.0})
    assert read_json(tmp_path / "latest.json")["checkpoint"] == "b"
    assert read_json(tmp_path / "best.json")["checkpoint"] == "a"
    # The best one is gone, and of the others none was measured.
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    manager.save(0, step=9, name="c")
    assert entries(tmp_path) == {"c", "latest.json"}


# What stays


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize(("keep_best", "count"), [(0, 20), (1, 100)])
def test_the_best_of_100_stays(tmp_path: Path, keep_best: int, count: int) -> None:
    for i in range(count):
        # Another run each time: nothing is remembered.
        manager = CheckpointManager(tmp_path, keep_last=2, keep_best=keep_best, metric="loss")
        manager.save(i, step=i, metrics={"loss": float(abs(i - 7))})
        assert manager.best == tmp_path / f"step_{min(i, 7):08d}"
    steps = [manifest.step for manifest in manager.checkpoints()]
    assert steps == [count - 1, count - 2, 7]
    assert manager.load("best")[0] == 7


def pins(directory: Path) -> dict[str, Any]:
    """Return what is pinned, without its checksum."""
    value = read_json(directory / "pinned.json")
    del value["checksum"]
    return value


def test_pins_stay_until_they_are_taken_away(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    for i, name in enumerate("abc"):
        manager.save(i, step=i, name=name, is_pinned=name == "a")
        if name == "b":
            manager.pin("b")
    assert names(manager) == ["c", "b", "a"]
    manager = CheckpointManager(tmp_path, keep_last=1)
    times = {manifest.name: manifest.created for manifest in manager.checkpoints()}
    manager.unpin("a")
    assert pins(tmp_path) == {"pinned": ["b"], "unpinned": {"a": times["a"]}}
    manager.unpin("b")
    assert manager.prune(dry_run=True) == [tmp_path / "b", tmp_path / "a"]
    assert names(manager) == ["c", "b", "a"]
    manager.pin("a")
    assert pins(tmp_path) == {"pinned": ["a"], "unpinned": {"b": times["b"]}}
    assert manager.prune() == [tmp_path / "b"]
    assert names(manager) == ["c", "a"]
    assert manager.prune() == []


def test_a_pin_is_of_a_name_and_taking_it_away_is_of_a_checkpoint(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(0, step=0, name="a")
    manager.pin("a")
    manager.save(0, step=1, name="b", is_pinned=True)
    manager.unpin("b")
    manager.save(0, step=2, name="a")
    assert names(manager) == ["a"]
    manager.save(0, step=3, name="b", is_pinned=True)
    manager.save(0, step=4, name="c")
    assert names(manager) == ["c", "b", "a"]


def test_a_number_that_is_used_again_is_of_another_checkpoint(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(0, step=0, name="a", is_pinned=True)
    manager.unpin("a")
    flip(tmp_path / "a" / "state.json")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        manager.load_latest_good()
    shutil.rmtree(tmp_path / "a")
    manager.save(0, step=0, name="a", is_pinned=True)
    assert [(m.name, m.sequence) for m in manager.checkpoints()] == [("a", 1)]
    manager.save(0, step=1, name="b")
    assert names(manager) == ["b", "a"]


def test_a_checkpoint_is_no_directory_of_checkpoints(tmp_path: Path) -> None:
    saved = CheckpointManager(tmp_path).save(0, step=0)
    before = sorted(os.listdir(saved))
    with pytest.raises(CheckpointError, match="is a checkpoint; give the directory that it is in"):
        CheckpointManager(saved)
    assert sorted(os.listdir(saved)) == before


def test_pins_of_what_is_not_there(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(0, step=0, name="a")
    manager.pin("a")
    shutil.rmtree(tmp_path / "a")
    manager.unpin("a")
    assert pins(tmp_path) == {"pinned": [], "unpinned": {}}
    for call in (manager.pin, manager.unpin):
        with pytest.raises(CheckpointError, match=r"there is no checkpoint 'a' in .*: none$"):
            call("a")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"pinned": "abc", "unpinned": {}}', '{"pinned": []}', "[" * 9999]
)
def test_damaged_pins_keep_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1)
    path = tmp_path / "pinned.json"
    path.write_text(text)
    for i in range(3):
        manager.save(i, step=i, name=f"c{i}")
    assert names(manager) == ["c2", "c1", "c0"]
    assert len(texts(caplog)) == 3
    expected = rf"no checkpoint is removed: {path} is damaged: .*; remove it, and pin again"
    assert all(re.match(expected, text) for text in texts(caplog))
    reasons = "it has no checksum|it is not valid JSON: .*"
    with pytest.raises(CorruptCheckpointError, match=rf"^{path} is damaged: ({reasons}); remove"):
        manager.pin("c0")
    assert path.read_text() == text
    path.unlink()
    assert manager.prune() == [tmp_path / "c1", tmp_path / "c0"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"pinned": [], "unpinned": {}, "checksum": "0" * 16}, "its checksum is wrong"),
        ({"pinned": []}, "it is no list of pinned checkpoints"),
        ({"pinned": 3, "unpinned": {}}, "it is no list of pinned checkpoints"),
        ({"pinned": [[]], "unpinned": {}}, "it is no list of pinned checkpoints"),
        ({"pinned": [], "unpinned": "ab"}, "it is no list of pinned checkpoints"),
    ],
)
def test_pins_with_a_checksum_may_be_damaged(
    tmp_path: Path, value: dict[str, Any], reason: str
) -> None:
    checksum = xxhash.xxh3_64_hexdigest(encode_json(value))
    path = tmp_path / "pinned.json"
    path.write_bytes(encode_json({"checksum": checksum, **value}))
    with pytest.raises(CorruptCheckpointError, match=rf"^{path} is damaged: {reason}; remove it"):
        Pins.read(tmp_path)


def test_what_is_not_known_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = CheckpointManager(tmp_path / "elsewhere").save(state_of(5), step=5)
    caplog.clear()
    directory = tmp_path / "a"
    manager = CheckpointManager(directory, keep_last=1)
    (directory / "logs").mkdir()
    (directory / "logs" / "events").write_text("mine")
    (directory / "notes.txt").write_text("mine")
    (directory / "step_00000009").write_text("mine")
    (directory / ".hidden").mkdir()
    (directory / "my checkpoint").mkdir()
    (directory / "my checkpoint" / "manifest.json").write_text("mine")
    (directory / "link").symlink_to(elsewhere)
    (directory / "step_00000008").symlink_to(tmp_path / "nowhere")
    (directory / "logs_link").symlink_to(directory / "logs")
    (directory / "broken").mkdir()
    (directory / "broken" / "state.json").write_text("mine")
    (directory / "step_00000007").mkdir()
    before = entries(directory)
    files = content(directory)
    for i in range(3):
        manager.save(state_of(i), step=i)
    assert entries(directory) == before | {"step_00000002", "latest.json"}
    assert files.items() <= content(directory).items()
    assert verify_checkpoint(elsewhere).step == 5
    # Each is told once.
    start = "a checkpoint that cannot be read is left alone: "
    link = "is a symbolic link, which is not followed; use its target instead"
    missing = "manifest.json is missing"
    assert texts(caplog) == [
        f"{start}{directory}/broken/{missing}",
        f"{start}{directory}/link {link}",
        f"{start}{directory}/step_00000007/{missing}",
        f"{start}{directory}/step_00000008 {link}",
    ]
    for name in ("logs", "link", "step_00000009", "step_00000008"):
        with pytest.raises(
            CheckpointError, match=rf"^{directory}/{name} exists and is no checkpoint; choose an"
        ):
            manager.save(0, step=9, name=name)
    for place in ("link", directory / "link"):
        with pytest.raises(CorruptCheckpointError, match=rf"^{directory}/link is a symbolic link"):
            manager.load(place)
    assert files.items() <= content(directory).items()


def test_what_is_left_of_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    path = manager.save(state_of(1), step=1)
    (path / "manifest.json").unlink()
    assert manager.latest is None
    manager.save(state_of(1), step=1)
    assert manager.load("step_00000001")[0]["step"] == 1
    assert entries(tmp_path) == {"step_00000001", "latest.json"}


def test_renamed_and_copied_checkpoints_have_the_names_of_their_directories(
    tmp_path: Path,
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3)
    for i in range(3):
        manager.save(i, step=i, name=f"c{i}")
    (tmp_path / "c2").rename(tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "copy")
    assert names(manager) == ["mine", "copy", "c1", "c0"]
    assert manager.latest == tmp_path / "mine"
    assert manager.load("mine")[0] == 2
    manager.save(3, step=3, name="c3")
    assert names(manager) == ["c3", "mine", "copy"]
    manager.pin("copy")
    assert pins(tmp_path)["pinned"] == ["copy"]


# Damaged checkpoints


def test_damaged_ones_are_passed_over_and_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=2, metric="loss")
    manager.save(state_of(0), step=0, name="a", is_pinned=True, metrics={"loss": 5.0})
    manager.save(state_of(1), step=1, name="b", is_pinned=True, metrics={"loss": 4.0})
    manager.save(state_of(2), step=2, name="c", metrics={"loss": 1.0})
    manager.save(state_of(3), step=3, name="d", metrics={"loss": 2.0})
    flip(tmp_path / "d" / "tensors.safetensors")
    flip(tmp_path / "c" / "state.json")
    found = manager.load_latest_good()
    assert found is not None
    assert (found[0]["step"], found[1].name) == (1, "b")
    first, second = texts(caplog)
    assert re.match(
        rf"a damaged checkpoint is passed over: {tmp_path}/d/tensors.safetensors is damaged: "
        r"tensor 'model\.weight' has checksum",
        first,
    )
    assert f"{tmp_path}/c/state.json is damaged" in second
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    # They neither count nor go; what is next is newer than they are all the same.
    assert names(manager) == ["b", "a"]
    assert (manager.latest, manager.best) == (tmp_path / "b", tmp_path / "b")
    for i in range(4, 7):
        manager.save(state_of(i), step=i, name=f"n{i}", metrics={"loss": 9.0})
        assert manager.checkpoints()[0].sequence == i + 1
        assert read_json(tmp_path / "best.json")["checkpoint"] == "b"
    assert names(manager) == ["n6", "n5", "b", "a"]
    assert {"c", "d"} < entries(tmp_path)
    # What replaces a damaged one is none.
    manager.save(state_of(7), step=7, name="d", metrics={"loss": 0.0})
    assert names(manager)[0] == "d"
    assert manager.best == tmp_path / "d"


def test_one_that_is_repaired_counts_again(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(2):
        manager.save(state_of(i), step=i, name=f"c{i}")
    flip(tmp_path / "c1" / "state.json")
    manager.load_latest_good()
    assert names(manager) == ["c0"]
    flip(tmp_path / "c1" / "state.json")
    found = manager.load_latest_good()
    assert found is not None
    assert found[1].name == "c1"
    assert names(manager) == ["c1", "c0"]


def test_unreadable_ones_are_told_at_each_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(state_of(0), step=0, name="a")
    manager.save(state_of(1), step=1, name="b")
    with open(tmp_path / "b" / "state.json", "ab") as file:
        file.write(b" ")
    for _ in range(2):
        found = manager.load_latest_good()
        assert found is not None
        assert found[1].name == "a"
    expected = f"{tmp_path}/b/state.json is damaged: it has "
    assert [text.count(expected) for text in texts(caplog)] == [1, 1]


def test_all_damaged_is_an_error_with_each_reason(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(3):
        manager.save(state_of(i), step=i, name=f"c{i}")
    flip(tmp_path / "c0" / "tensors.safetensors")
    flip(tmp_path / "c1" / "state.json")
    flip(tmp_path / "c2" / "manifest.json")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"^no checkpoint in {tmp_path} can be") as info:
            manager.load_latest_good()
        for file in ("c0/tensors.safetensors", "c1/state.json", "c2/manifest.json"):
            assert f"{tmp_path}/{file} is damaged" in str(info.value)


def test_what_is_no_damage_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(2):
        manager.save(state_of(i), step=i, name=f"c{i}")
    text = (tmp_path / "c1" / "manifest.json").read_bytes()

    def refuse(path: Path) -> Any:
        raise CheckpointError(f"{path}: no memory for tensor 'x'")

    with monkeypatch.context() as patch:
        patch.setattr(f"{DIRECTORY}.read_checkpoint", refuse)
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/c1: no memory"):
            manager.load_latest_good()
        patch.setattr(f"{DIRECTORY}.read_manifest", refuse)
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/c0: no memory"):
            manager.load_latest_good()
    assert names(manager) == ["c1", "c0"]
    assert (tmp_path / "c1" / "manifest.json").read_bytes() == text


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_one_that_goes_while_it_is_read_is_no_damage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(2):
        manager.save(state_of(i), step=i, name=f"c{i}")
    other = CheckpointManager(tmp_path)
    read = read_checkpoint

    def interfere(path: Path) -> Any:
        monkeypatch.setattr(f"{DIRECTORY}.read_checkpoint", read)
        if change == "removed":
            shutil.rmtree(path)
            return read(path)
        other.save(state_of(5), step=5, name=path.name)
        raise CorruptCheckpointError("half of it is of another one")

    monkeypatch.setattr(f"{DIRECTORY}.read_checkpoint", interfere)
    found = manager.load_latest_good()
    assert found is not None
    assert found[0]["step"] == (0 if change == "removed" else 5)
    assert texts(caplog) == []


def test_one_that_goes_while_it_is_looked_at_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(2):
        manager.save(state_of(i), step=i, name=f"c{i}")

    def interfere(path: Path) -> Any:
        if path.name == "c0" and path.exists():
            shutil.rmtree(path)
        return read_manifest(path)

    monkeypatch.setattr(f"{DIRECTORY}.read_manifest", interfere)
    assert names(manager) == ["c1"]
    assert texts(caplog) == []


# Saves in the background


def test_background_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = functools.partial(Info, created="2026-01-01T00:00:00+00:00")
    monkeypatch.setattr("hotloop.checkpoint.checkpoint_manager.Info", at)
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "views": [shared, shared, shared[1:], shared.t(), shared[:1].expand(2, 4)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": [torch.ones(0), torch.ones(0), shared[:0]],
        "scalar": torch.tensor(True),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "plain": {1: (None, -0.0, NAN), "$x": "y", None: [True, "a"]},
    }
    state["again"] = state["empty"]
    about: dict[str, Any] = {
        "step": 4,
        "epoch": 2,
        "metrics": {"loss": 1.0},
        "config": {"a": [1]},
        "is_pinned": True,
    }
    for i in range(2):
        CheckpointManager(tmp_path / f"sync{i}", metric="loss").save(state, **about)
        manager = CheckpointManager(tmp_path / f"async{i}", metric="loss")
        manager.save_async(state, **about)
        manager.wait()
        assert content(tmp_path / f"async{i}") == content(tmp_path / f"sync{i}")
        shared += 1
    assert len(content(tmp_path / "sync0")) == 5


class Gate(threading.Event):
    """Holds back writes in a thread until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reached = threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    write = write_checkpoint

    def hold(*args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            gate.is_reached.set()
            assert gate.wait(10)
        return write(*args)

    monkeypatch.setattr(f"{DIRECTORY}.write_checkpoint", hold)
    yield gate
    gate.set()


def test_training_goes_on_while_it_is_written(tmp_path: Path, gate: Gate) -> None:
    manager = CheckpointManager(tmp_path)
    state = state_of(1)
    metrics = {"loss": 1.0}
    config = {"layers": [1]}
    manager.save_async(state, step=1, metrics=metrics, config=config)
    state["model"]["weight"].fill_(9)
    state["model"]["new"] = 1
    metrics["loss"] = 9.0
    config["layers"].append(9)
    assert manager.latest is None
    gate.set()
    manager.wait()
    loaded, manifest = manager.load()
    assert not differences(loaded, state_of(1))
    assert (manifest.metrics, manifest.config) == ({"loss": 1.0}, {"layers": [1]})


CALLS: dict[str, Callable[[CheckpointManager], object]] = {
    "save": lambda manager: manager.save(2, step=2),
    "save_async": lambda manager: manager.save_async(2, step=2),
    "wait": lambda manager: manager.wait(),
    "load": lambda manager: manager.load("step_00000001"),
    "load_latest_good": lambda manager: manager.load_latest_good(),
    "pin": lambda manager: manager.pin("step_00000001"),
    "prune": lambda manager: manager.prune(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_needs_the_last_save_waits_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gate: Gate,
    call: Callable[[CheckpointManager], object],
) -> None:
    manager = CheckpointManager(tmp_path, lock_timeout=0)
    join = threading.Thread.join

    def open_and_join(thread: threading.Thread) -> None:
        gate.set()
        join(thread)

    monkeypatch.setattr(threading.Thread, "join", open_and_join)
    manager.save_async(state_of(1), step=1)
    assert not gate.is_set()
    call(manager)
    assert gate.is_set()
    assert "step_00000001" in names(manager)
    manager.wait()


def test_the_next_save_does_not_touch_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    join = threading.Thread.join

    def open_and_join(thread: threading.Thread) -> None:
        gate.set()
        join(thread)

    monkeypatch.setattr(threading.Thread, "join", open_and_join)
    manager = CheckpointManager(tmp_path)
    for i in range(3):
        manager.save_async(state_of(i), step=i)
    manager.wait()
    for i in range(3):
        assert not differences(manager.load(f"step_{i:08d}")[0], state_of(i))


def fail(*_: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("call", ["save", "save_async", "wait"])
def test_a_failure_in_the_background_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(state_of(0), step=0)
    with monkeypatch.context() as patch:
        patch.setattr(f"{DIRECTORY}.write_checkpoint", fail)
        manager.save_async(state_of(1), step=1)
        # A load is of what is there.
        assert manager.load()[0]["step"] == 0
    with pytest.raises(
        CheckpointError,
        match=r"^the last save in the background failed: CheckpointError: cannot save checkpoint "
        rf"'step_00000001' in {tmp_path}: \[Errno 5\] Input/output error; check the directory",
    ):
        CALLS[call](manager)
    assert names(manager) == ["step_00000000"]
    CALLS[call](manager)
    manager.wait()
    assert names(manager)[0] == ("step_00000000" if call == "wait" else "step_00000002")


def test_the_time_of_saves_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    copy = HostBuffers.copy
    write = vars(checkpoint_directory)["write_checkpoint"]

    def slow_copy(*args: Any) -> Any:
        now[0] += 0.25
        return copy(*args)

    def slow_write(*args: Any) -> Any:
        result = write(*args)
        now[0] += 8
        return result

    monkeypatch.setattr(HostBuffers, "copy", slow_copy)
    monkeypatch.setattr(f"{DIRECTORY}.write_checkpoint", slow_write)
    manager = CheckpointManager(tmp_path)

    def times() -> tuple[float, float, float]:
        return manager.blocked_seconds, manager.last_blocked_seconds, manager.last_seconds

    assert times() == (0, 0, 0)
    manager.save(0, step=0)
    assert times() == (8, 8, 8)
    manager.save_async(1, step=1)
    assert times() == (8.25, 0.25, 8)
    gate.set()
    manager.wait()
    assert times() == (8.25, 0.25, 8.25)
    with pytest.raises(ValueError, match="step"):
        manager.save(1, step=-1)
    assert times() == (8.25, 0, 8.25)


def test_the_interpreter_does_not_exit_before_the_end(tmp_path: Path) -> None:
    # The write begins after the main thread's end.
    program = f"""
import threading
from hotloop.checkpoint import checkpoint_directory
from hotloop.checkpoint.checkpoint import write_checkpoint
from hotloop.checkpoint.checkpoint_manager import CheckpointManager

def late(*args):
    threading.main_thread().join()
    return write_checkpoint(*args)

checkpoint_directory.write_checkpoint = late
CheckpointManager({str(tmp_path)!r}).save_async({{"a": 1}}, step=1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert CheckpointManager(tmp_path).load()[0] == {"a": 1}
    assert entries(tmp_path) == {"step_00000001", "latest.json"}


def test_a_forked_process_neither_waits_nor_holds_the_lock(tmp_path: Path, gate: Gate) -> None:
    manager = CheckpointManager(tmp_path, lock_timeout=1)
    manager.save_async(state_of(1), step=1)
    assert gate.is_reached.wait(10)
    read, write = os.pipe()
    pid = os.getpid()

    def work() -> None:
        manager.wait()
        # The lock is the parent's; a copy of its descriptor stays open here.
        manager._folder._lock_timeout = 0
        with pytest.raises(CheckpointError, match=f"locked after 0 seconds, by process {pid}"):
            manager.save(2, step=2)
        os.close(write)
        os.read(read, 1)
        assert manager.load()[0]["step"] == 1

    child = fork(work)
    try:
        gate.set()
        manager.wait()
        # While the child lives.
        manager.save(state_of(1), step=1)
    finally:
        os.close(write)
        os.close(read)
        status = status_of(child)
    assert status == 0


# Locks


def test_a_locked_directory_is_told_with_who_has_it(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, lock_timeout=0.02)
    manager.save(state_of(1), step=1, name="a")
    before = content(tmp_path)
    other = CheckpointManager(tmp_path)
    message = (
        rf"^{tmp_path} is still locked after 0\.02 seconds, by process {os.getpid()}, which saves "
        "or removes checkpoints there; wait for it, or set a longer lock_timeout$"
    )
    (tmp_path / ".saving-x").mkdir()
    with other._folder.changing("test"):
        (tmp_path / ".saving-y").mkdir()
        for call in (
            lambda: manager.save(2, step=2),
            lambda: manager.pin("a"),
            lambda: manager.prune(),
        ):
            with pytest.raises(CheckpointError, match=message):
                call()
        # To read and to look needs no lock; a new one does not touch what the other one does.
        assert CheckpointManager(tmp_path).load("a")[0]["step"] == 1
        assert manager.prune(dry_run=True) == []
        assert entries(tmp_path) == {"a", "latest.json", ".saving-y"}
        assert content(tmp_path) == before
    CheckpointManager(tmp_path)
    assert entries(tmp_path) == {"a", "latest.json"}


def test_processes_save_into_one_directory(tmp_path: Path) -> None:
    def save_some(mine: str) -> None:
        manager = CheckpointManager(tmp_path, keep_last=None)
        for i in range(8):
            manager.save(state_of(i), step=i, name=f"{mine}{i}")
            manager.save(state_of(i), step=i, name="shared")

    children = [fork(lambda mine=mine: save_some(mine)) for mine in "ab"]  # type: ignore[misc]
    assert [status_of(child) for child in children] == [0, 0]
    manager = CheckpointManager(tmp_path)
    found = manager.checkpoints()
    assert {m.name for m in found} == {"shared", *(f"{x}{i}" for x in "ab" for i in range(8))}
    assert len({m.sequence for m in found}) == len(found)
    assert found[0].sequence == 32
    for manifest in found:
        verify_checkpoint(tmp_path / manifest.name)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".") and name != ".lock"]


# What killed processes leave


def test_stale_directories_are_removed_or_put_back(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for i in range(3):
        manager.save(state_of(i), step=i, name=f"c{i}")
    # Killed while c0 was replaced, after c1 was, while c2 was removed, while others were made.
    (tmp_path / "c0").rename(tmp_path / ".replaced-c0")
    shutil.copytree(tmp_path / "c1", tmp_path / ".replaced-c1")
    (tmp_path / "c2").rename(tmp_path / ".removing-c2")
    (tmp_path / ".saving-c3" / "folder").mkdir(parents=True)
    (tmp_path / ".saving-c3" / "file").write_text("half")
    (tmp_path / ".saving-c3" / "link").symlink_to(tmp_path / "c1")
    (tmp_path / ".saving-latest.json").write_text("{")
    (tmp_path / ".other").write_text("mine")
    again = CheckpointManager(tmp_path)
    assert entries(tmp_path) == {"c0", "c1", "latest.json", ".other"}
    assert {name: again.load(name)[0]["step"] for name in ("c0", "c1")} == {"c0": 0, "c1": 1}
    # Also those that were left since this one was made.
    (tmp_path / ".saving-c3").mkdir()
    (tmp_path / "c0").rename(tmp_path / ".replaced-c0")
    again.save(state_of(3), step=3, name="c3")
    assert entries(tmp_path) == {"c0", "c1", "c3", "latest.json", ".other"}


def test_the_new_one_is_durable_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(state_of(0), step=0, name="a")
    shutil.copytree(tmp_path / "a", tmp_path / ".replaced-a")
    log: list[str] = []

    def record(name: str, operate: Callable[[], Any]) -> Any:
        log.append(name)
        return operate()

    on_storage(monkeypatch, record)
    CheckpointManager(tmp_path)
    removal = ["remove_file"] * 3 + ["remove_directory"]
    assert log == ["create", "write", "sync_directory", *removal]
    log.clear()
    manager.save(state_of(1), step=1, name="a")
    renames = [i for i, name in enumerate(log) if name == "rename"]
    assert log[renames[0] - 1 : renames[1] + 2] == [
        "sync_directory",
        "rename",
        "rename",
        "sync_directory",
    ]
    # Then the pointer, and only then what is not needed any more.
    pointer = ["create", "write", "sync", "close", "rename", "sync_directory"]
    assert log[renames[1] + 2 :] == [*pointer, *removal]
    log.clear()
    CheckpointManager(tmp_path, keep_last=1).save(state_of(2), step=2, name="b")
    assert log[-12:] == [*pointer, "rename", "sync_directory", *removal]


def test_what_cannot_be_cleaned_does_not_stop_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path)
    (tmp_path / ".saving-x").mkdir()
    (tmp_path / ".saving-y").mkdir()
    remove = storage.remove_directory

    def refuse(path: Path) -> None:
        if path.name == ".saving-x":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        remove(path)

    monkeypatch.setattr(storage, "remove_directory", refuse)
    manager.save(state_of(1), step=1)
    assert entries(tmp_path) == {".saving-x", "step_00000001", "latest.json"}
    assert texts(caplog) == [
        f"what a killed process left in {tmp_path} stays: [Errno 16] Device or resource busy: "
        f"'{tmp_path}/.saving-x'"
    ]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints, of which the next save removes one."""
    directory = tmp_path_factory.mktemp("start") / "a"
    manager = make(directory)
    for i in range(3):
        manager.save(state_of(i), step=i, name=f"c{i}", metrics={"loss": float(-i)})
    return directory


def make(directory: Path) -> CheckpointManager:
    return CheckpointManager(directory, keep_last=3, metric="loss")


def save_new(directory: Path) -> None:
    make(directory).save(state_of(7), step=7, name="c7", metrics={"loss": -7.0})


def save_over(directory: Path) -> None:
    make(directory).save(state_of(7), step=7, name="c2", metrics={"loss": -7.0})


def operations(start: Path, directory: Path, save: Callable[[Path], None]) -> list[str]:
    shutil.copytree(start, directory)
    calls: list[str] = []

    def count(name: str, operate: Callable[[], Any]) -> Any:
        calls.append(name)
        return operate()

    with pytest.MonkeyPatch.context() as patch:
        on_storage(patch, count)
        save(directory)
    shutil.rmtree(directory)
    # Two checkpoints' worth of files, pointers and a removal.
    assert len(calls) > 35
    return calls


def check_content(directory: Path, save: Callable[[Path], None]) -> bool:
    """Check that all is as before or as after the save, and return whether it is as after."""
    manager = make(directory)
    assert not [name for name in entries(directory) if name.startswith(".")]
    name = "c7" if save is save_new else "c2"
    found = {manifest.name: manager.load(manifest.name)[0] for manifest in manager.checkpoints()}
    is_new = name in found and found[name]["step"] == 7
    newest = manager.load_latest_good()
    assert newest is not None
    assert newest[1].name == (name if is_new else "c2")
    assert newest[1].sequence == (4 if is_new else 3)
    for each, state in found.items():
        assert not differences(state, state_of(7 if is_new and each == name else int(each[1:])))
    # What the save removes may still be there.
    least = {"c0", "c1", "c2"} if not is_new or save is save_over else {"c1", "c2", "c7"}
    assert least <= found.keys() <= least | {"c0"}
    assert manager.best == directory / newest[1].name
    for file in ("latest.json", "best.json"):
        assert read_json(directory / file)["checkpoint"] in found
    manager.save(state_of(8), step=8, name="c8", metrics={"loss": -8.0})
    assert {"c8", newest[1].name} < entries(directory)
    assert len(entries(directory)) == 5
    return is_new


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("save", [save_new, save_over])
@pytest.mark.parametrize("is_half", [False, True])
def test_a_kill_at_any_operation(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    start: Path,
    save: Callable[[Path], None],
    is_half: bool,
) -> None:
    calls = operations(start, tmp_path / "a", save)
    # After an operation nothing happens until the next one.
    count = calls.count("write") if is_half else len(calls) + 1
    outcomes = []
    for n in range(1, count + 1):
        directory = tmp_path / str(n)
        shutil.copytree(start, directory)
        status = status_of(fork(functools.partial(kill_at, n, is_half, save, directory)))
        assert status == (0 if n > len(calls) else 70)
        outcomes.append(check_content(directory, save))
        shutil.rmtree(directory)
    # What is there once is there ever after.
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)
    assert texts(caplog) == []


def kill_at(n: int, is_half: bool, save: Callable[[Path], None], directory: Path) -> None:
    """Save, and end the process before an operation, or in the middle of a write."""
    count = 0

    def kill(name: str, operate: Callable[[], Any]) -> Any:
        nonlocal count
        count += name == "write" or not is_half
        if count != n or (is_half and name != "write"):
            return operate()
        if is_half:
            assert isinstance(operate, functools.partial)
            fd, data = operate.args
            os.write(fd, memoryview(data)[: len(data) // 2])
        os._exit(70)

    on_storage(pytest.MonkeyPatch(), kill)
    save(directory)


# Saves that fail


FULL = OSError(errno.ENOSPC, "No space left on device", "FILE")
BROKEN = OSError(errno.EIO, "Input/output error", "FILE")
INTERRUPT = KeyboardInterrupt()


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize(
    ("save", "error", "is_after", "goes_on"),
    [
        pytest.param(save_new, FULL, False, False, id="new-full"),
        pytest.param(save_over, FULL, False, False, id="over-full"),
        pytest.param(save_over, BROKEN, True, False, id="over-broken-after"),
        pytest.param(save_new, BROKEN, False, True, id="new-broken-from-there"),
        pytest.param(save_over, BROKEN, False, True, id="over-broken-from-there"),
        pytest.param(save_new, INTERRUPT, True, False, id="new-interrupt-after"),
        pytest.param(save_over, INTERRUPT, False, False, id="over-interrupt"),
    ],
)
def test_a_failure_of_any_operation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    start: Path,
    save: Callable[[Path], None],
    error: BaseException,
    is_after: bool,
    goes_on: bool,
) -> None:
    count = len(operations(start, tmp_path / "a", save))
    name = "c7" if save is save_new else "c2"
    outcomes = []
    for n in range(1, count + 1):
        directory = tmp_path / str(n)
        shutil.copytree(start, directory)
        before = content(directory)
        fault = Fault(n, error, is_after, goes_on)
        caplog.clear()
        caught: BaseException | None = None
        with monkeypatch.context() as patch:
            on_storage(patch, fault)
            try:
                save(directory)
            except (CheckpointError, KeyboardInterrupt) as raised:
                caught = raised
        assert fault.count >= n
        warned = texts(caplog)
        if isinstance(caught, CheckpointError):
            assert caught.__cause__ is error
            remedy = {errno.ENOSPC: "free space there, or use another directory"}
            assert str(caught) == (
                f"cannot save checkpoint {name!r} in {directory}: {error}; "
                + remedy.get(getattr(error, "errno", 0), "check the directory and its device")
            )
            assert warned == []
            if not goes_on:
                # Nothing has changed, and nothing waits for a clean-up.
                assert content(directory) == before
                assert not [x for x in entries(directory) if x.startswith(".")]
        elif caught is None and warned:
            expected = f"a checkpoint is saved, but not what follows: {error}"
            assert warned == [expected]
        is_new = check_content(directory, save)
        outcomes.append((is_new, caught is None, bool(warned)))
        if isinstance(caught, CheckpointError):
            # What can no longer be undone is one checkpoint or the other.
            assert not is_new or goes_on
        if caught is None:
            assert is_new
        shutil.rmtree(directory)
    failed, interrupted = (False, False, False), (True, False, False)
    warned_of, unnoticed = (True, True, True), (True, True, False)
    if isinstance(error, KeyboardInterrupt):
        assert set(outcomes) == {failed, interrupted}
    elif goes_on:
        # The directory is not synced, and the new one cannot be taken away again.
        assert set(outcomes) == {failed, interrupted, warned_of}
        assert outcomes.count(interrupted) == 1
    else:
        assert set(outcomes) == {failed, warned_of, unnoticed}
        # The lock of the constructor, and the id of the process in the lock of the save.
        assert outcomes.count(unnoticed) == 3


def test_a_failure_after_which_the_old_one_cannot_be_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(state_of(1), step=1, name="a")
    renames: list[tuple[str, str]] = []
    rename = storage.rename

    def refuse(source: Path, target: Path) -> None:
        renames.append((source.name, target.name))
        if target.name == "a":
            raise OSError(errno.EIO, "Input/output error", str(source))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "rename", refuse)
        with pytest.raises(CheckpointError, match=r"cannot save checkpoint 'a' .*\.saving-a'; che"):
            manager.save(state_of(2), step=2, name="a")
    assert renames == [("a", ".replaced-a"), (".saving-a", "a"), (".replaced-a", "a")]
    assert entries(tmp_path) == {".replaced-a", "latest.json"}
    assert not differences(CheckpointManager(tmp_path).load("a")[0], state_of(1))


def test_a_failure_of_a_pin_or_a_removal_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=None)
    for i in range(2):
        manager.save(state_of(i), step=i, name=f"c{i}")
    manager = CheckpointManager(tmp_path, keep_last=1)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "rename", fail)
        for call, what in (
            (lambda: manager.pin("c0"), "pin checkpoint 'c0'"),
            (lambda: manager.unpin("c0"), "unpin checkpoint 'c0'"),
            (lambda: manager.prune(), "remove checkpoints"),
        ):
            with pytest.raises(
                CheckpointError, match=rf"^cannot {what} in {tmp_path}: \[Errno 5\]"
            ):
                call()
    assert names(manager) == ["c1", "c0"]
    assert manager.prune() == [tmp_path / "c0"]
