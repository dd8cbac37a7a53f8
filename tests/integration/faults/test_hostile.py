"""Files of somebody who wishes harm are refused: no code runs, nothing hangs, memory is bounded."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hotloop.checkpoint import CheckpointManager, read_checkpoint, verify_checkpoint
from hotloop.errors import CheckpointError
from tests.integration.faults import processes, program
from tests.integration.faults.hostile import (
    ATTACKS,
    FILES,
    FOREIGN,
    KINDS,
    TERABYTE,
    UNSEEN,
    archived,
    marker_of,
    pickled,
    tell_nonsense,
)
from tests.integration.faults.scenarios import warnings_of

#: Of a run that was stopped; the second one is made hostile.
GOOD, HOSTILE = "step_00000005", "step_00000008"
POINTERS = ("latest.json", "best.json", "pinned.json")
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "run"
    assert processes.start(program.run, directory, stop_at=8, every="1 epoch").status() == 143
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == [GOOD, HOSTILE]
    return directory


@dataclass
class Report:
    """What happened to a process that met hostile files.

    Attributes:
        results: For each way to load, the error and its text, or what was loaded.
        warned: The warnings.
        seconds: How long it took.
        memory: The bytes of memory that it took more than before, at most.
    """

    results: dict[str, tuple[str, str]]
    warned: list[str]
    seconds: float
    memory: int


def meet(run: Path) -> Report:
    """Load hostile files in all ways there are."""
    # What is needed for any file is there before.
    read_checkpoint(run / GOOD)
    program.make_trainer(None)
    results = {}
    before, begin = peak_memory(), time.monotonic()
    with warnings_of("hotloop") as warned:
        for name, way in ways_to_load(run).items():
            try:
                found = way()
            except CheckpointError as error:
                results[name] = (type(error).__name__, str(error))
            else:
                results[name] = ("", str(found[1].name if isinstance(found, tuple) else found))
    return Report(results, warned, time.monotonic() - begin, peak_memory() - before)


def ways_to_load(run: Path) -> dict[str, Callable[[], Any]]:
    path, make = run / HOSTILE, program.make_trainer
    ways: dict[str, Callable[[], Any]] = {
        "read": lambda: read_checkpoint(path),
        "load": lambda: CheckpointManager(run).load(path.name),
        "load a path": lambda: CheckpointManager(run).load(path),
        "load_latest_good": lambda: CheckpointManager(run).load_latest_good(),
        "resume": lambda: make(run, resume=str(path)),
        "resume by a name": lambda: make(run, resume=path.name),
        "resume without a manager": lambda: make(None, resume=str(path)),
        "auto": lambda: make(run, resume="auto")._run.step,
    }
    if not (run / "is_large").exists():
        # This one reads all there is, which takes its time.
        ways["verify"] = lambda: verify_checkpoint(path)
    return ways


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", ATTACKS)
def test_hostile_files_are_refused(kind: str, made: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    names, runs = [], []
    for index, (name, attack) in enumerate(ATTACKS[kind].items()):
        run = Path(shutil.copytree(made, tmp_path / str(index)))
        (outside / str(index)).mkdir()
        try:
            attack(run / HOSTILE, outside / str(index))
        except OSError as error:
            # Such as a file of a terabyte, or a device.
            print(f"{name} cannot be made here: {error}")
            continue
        if name == "terabyte of one tensor":
            (run / "is_large").touch()
        names.append(name)
        runs.append(run)
    assert len(runs) >= 8
    try:
        reports = processes.each_within(10, meet, runs)
    finally:
        # A file of a terabyte is a trap for others.
        for run in runs:
            shutil.rmtree(run)
    bad = []
    for name, run, report in zip(names, runs, reports):
        found = ["it hangs"] if report is None else check_report(name, run / HOSTILE, report)
        bad += [f"{name}: {text}" for text in found]
    bad += [f"{path} ran" for path in outside.glob(f"*/{marker_of(outside).name}")]
    assert not bad, "\n".join(bad)


def check_report(name: str, path: Path, report: Report) -> list[str]:
    """Return what is wrong with what was done about hostile files."""
    bad = []
    results = report.results
    fallbacks = [results.pop(way) for way in ("load_latest_good", "auto")]
    for way, (kind, text) in results.items():
        is_fine = kind == "CorruptCheckpointError" or (
            kind == "CheckpointError" and name in (*UNSEEN, *FOREIGN)
        )
        if name in KINDS and name.endswith(FILES):
            # A device is not even opened.
            is_fine &= "not a regular file" in text
        if not is_fine or str(path) not in text or len(text) > 2000:
            bad.append(f"{way} gives {kind} {text:.1000}")
    for kind, text in fallbacks:
        if name in FOREIGN:
            is_fine = kind == "CheckpointError" and str(path) in text
        else:
            is_fine = (kind, text) in (("", GOOD), ("", "5"))
        if not is_fine:
            bad.append(f"the last good one is {kind} {text:.1000}")
    if name not in (*UNSEEN, *FOREIGN) and not any(str(path) in text for text in report.warned):
        bad.append(f"there is no warning but {report.warned}")
    if report.seconds > 5 or report.memory > 100 * MEGABYTE:
        bad.append(f"it takes {report.seconds:.1f} s and {report.memory >> 20} MiB")
    return bad


@pytest.mark.parametrize("make", [pickled, archived])
def test_the_pickles_would_work(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    data = make(tmp_path)
    if make is pickled:
        pickle.loads(data)
    else:
        torch.load(io.BytesIO(data), weights_only=False)
    assert marker_of(tmp_path).is_dir()


# Files that are none of a checkpoint's


def use(run: Path) -> Report:
    """Load, save and clean in a directory."""
    # What reads without end is to fail, and not the machine.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2048 * MEGABYTE, resource.RLIM_INFINITY))
    ways: dict[str, Callable[[CheckpointManager], Any]] = {
        "load": lambda manager: manager.load_latest_good(),
        "save": lambda manager: manager.save({}, step=9, name="c9"),
        "prune": lambda manager: manager.prune(),
        "pin": lambda manager: manager.pin("c9"),
    }
    read_checkpoint(run / GOOD)
    results = {}
    before, begin = peak_memory(), time.monotonic()
    with warnings_of("hotloop") as warned:
        for name, way in ways.items():
            try:
                found = way(CheckpointManager(run, keep_last=1, lock_timeout=0.1))
            except Exception as error:
                results[name] = (type(error).__name__, str(error))
            else:
                results[name] = ("", str(found[1].name if isinstance(found, tuple) else found))
    return Report(results, warned, time.monotonic() - begin, peak_memory() - before)


def pipe_at(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link_at(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    (outside / "precious").write_bytes(b"precious")
    path.symlink_to(outside / "precious")


def link_to_zeros_at(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def terabyte_at(path: Path, outside: Path) -> None:
    path.touch()
    os.truncate(path, TERABYTE)


def directory_at(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def pickle_at(path: Path, outside: Path) -> None:
    path.write_bytes(pickled(outside))


def nested_at(path: Path, outside: Path) -> None:
    path.write_bytes(b"[" * 5_000_000)


WAYS_TO_PUT = (
    pickle_at,
    pipe_at,
    link_at,
    link_to_zeros_at,
    terabyte_at,
    directory_at,
    nested_at,
)


@pytest.mark.parametrize("file", [*POINTERS, ".lock", "evil.pkl"])
def test_hostile_files_beside_checkpoints(file: str, made: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    runs = []
    for put in WAYS_TO_PUT:
        run = Path(shutil.copytree(made, tmp_path / put.__name__))
        (outside / put.__name__).mkdir(parents=True)
        put(run / file, outside / put.__name__)
        runs.append(run)
    try:
        reports = processes.each_within(5, use, runs)
        left = [set(os.listdir(run)) for run in runs]
    finally:
        for run in runs:
            shutil.rmtree(run)
    bad = []
    for run, report, names in zip(runs, reports, left):
        found = ["it hangs"] if report is None else check_use(file, run, report, names)
        bad += [f"{run.name}: {text}" for text in found]
    assert not bad, "\n".join(bad)
    assert (outside / "link_at" / "precious").read_bytes() == b"precious"
    assert list(outside.glob("*/marker")) == []


def check_use(file: str, run: Path, report: Report, left: set[str]) -> list[str]:
    """Return what is wrong with the use of a directory with a hostile file."""
    bad = []
    if report.results["load"] != ("", HOSTILE):
        bad.append(f"the newest is {report.results['load']}")
    texts = [*report.warned, *(text for kind, text in report.results.values() if kind)]
    bad += [f"this names nothing: {text}" for text in texts if str(run) not in text]
    kinds = {kind for kind, _ in report.results.values()}
    if not kinds <= {"", "CheckpointError", "CorruptCheckpointError"}:
        bad.append(f"there are errors of {kinds}")
    if file == "pinned.json" and (not any(file in text for text in texts) or HOSTILE not in left):
        bad.append(f"it is not told: {texts}")
    if file == "evil.pkl" and (texts or file not in left):
        bad.append(f"it is not left alone: {texts}")
    if report.seconds > 3 or report.memory > 100 * MEGABYTE:
        bad.append(f"it takes {report.seconds:.1f} s and {report.memory >> 20} MiB")
    return bad


def test_leftovers_that_are_links_are_not_followed(made: Path, tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(made, run)
    precious.mkdir()
    (precious / "file").write_bytes(b"precious")
    (run / ".saving-x").symlink_to(precious)
    (run / ".replaced-y").symlink_to(precious)
    (run / ".removing-z").mkdir()
    (run / ".removing-z" / "inner").symlink_to(precious)
    for name in (".replaced-", ".replaced-..", ".saving-", ".removing-.."):
        (run / name).mkdir()
    CheckpointManager(run).save({}, step=9, name="c9")
    assert (precious / "file").read_bytes() == b"precious"
    assert run.is_dir()
    found = CheckpointManager(run).load_latest_good()
    assert found is not None
    assert found[1].name == "c9"
    assert read_checkpoint(run / HOSTILE)[1].step == 8


# Nonsense


def check_nonsense(seeds: range, file: str, is_with_trainer: bool, made: Path, folder: Path) -> int:
    """Change what a signed file says at random, and return how often that was refused."""
    refused = processes.call(meet_nonsense, seeds, file, is_with_trainer, made, folder / "run")
    bad = [text for text in refused if not text.startswith(("CheckpointError", "CorruptCh"))]
    assert not bad, "\n".join(bad)
    return len(refused)


def meet_nonsense(
    seeds: range, file: str, is_with_trainer: bool, made: Path, run: Path
) -> list[str]:
    """Return the errors, with their types."""
    shutil.copytree(made, run)
    texts = []
    for seed in seeds:
        shutil.rmtree(run / HOSTILE)
        shutil.copytree(made / HOSTILE, run / HOSTILE)
        change = tell_nonsense(run / HOSTILE, file, random.Random(seed))
        try:
            if is_with_trainer:
                program.make_trainer(None, resume=str(run / HOSTILE))
            else:
                read_checkpoint(run / HOSTILE)
        except Exception as error:
            texts.append(f"{type(error).__name__}: {error!s:.300} (seed {seed}: {change:.300})")
    return texts


@pytest.mark.parametrize("file", FILES)
def test_signed_nonsense_is_refused(file: str, made: Path, tmp_path: Path) -> None:
    assert check_nonsense(range(100), file, False, made, tmp_path) > 30


@pytest.mark.faults
@pytest.mark.parametrize("file", FILES)
def test_much_signed_nonsense_is_refused(file: str, made: Path, tmp_path: Path) -> None:
    assert check_nonsense(range(3000), file, False, made, tmp_path) > 900


def test_trainers_refuse_states_of_nonsense(made: Path, tmp_path: Path) -> None:
    assert check_nonsense(range(40), FILES[1], True, made, tmp_path) > 10


@pytest.mark.faults
def test_trainers_refuse_states_of_much_nonsense(made: Path, tmp_path: Path) -> None:
    assert check_nonsense(range(1500), FILES[1], True, made, tmp_path) > 400
