"""A disk that is full or broken costs the checkpoint at hand, and nothing else."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotloop.callbacks import Callback, TrainState
from hotloop.checkpoint import CheckpointManager
from hotloop.errors import CheckpointError, CorruptCheckpointError
from hotloop.testing import differences
from tests.integration.faults import processes, program
from tests.integration.faults.operations import Fault, intercepted, recorded
from tests.integration.faults.scenarios import (
    SCENARIOS,
    TEMPORARY,
    Scenario,
    content,
    copies,
    make_manager,
    save,
    skip_fsync,
    state_of,
    warnings_of,
)
from tests.integration.faults.tracing import calls_of, strace, traced

__all__ = ["strace"]

FULL, BROKEN = errno.ENOSPC, errno.EIO
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 1 << 18


@pytest.mark.parametrize(
    ("name", "number"), [("over", FULL), ("background", BROKEN), ("pin", FULL)]
)
def test_every_operation_may_fail(name: str, number: int, tmp_path: Path) -> None:
    check_failures(name, number, tmp_path, goes_on=number == FULL)


@pytest.mark.faults
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("number", [FULL, BROKEN])
@pytest.mark.parametrize("goes_on", [False, True])
def test_every_operation_may_fail_in_all_scenarios(
    name: str, number: int, goes_on: bool, tmp_path: Path
) -> None:
    check_failures(name, number, tmp_path, goes_on=goes_on)


def check_failures(name: str, number: int, folder: Path, goes_on: bool) -> None:
    kinds, bad = processes.call(fail_everywhere, name, number, goes_on, folder)
    print(f"{sum(kinds.values())} tries: {kinds}")
    assert not bad, "\n".join(bad)
    # Some fail the save, and others what follows it.
    assert kinds["error"] >= 4
    assert not SCENARIOS[name].saves or min(kinds["error"], kinds["warning"]) >= 10


def fail_everywhere(
    name: str, number: int, goes_on: bool, folder: Path
) -> tuple[dict[str, int], list[str]]:
    """Let each operation fail, and return how often that was told how, and what is wrong."""
    skip_fsync()
    scenario = SCENARIOS[name]
    start, directory = folder / "start", folder / "a"
    scenario.prepare(start)
    copies(start, directory)
    operations = recorded(lambda: scenario.run(directory, folder))
    kinds = {"error": 0, "warning": 0, "silence": 0}
    bad = []
    for n, operation in enumerate(operations, 1):
        if operation.name == "begin_sync":
            continue
        copies(start, directory)
        fault = Fault(n, number, goes_on)
        with warnings_of("hotloop") as warned, intercepted(fault):
            error = failure_of(lambda: scenario.run(directory, folder))
        kind = "error" if error else "warning" if warned else "silence"
        kinds[kind] += 1
        found = check_failure(scenario, start, directory, number, error, warned)
        if kind == "silence" and any(each.path.name != ".lock" for each in fault.failed):
            found.append("nothing is told")
        bad += [f"{n}, {operation.name} of {operation.path}: {text}" for text in found]
    return kinds, bad


def failure_of(work: Callable[[], object]) -> str:
    try:
        work()
    except CheckpointError as error:
        return str(error)
    return ""


def check_failure(
    scenario: Scenario, start: Path, directory: Path, number: int, error: str, warned: list[str]
) -> list[str]:
    """Return what is wrong after an operation has failed."""
    place = scenario.place(directory)
    found = []
    for text in (error, *warned):
        if text and (os.strerror(number) not in text or str(place) not in text):
            found.append(f"this does not name the directory and the cause: {text}")
    if error and len(scenario.saves) == 1 and is_changed(start, directory):
        found.append(f"it has changed something: {error}")
    # What could not be removed stays, and goes with the next save.
    if error and any(name.startswith((".saving-", ".replaced-")) for name in names_in(place)):
        found.append(f"{names_in(place)} are left: {error}")
    return [*found, *scenario.check(directory)]


def is_changed(start: Path, directory: Path) -> bool:
    before, after = content(start), content(directory)
    # Directories that were missing stay.
    return {**after, "runs": None, "runs/a": None} != {**before, "runs": None, "runs/a": None}


def names_in(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.exists() else []


# Disks that are really full


class Unavailable(Exception):  # noqa: N818
    """Nothing can be mounted here."""


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """Mount a disk of a few bytes; others do not see it, and it goes with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(path), b"tmpfs", 0, b"size=%d" % size):
        raise Unavailable(os.strerror(ctypes.get_errno()))
    try:
        yield
    finally:
        libc.umount2(bytes(path), 0)


def fill_disks(folder: Path) -> tuple[int, list[str]] | str:
    """Save on disks of many sizes until they are full; or return why there are none."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNS | (0 if os.geteuid() == 0 else CLONE_NEWUSER)
    if libc.unshare(flags) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return os.strerror(ctypes.get_errno())
    path = folder / "disk"
    path.mkdir()
    tries, bad = 0, []
    try:
        for size in range(4, 160, 4):
            with small_disk(path, size * 1024):
                bad += [f"{size} KiB: {text}" for text in fill_disk(path / "a")]
            tries += 1
    except Unavailable as error:
        return str(error)
    return tries, bad


def fill_disk(directory: Path) -> list[str]:
    """Save until the disk is full, and then again when there is space."""
    ballast = directory.parent / "ballast"
    saved = 0
    error = failure_of(lambda: ballast.write_bytes(bytes(4096)) and make_manager(directory))
    if not error:
        manager = CheckpointManager(directory, keep_last=None)
        for number in range(1, 20):
            before = content(directory)
            with warnings_of("hotloop") as warned:
                error = failure_of(lambda: save(manager, f"c{number}", number))  # noqa: B023
            if error or warned:
                break
            saved = number
        error = error or warned[0]
        if error and not warned and content(directory) != before:
            return ["it has changed something"]
    if os.strerror(FULL) not in error or str(directory) not in error:
        return [f"this does not name the directory and the cause: {error}"]
    ballast.unlink()
    return check_saved(directory, saved)


def check_saved(directory: Path, saved: int) -> list[str]:
    manager = CheckpointManager(directory, keep_last=None)
    numbers = [each.step for each in manager.checkpoints()]
    bad = []
    if numbers not in ([*range(saved, 0, -1)], [*range(saved + 1, 0, -1)]):
        bad.append(f"{numbers} are there of {saved}")
    for number in numbers:
        bad += differences(manager.load(f"c{number}")[0], state_of(number))
    if any(name.startswith(TEMPORARY) for name in os.listdir(directory)):
        bad.append(f"{os.listdir(directory)} are there")
    return bad


def test_disks_of_a_few_bytes(tmp_path: Path) -> None:
    result = processes.call(fill_disks, tmp_path)
    if isinstance(result, str):
        pytest.skip(f"no disk can be mounted here: {result}")
    tries, bad = result
    assert not bad, "\n".join(bad)
    assert tries >= 30


def test_files_may_be_limited_in_their_size(tmp_path: Path) -> None:
    assert processes.call(limit_files, tmp_path / "a") == []


def limit_files(directory: Path) -> list[str]:
    """Let the kernel refuse bytes behind a limit, within each file of a checkpoint."""
    manager = make_manager(directory)
    save(manager, "c1", 1)
    before = content(directory)
    sizes = sorted(path.stat().st_size for path in (directory / "c1").iterdir())
    bad = []
    for limit in (0, 1, 20, sizes[0] - 1, sizes[0], sizes[1] - 1, sizes[1], sizes[2] - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        error = failure_of(lambda: save(manager, "c2", 2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        expected = f"cannot save checkpoint 'c2' in {directory}: [Errno 27] File too large: "
        if not error.startswith(expected):
            bad.append(f"{limit}: {error}")
        if content(directory) != before or len(os.listdir(directory)) != 4:
            bad.append(f"{limit}: {os.listdir(directory)}")
    save(manager, "c2", 2)
    return [*bad, *check_saved(directory, 2)]


# System calls


@pytest.mark.faults
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_every_system_call_may_fail(error: str, tmp_path: Path) -> None:
    tries, bad = processes.call(fail_calls, error, tmp_path)
    print(f"{tries} tries")
    assert not bad, "\n".join(bad)
    assert tries >= 100


def fail_calls(error: str, folder: Path) -> tuple[int, list[str]]:
    """Let the kernel refuse each call of a save."""
    number = getattr(errno, error)
    tries, bad = 0, []
    for name in ("new", "over"):
        scenario = SCENARIOS[name]
        start, directory, log = (folder / f"{name}-{each}" for each in ("start", "a", "log"))
        report = folder / "report"
        scenario.prepare(start)

        def work() -> None:
            with warnings_of("hotloop") as warned:
                error = failure_of(lambda: scenario.run(directory, folder))  # noqa: B023
            report.write_text("\n".join([error, *warned]))  # noqa: B023

        for _ in range(2):
            # The first one makes the imports.
            copies(start, directory)
            status = traced(work, log)
        for call in calls_of(log, directory):
            if call.name == "sync_file_range":
                continue
            copies(start, directory)
            inject = f"{call.name}:error={error}:when={call.index}"
            status = traced(work, log, inject)
            first, *warned = report.read_text().split("\n")
            found = check_failure(scenario, start, directory, number, first, warned)
            if status != 0:
                found.append(f"the status is {status}")
            if not first and not warned and ".lock" not in call.text:
                found.append("nothing is told")
            bad += [f"{name}, {inject} of {call.text}: {text}" for text in found]
            tries += 1
    return tries, bad


# Reading


class ReadFault:
    """Lets one of the reads of files fail."""

    def __init__(self, n: int) -> None:
        self.has_failed = False
        self._left = n

    @contextmanager
    def active(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("read", "readv", "pread", "preadv"):
                patch.setattr(os, name, self._replaced(getattr(os, name)))
            yield

    def _replaced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self.has_failed = True
                raise OSError(BROKEN, os.strerror(BROKEN))
            return function(*arguments)

        return read


def test_reads_that_fail_are_named_and_the_one_before_is_taken(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    SCENARIOS["new"].prepare(directory)
    expected = {"c3": state_of(3), "c2": state_of(2)}
    found = []
    for n in range(1, 100):
        fault = ReadFault(n)
        manager = make_manager(directory)
        with warnings_of("hotloop") as warned, fault.active():
            newest = manager.load_latest_good()
        assert newest is not None
        assert differences(newest[0], expected[newest[1].name]) == []
        found.append(newest[1].name)
        if not fault.has_failed:
            break
        # What failed may be the manifest of an old one, which is not needed.
        assert len(warned) == 1
        assert f"{directory}/c" in warned[0]
        assert warned[0].endswith("is damaged: [Errno 5] Input/output error")
        if newest[1].name == "c2":
            assert f"{directory}/c3/" in warned[0]
    assert found.count("c2") >= 6
    assert found[-1] == "c3"
    assert warned == []


@pytest.mark.parametrize("name", ["open_file", "open_directory"])
def test_files_that_cannot_be_opened_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "a"
    SCENARIOS["new"].prepare(directory)
    manager = make_manager(directory)

    def refuse(*_: object) -> int:
        raise OSError(BROKEN, os.strerror(BROKEN))

    monkeypatch.setattr(f"hotloop.checkpoint.storage.{name}", refuse)
    what = f"{directory}/c3" + ("/manifest.json" if name == "open_file" else "")
    expected = rf"^{what} is damaged: \[Errno 5\] Input/output error$"
    with pytest.raises(CorruptCheckpointError, match=expected):
        manager.load("c3")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*c1.*; .*c2.*; .*c3"):
        manager.load_latest_good()


# Runs

VARIANTS: dict[str, dict[str, Any]] = {
    "foreground": {"every": "1 epoch"},
    "background": {"every": "1 epoch", "is_async": True},
}


@pytest.fixture(scope="module")
def whole() -> dict[str, str]:
    """What a run ends with where nothing happens."""
    result = processes.call(program.run, None)
    assert isinstance(result, dict)
    return result


def faulty_run(
    directory: Path, n: int, number: int, goes_on: bool, **variant: Any
) -> tuple[dict[str, str] | str, list[str], bool]:
    """Return what a run ends with, the warnings, and whether it has met the fault."""
    fault = Fault(n, number, goes_on)
    with warnings_of("hotloop") as warned, intercepted(fault):
        try:
            result: dict[str, str] | str = program.run(directory, **variant)
        except CheckpointError as error:
            result = str(error)
    is_met = any(operation.path.name != ".lock" for operation in fault.failed)
    return result, warned, is_met


def check_runs(
    places: Iterable[int],
    numbers: tuple[int, ...],
    variant: dict[str, Any],
    on_error: str,
    whole: dict[str, str],
    folder: Path,
) -> None:
    errors = tries = 0
    for n in places:
        for number in numbers:
            tries += 1
            directory = folder / f"{n}-{number}"
            arguments = {**variant, "on_error": on_error}
            goes_on = number == FULL
            result, warned, is_met = processes.call(
                faulty_run, directory, n, number, goes_on, **arguments
            )
            texts = [result] if isinstance(result, str) else warned
            errors += isinstance(result, str) if on_error == "raise" else bool(warned)
            # Some of the lock does not matter.
            assert bool(texts) >= is_met
            assert all(str(directory) in text for text in texts), texts
            assert not texts or any(os.strerror(number) in text for text in texts), texts
            if on_error == "warn":
                assert result == whole
            # There is space again.
            assert processes.call(program.run, directory, resume="auto", **variant) == whole
    print(f"{tries} tries, {errors} of which were told")
    assert errors > tries / 2


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("on_error", "number"), [("warn", FULL), ("raise", BROKEN)])
def test_a_run_goes_on_or_stops(
    name: str, on_error: str, number: int, whole: dict[str, str], tmp_path: Path
) -> None:
    check_runs((9, 101), (number,), VARIANTS[name], on_error, whole, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_run_goes_on_or_stops_anywhere(
    name: str, on_error: str, whole: dict[str, str], tmp_path: Path
) -> None:
    check_runs(range(3, 300, 25), (FULL, BROKEN), VARIANTS[name], on_error, whole, tmp_path)


class TellAt(Callback):
    """Fails after an update, as a save in the background does that has failed."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, state: TrainState) -> None:
        if state.step == self._step:
            raise CheckpointError("it failed")


def told_run(directory: Path, step: int) -> None:
    trainer = program.make_trainer(directory, every="1 epoch", callbacks=(TellAt(step),))
    with pytest.raises(CheckpointError, match=r"^it failed$"):
        trainer.train()


@pytest.mark.parametrize("step", [2, 5, 8, pytest.param(14, marks=pytest.mark.faults)])
def test_what_is_told_between_updates_costs_nothing(
    step: int, whole: dict[str, str], tmp_path: Path
) -> None:
    processes.call(told_run, tmp_path / "a", step)
    assert processes.call(program.run, tmp_path / "a", resume="auto", every="1 epoch") == whole
