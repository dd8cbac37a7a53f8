"""What stays in a directory is what a plain formula says, whatever was done to it before."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotloop.checkpoint.checkpoint_manager import CheckpointManager
from hotloop.checkpoint.manifest import Info
from hotloop.checkpoint.retention import Retention

NAMES = [f"c{i}" for i in range(6)]
# Few values, so that many are equal.
VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.5, -1.0, math.nan, math.inf, -math.inf, None])
RULES = st.fixed_dictionaries(
    {
        "keep_last": st.none() | st.integers(1, 4),
        "keep_best": st.integers(0, 3),
        "metric": st.sampled_from([None, "loss"]),
        "mode": st.sampled_from(["min", "max"]),
        "keep_every": st.none() | st.integers(1, 5),
    }
)


@dataclass
class Model:
    """A directory as it should be.

    Attributes:
        rules: The arguments of the manager.
        found: The checkpoints in the order of their saves.
        pins: Names that were pinned.
        unpins: Checkpoints that were unpinned.
    """

    rules: dict[str, Any]
    found: list[Info] = field(default_factory=list)
    pins: set[str] = field(default_factory=set)
    unpins: set[tuple[str, str]] = field(default_factory=set)
    sequence: int = 0

    def ranks(self) -> list[Info]:
        """Return those that can be the best, by comparing each with each."""
        if self.rules["metric"] is None:
            return [info for info in reversed(self.found) if info.is_best]
        able = [info for info in self.found if math.isfinite(info.metrics.get("loss", math.nan))]
        return sorted(able, key=lambda info: sum(self.beats(other, info) for other in able))

    def beats(self, one: Info, other: Info) -> bool:
        a, b = one.metrics["loss"], other.metrics["loss"]
        if a == b:
            return one.sequence > other.sequence
        return a < b if self.rules["mode"] == "min" else a > b

    def stays(self, info: Info) -> bool:
        last, every = self.rules["keep_last"], self.rules["keep_every"]
        place = self.found[::-1].index(info)
        rank = self.ranks().index(info) if info in self.ranks() else math.inf
        is_pinned = info.is_pinned and (info.name, info.created) not in self.unpins
        return (
            last is None
            or place < last
            or rank < max(1, self.rules["keep_best"])
            or (every is not None and info.step % every == 0)
            or is_pinned
            or info.name in self.pins
        )

    def prune(self) -> list[str]:
        gone = [info.name for info in self.found[::-1] if not self.stays(info)]
        self.found = [info for info in self.found if info.name not in gone]
        return gone


def info_of(draw: st.DrawFn, number: int, name: str) -> Info:
    value = draw(VALUES)
    return Info(
        name=name,
        step=draw(st.integers(0, 12)),
        sequence=number,
        metrics={} if value is None else {"loss": value},
        is_best=draw(st.booleans()),
        is_pinned=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def manifests(draw: st.DrawFn) -> list[Info]:
    """Return what is known of some checkpoints, in the order of their saves."""
    return [info_of(draw, i, f"c{i}") for i in range(draw(st.integers(0, 9)))]


@given(rules=RULES, found=manifests(), pins=st.sets(st.sampled_from(NAMES)))
def test_the_formula(rules: dict[str, Any], found: list[Info], pins: set[str]) -> None:
    model = Model(rules, found, pins)
    retention = Retention(**rules)
    newest_first = found[::-1]
    assert retention.best_first(newest_first) == model.ranks()
    pinned = pins | {info.name for info in found if info.is_pinned}
    assert retention.kept(newest_first, pinned) == {i.name for i in found if model.stays(i)}


@given(rules=RULES, data=st.data())
def test_any_sequence_of_saves_and_changes(rules: dict[str, Any], data: st.DataObject) -> None:
    model = Model(rules)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(os, "fsync", lambda fd: None)
        directory = Path(folder)
        manager = CheckpointManager(directory, **rules)
        for _ in range(data.draw(st.integers(1, 14))):
            # A save each second time.
            action = data.draw(
                st.sampled_from(["save", *[act.__name__ for act in ACTIONS]]) | st.just("save")
            )
            if action == "save":
                save(data, model, manager)
            elif action == "restart":
                manager = CheckpointManager(directory, **rules)
            elif model.found:
                next(act for act in ACTIONS if act.__name__ == action)(data, model, manager)
            check(model, manager)


def save(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    info: Info = data.draw(
        st.composite(lambda draw: info_of(draw, model.sequence, draw(st.sampled_from(NAMES))))()
    )
    model.sequence = 1 + max((i.sequence for i in model.found), default=0)
    call = data.draw(st.sampled_from([manager.save, manager.save_async]))
    call(
        0,
        step=info.step,
        name=info.name,
        metrics=info.metrics,
        is_best=info.is_best,
        is_pinned=info.is_pinned,
    )
    manager.wait()
    values = {**vars(info), "sequence": model.sequence}
    model.found = [old for old in model.found if old.name != info.name] + [Info(**values)]
    model.prune()


def pick(data: st.DataObject, model: Model) -> Info:
    return data.draw(st.sampled_from(model.found))


def pin(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    info = pick(data, model)
    manager.pin(info.name)
    model.pins.add(info.name)
    model.unpins = {entry for entry in model.unpins if entry[0] != info.name}


def unpin(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    info = pick(data, model)
    manager.unpin(info.name)
    model.pins.discard(info.name)
    model.unpins.add((info.name, info.created))


def remove(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    info = pick(data, model)
    shutil.rmtree(manager.directory / info.name)
    model.found.remove(info)


def rename(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    free = sorted({*NAMES, "mine"} - {info.name for info in model.found})
    if free:
        info = pick(data, model)
        name = data.draw(st.sampled_from(free))
        (manager.directory / info.name).rename(manager.directory / name)
        values = {**vars(info), "name": name}
        model.found = [Info(**values) if old is info else old for old in model.found]


def prune(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    expected = manager.prune(dry_run=True)
    assert manager.prune() == expected
    assert [path.name for path in expected] == model.prune()


def restart(data: st.DataObject, model: Model, manager: CheckpointManager) -> None:
    pass


ACTIONS = [pin, unpin, remove, rename, prune, restart]


def check(model: Model, manager: CheckpointManager) -> None:
    newest_first = model.found[::-1]
    directory = manager.directory
    assert [(m.name, m.sequence) for m in manager.checkpoints()] == [
        (info.name, info.sequence) for info in newest_first
    ]
    assert manager.latest == (directory / newest_first[0].name if newest_first else None)
    ranks = model.ranks()
    assert manager.best == (directory / ranks[0].name if ranks else None)
    assert {path.name for path in directory.iterdir() if path.is_dir()} == {
        info.name for info in model.found
    }
