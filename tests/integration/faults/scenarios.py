"""Saves to be interrupted, and what may be there afterwards."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hotloop.checkpoint import CheckpointManager, tensor_file
from hotloop.testing import differences

TEMPORARY = (".saving-", ".removing-", ".replaced-")
#: Files that are nobody's business, some of which look as if they were.
FOREIGN = {
    "notes.txt": b"mine",
    ".hidden": b"\x00\xff",
    ".saved-c1/manifest.txt": b"{}",
    "mine/data.bin": bytes(range(256)),
    "mine/deep/latest.json": b"{}",
}
LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 0.5, 5: 0.25}


def state_of(number: int) -> dict[str, Any]:
    """Return a state of a few tensors, of which no two numbers have the same one."""
    generator = torch.Generator().manual_seed(number)
    weight = torch.randn(5, 40, generator=generator)
    return {
        "model": {"weight": weight, "tied": weight, "half": weight.bfloat16(), "empty": weight[:0]},
        "optimizer": [{"step": number, "moments": (weight.T, weight[1] * 2)}],
        "number": number,
        "rate": 0.1 / number,
    }


def make_manager(directory: Path) -> CheckpointManager:
    return CheckpointManager(directory, keep_last=2, metric="loss", lock_timeout=5)


def save(manager: CheckpointManager, name: str, number: int, *, is_async: bool = False) -> None:
    call = manager.save_async if is_async else manager.save
    call(state_of(number), step=number, name=name, metrics={"loss": LOSSES.get(number, 9.0)})


@dataclass(frozen=True)
class Scenario:
    """A directory, and a change of it.

    Attributes:
        work: Makes the change.
        saves: Names and numbers of what it saves, in this order.
        removes: What may be gone once the first of these is there, and so on; or, if nothing
            is saved, at any time.
        start: Names and numbers of what is there before, in this order; the numbers are those
            of the states, and the last is the newest. If it is empty, the directory is missing.
        is_async: Whether a thread writes.
    """

    work: Callable[[CheckpointManager], object]
    saves: tuple[tuple[str, int], ...] = ()
    removes: tuple[str, ...] = ("",)
    start: tuple[tuple[str, int], ...] = (("c1", 1), ("c2", 2), ("c3", 3))
    is_async: bool = False

    def prepare(self, directory: Path) -> None:
        """Make the directory, with the files of somebody else."""
        directory.mkdir()
        for name, data in FOREIGN.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (directory / "link").symlink_to("notes.txt")
        if not self.start:
            return
        manager = CheckpointManager(directory, keep_last=None, metric="loss")
        for name, number in self.start:
            save(manager, name, number)

    def place(self, directory: Path) -> Path:
        """Return where the checkpoints are."""
        return directory if self.start else directory / "runs" / "a"

    def run(self, directory: Path, elsewhere: Path) -> None:
        """Make the change, with another directory for temporary files."""
        begin(elsewhere)
        self.work(make_manager(self.place(directory)))

    def check(self, directory: Path) -> list[str]:
        """Return what is wrong with the directory, after the change was broken off or not."""
        try:
            return self._check(directory)
        except Exception:
            return [traceback.format_exc()]

    def _check(self, directory: Path) -> list[str]:
        with warnings_of("hotloop") as warned:
            manager = make_manager(self.place(directory))
            there = os.listdir(manager.directory)
            bad = [f"{name} stays" for name in there if name.startswith(TEMPORARY)]
            bad += self._check_checkpoints(manager)
            bad += check_pointers(manager)
            save(manager, "next", 99)
            found = manager.load_latest_good()
        if found is None or differences(found[0], state_of(99)):
            bad.append("the next save is not the newest one")
        return [*bad, *check_foreign(directory), *warned]

    def _check_checkpoints(self, manager: CheckpointManager) -> list[str]:
        newest = manager.load_latest_good()
        if newest is None:
            return ["nothing is left"] if self.start else []
        outcomes = [dict(self.start[-1:])]
        outcomes += [dict([each]) for each in self.saves]
        manifest = newest[1]
        if {manifest.name: manifest.step} not in outcomes:
            return [f"the newest is {manifest.name} of step {manifest.step}"]
        there = dict(self.start)
        saved = self.saves[: outcomes.index({manifest.name: manifest.step})]
        there.update(saved)
        found = {each.name: each.step for each in manager.checkpoints()}
        bad = []
        if unknown := found.items() - there.items():
            bad.append(f"unknown: {unknown}")
        missing = there.keys() - found.keys()
        if saved or not self.saves:
            missing -= set(self.removes[len(saved) - 1].split())
        if missing:
            bad.append(f"missing: {missing}, with {saved} saved")
        for name, number in found.items():
            different = differences(manager.load(name)[0], state_of(number))
            bad += [f"{name}: {text}" for text in different]
        return bad


def begin(elsewhere: Path) -> None:
    """Set what a process is to do without: a place for temporary files, and large blocks."""
    os.environ["TMPDIR"] = str(elsewhere)
    tempfile.tempdir = None
    # A few tensors are then many blocks.
    patch = pytest.MonkeyPatch()
    patch.setattr(tensor_file, "_WRITE_BLOCK", 512)
    patch.setattr(tensor_file, "_SYNC", 1024)


def skip_fsync() -> None:
    """Save time in a process: what is synced matters only where the machine fails."""
    pytest.MonkeyPatch().setattr(os, "fsync", lambda fd: None)


def check_pointers(manager: CheckpointManager) -> list[str]:
    """Return which files for people do not tell what is there."""
    names = {each.name for each in manager.checkpoints()}
    bad = []
    for file in ("latest.json", "best.json"):
        path = manager.directory / file
        if path.exists() and json.loads(path.read_bytes())["checkpoint"] not in names:
            bad.append(f"{file} names what is not there")
    pins = manager.directory / "pinned.json"
    if pins.exists() and not set(json.loads(pins.read_bytes())["pinned"]) <= names:
        bad.append("pinned.json names what is not there")
    return bad


def check_foreign(directory: Path) -> list[str]:
    """Return which of the files of somebody else are not as they were."""
    paths = {name: directory / name for name in FOREIGN}
    bad = [name for name, path in paths.items() if not path.is_file()]
    bad += [name for name, path in paths.items() if path.read_bytes() != FOREIGN[name]]
    if os.readlink(directory / "link") != "notes.txt":
        bad.append("link")
    return [f"{name} has changed" for name in bad]


class warnings_of(logging.Handler):  # noqa: N801
    """Collects the texts of a logger's warnings in a `with` block, with those of their errors."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger(name)
        self._texts: list[str] = []

    def __enter__(self) -> list[str]:
        self._logger.addHandler(self)
        return self._texts

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._texts.append(record.getMessage() + ("" if error is None else f": {error}"))


def copies(start: Path, directory: Path) -> Path:
    """Return a copy of a directory, in place of the last one."""
    if directory.exists():
        shutil.rmtree(directory)
    return Path(shutil.copytree(start, directory, symlinks=True))


def content(directory: Path) -> Mapping[str, bytes | None]:
    """Return the bytes of all files and links by their paths; None for directories."""
    result: dict[str, bytes | None] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            result[name] = os.readlink(path).encode()
        elif path.name != ".lock":
            result[name] = path.read_bytes() if path.is_file() else None
    return result


def _pin(manager: CheckpointManager) -> None:
    manager.pin("c1")
    manager.unpin("c1")
    manager.pin("c2")


def _save_twice(manager: CheckpointManager) -> None:
    save(manager, "c4", 4)
    save(manager, "c5", 5)


def _save_twice_in_background(manager: CheckpointManager) -> None:
    save(manager, "c4", 4, is_async=True)
    save(manager, "c5", 5, is_async=True)
    manager.wait()


def _save_in_background(name: str) -> Callable[[CheckpointManager], None]:
    def work(manager: CheckpointManager) -> None:
        save(manager, name, 4, is_async=True)
        manager.wait()

    return work


_OF_NEW, _OF_SECOND = "c1 c2", "c1 c2 c3"

#: By name. The fourth is the best: both pointers move, and old ones go.
SCENARIOS = {
    "first": Scenario(lambda manager: save(manager, "c4", 4), (("c4", 4),), start=()),
    "new": Scenario(lambda manager: save(manager, "c4", 4), (("c4", 4),), (_OF_NEW,)),
    "over": Scenario(lambda manager: save(manager, "c3", 4), (("c3", 4),), ("c1",)),
    "over_an_old_one": Scenario(lambda manager: save(manager, "c1", 4), (("c1", 4),), ("c2",)),
    "twice": Scenario(_save_twice, (("c4", 4), ("c5", 5)), (_OF_NEW, _OF_SECOND)),
    "pin": Scenario(_pin),
    "prune": Scenario(lambda manager: manager.prune(), removes=("c1",)),
    "background": Scenario(_save_in_background("c4"), (("c4", 4),), (_OF_NEW,), is_async=True),
    "background_over": Scenario(_save_in_background("c3"), (("c3", 4),), ("c1",), is_async=True),
    "background_twice": Scenario(
        _save_twice_in_background, (("c4", 4), ("c5", 5)), (_OF_NEW, _OF_SECOND), is_async=True
    ),
}
