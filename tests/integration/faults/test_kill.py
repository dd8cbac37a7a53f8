"""A process that is killed at any operation leaves the old state or the new one, and no rubbish."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from hotloop.checkpoint import CheckpointManager
from hotloop.errors import CheckpointError
from tests.integration.faults import processes, program
from tests.integration.faults.disk import Disk, Tree, write_tree
from tests.integration.faults.operations import Operation, intercepted, kill_at, recorded
from tests.integration.faults.scenarios import (
    SCENARIOS,
    Scenario,
    content,
    copies,
    make_manager,
    save,
    skip_fsync,
)
from tests.integration.faults.tracing import Call, calls_of, strace, traced

__all__ = ["strace"]

SIGKILLED = -signal.SIGKILL
FEW = ("first", "background_over", "pin", "prune")
MORE = tuple(name for name in SCENARIOS if name not in FEW)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The directory for temporary files, which stays empty."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", FEW)
def test_sigkill_at_every_operation(name: str, tmp_path: Path, elsewhere: Path) -> None:
    check_kills(name, "before", tmp_path, elsewhere)


@pytest.mark.faults
@pytest.mark.parametrize("name", MORE)
def test_sigkill_in_further_scenarios(name: str, tmp_path: Path, elsewhere: Path) -> None:
    check_kills(name, "before", tmp_path, elsewhere)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["first", "new", "background_over", "pin"])
def test_sigkill_after_every_operation(name: str, tmp_path: Path, elsewhere: Path) -> None:
    check_kills(name, "after", tmp_path, elsewhere)


def check_kills(name: str, when: str, folder: Path, elsewhere: Path) -> None:
    tries, bad = processes.call(kill_everywhere, name, when, folder, elsewhere)
    print(f"{tries} tries")
    assert not bad, "\n".join(map(str, bad))
    assert tries >= 12


def kill_everywhere(name: str, when: str, folder: Path, elsewhere: Path) -> tuple[int, list[str]]:
    """Kill a process at each operation, and in the middle of each write."""
    skip_fsync()
    scenario = SCENARIOS[name]
    start, directory = folder / "start", folder / "a"
    scenario.prepare(start)
    copies(start, directory)
    operations = recorded(lambda: scenario.run(directory, elsewhere))
    bad = scenario.check(directory)
    tries = 0
    for n, operation in enumerate(operations, 1):
        for how in (when, "half") if operation.name == "write" else (when,):
            copies(start, directory)
            status = killed(lambda: scenario.run(directory, elsewhere), n, how)
            found = scenario.check(directory)
            if status != SIGKILLED:
                found.append(f"the status is {status}")
            if os.listdir(elsewhere):
                found.append("there are temporary files elsewhere")
            bad += [f"{how} {n}, {operation.name} of {operation.path}: {text}" for text in found]
            tries += 1
    return tries, bad


def killed(work: Callable[[], object], n: int, how: str) -> int:
    """Return the status of a process that is killed at an operation of its work."""
    child = os.fork()
    if not child:
        try:
            with intercepted(kill_at(n, how)):
                work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# The order


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_is_synced_in_time(name: str, tmp_path: Path, elsewhere: Path) -> None:
    assert processes.call(order_of_operations, name, tmp_path / "a", elsewhere) == []


def order_of_operations(name: str, directory: Path, elsewhere: Path) -> list[str]:
    scenario = SCENARIOS[name]
    scenario.prepare(directory)
    operations = recorded(lambda: scenario.run(directory, elsewhere))
    assert len(operations) >= 10
    return order_faults((each.name, each.path, *each.arguments[1:]) for each in operations)


def order_faults(steps: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return what is not synced when it should be.

    Args:
        steps: Names of operations and their paths.
    """
    unsynced: set[Path] = set()  # Files with new bytes, and directories with new names.
    names: dict[Path, Path] = {}  # New names, and what they were before.
    bad = []
    for name, path, *rest in steps:
        if path.name == ".lock":
            continue
        pending = sorted(each for each in names if not each.name.startswith(".saving-"))
        is_next = name.startswith(("create", "make", "remove"))
        is_inside = any(part.startswith(".saving-") for part in path.parent.parts)
        if is_next and pending and not is_inside:
            bad.append(f"{name} of {path} before {pending} is durable")
        if name in ("create", "make_directory"):
            names[path] = path
            unsynced |= {path, path.parent} if name == "create" else {path.parent}
        elif name == "write":
            unsynced.add(path)
        elif name in ("sync", "sync_directory"):
            unsynced.discard(path)
            names = {key: value for key, value in names.items() if key.parent != path}
        elif name == "rename":
            inner = sorted(each for each in unsynced if each == path or path in each.parents)
            if inner:
                bad.append(f"{path} is renamed before {inner} is synced")
            names.pop(path, None)
            names[Path(rest[0])] = path
            unsynced.add(path.parent)
        elif name.startswith("remove"):
            names.pop(path, None)
            unsynced.discard(path)
    if names:
        bad.append(f"at the end {sorted(names)} are not durable")
    return bad


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ("create /d/.saving-x; write /d/.saving-x; rename /d/.saving-x /d/x; sync /d", "synced"),
        ("create /d/.saving-x; sync /d/.saving-x; rename /d/.saving-x /d/x", "not durable"),
        ("rename /d/x /d/.removing-x; remove_file /d/.removing-x/f; sync /d", "before"),
        ("rename /d/.saving-x /d/x; create /d/y; sync /d/y; sync /d", "before"),
        ("make_directory /d/.saving-x; create /d/.saving-x/f; sync /d/.saving-x/f; "
         "rename /d/.saving-x /d/x; sync /d", "is renamed before"),
    ],
)  # fmt: skip
def test_what_is_synced_too_late_is_seen(steps: str, reason: str) -> None:
    found = [(name, *map(Path, rest)) for name, *rest in map(str.split, steps.split(";"))]
    assert reason in " ".join(order_faults(found))


@pytest.mark.parametrize("name", FEW)
def test_power_cut_after_every_operation(name: str, tmp_path: Path, elsewhere: Path) -> None:
    tries, bad = processes.call(cut_everywhere, name, tmp_path, elsewhere)
    print(f"{tries} tries")
    assert not bad, "\n".join(map(str, bad))
    assert tries >= 7


@pytest.mark.faults
@pytest.mark.parametrize("name", MORE)
def test_power_cut_in_further_scenarios(name: str, tmp_path: Path, elsewhere: Path) -> None:
    tries, bad = processes.call(cut_everywhere, name, tmp_path, elsewhere)
    print(f"{tries} tries")
    assert not bad, "\n".join(map(str, bad))
    assert tries >= 20


def cut_everywhere(name: str, folder: Path, elsewhere: Path) -> tuple[int, list[str]]:
    """Keep what was synced up to each operation, and look at what is there then."""
    scenario = SCENARIOS[name]
    directory = folder / "a"
    scenario.prepare(directory)
    disk = Disk(directory)
    found: list[tuple[str, Tree]] = []

    def act(operation: Operation) -> Any:
        result = operation.make()
        disk.follow(operation)
        for are_names_synced in (True, False):
            tree = disk.survivors(are_names_synced=are_names_synced)
            if all(tree != other for _, other in found[-2:]):
                about = "without" if are_names_synced else "with"
                found.append((f"{about} names, {operation.name} of {operation.path}", tree))
        return result

    with intercepted(act):
        scenario.run(directory, elsewhere)
    bad = []
    for text, tree in found:
        shutil.rmtree(directory)
        write_tree(tree, directory)
        bad += [f"{text}: {reason}" for reason in scenario.check(directory)]
    # What returned is durable.
    shutil.rmtree(directory)
    write_tree(disk.survivors(are_names_synced=True), directory)
    newest = make_manager(scenario.place(directory)).load_latest_good()
    expected = [*scenario.start, *scenario.saves][-1]
    if newest is None or (newest[1].name, newest[1].step) != expected:
        bad.append("the last save is lost")
    return len(found), bad


# Other processes


def test_another_manager_leaves_a_save_in_progress_alone(tmp_path: Path) -> None:
    scenario = SCENARIOS["new"]
    directory = tmp_path / "a"
    scenario.prepare(directory)
    receiver, sender = processes.pipe()
    go, waiting = processes.pipe()
    started = processes.start(save_slowly, directory, sender, go)
    n = 0
    while receiver.poll(60) and receiver.recv():
        n += 1
        before = content(directory)
        other = CheckpointManager(directory, lock_timeout=0)
        newest = other.load_latest_good()
        assert newest is not None
        assert newest[1].step in (3, 4)
        with pytest.raises(CheckpointError, match=rf"locked .* by process {started.process.pid}, "):
            save(other, "c9", 9)
        assert content(directory) == before
        waiting.send(None)
    assert started.result() == n
    assert scenario.check(directory) == []


def save_slowly(directory: Path, sender: Connection, go: Connection) -> int:
    """Tell before each operation that something is there, and wait."""
    count = 0

    def act(operation: Operation) -> Any:
        nonlocal count
        # The lock itself comes first.
        if operation.path.name != ".lock":
            count += 1
            sender.send(True)
            go.recv()
        return operation.make()

    manager = make_manager(directory)
    with intercepted(act):
        save(manager, "c4", 4)
    sender.send(False)
    return count


def test_what_a_process_leaves_goes_when_it_is_dead(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    SCENARIOS["new"].prepare(directory)
    receiver, sender = processes.pipe()
    go, _ = processes.pipe()
    started = processes.start(save_slowly, directory, sender, go)
    assert receiver.poll(60)
    assert receiver.recv()
    started.process.kill()
    assert started.status() == SIGKILLED
    assert SCENARIOS["new"].check(directory) == []


# Runs


def run_until(directory: Path, n: int, **variant: Any) -> None:
    with intercepted(kill_at(n, "before")):
        program.run(directory, **variant)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"every": "1 epoch", "keep_last": 1},
    "background": {"every": "1 epoch", "keep_last": 1, "is_async": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_is_killed_at_an_operation_ends_like_the_others(
    name: str, tmp_path: Path
) -> None:
    """A few of many, spread over the run."""
    assert kill_runs(name, range(30, 400, 120), tmp_path) >= 3


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_is_killed_at_operations_all_over(name: str, tmp_path: Path) -> None:
    assert kill_runs(name, range(5, 400, 25), tmp_path) >= 12


def kill_runs(name: str, operations: Iterable[int], folder: Path) -> int:
    variant = VARIANTS[name]
    whole = processes.call(program.run, None, **variant)
    tries, bad = 0, []
    for n in operations:
        directory = folder / str(n)
        if processes.start(run_until, directory, n, **variant).status() != SIGKILLED:
            break
        if processes.call(program.run, directory, resume="auto", **variant) != whole:
            bad.append(n)
        check_run(directory)
        tries += 1
    print(f"{tries} tries")
    assert not bad, "\n".join(map(str, bad))
    return tries


def check_run(directory: Path) -> None:
    """Check what a run has left: two checkpoints at most, and files for people."""
    names = set(os.listdir(directory)) - {".lock", "latest.json", "best.json"}
    assert 1 <= len(names) <= 2
    assert all(name.startswith("step_") for name in names)


# System calls


@pytest.mark.faults
@pytest.mark.usefixtures("strace")
def test_sigkill_at_every_system_call(tmp_path: Path, elsewhere: Path) -> None:
    names = ("first", "new", "over", "pin", "prune", "background", "background_over")
    tries, bad = processes.call(kill_at_calls, names, tmp_path, elsewhere)
    print(f"{tries} tries")
    assert not bad, "\n".join(map(str, bad))
    assert tries >= 200


def kill_at_calls(names: tuple[str, ...], folder: Path, elsewhere: Path) -> tuple[int, list[str]]:
    """Kill a process at each of its calls that change the directory."""
    tries = 0
    bad = []
    for name in names:
        start, directory, log = (folder / f"{name}-{each}" for each in ("start", "a", "log"))
        run = TracedRun(SCENARIOS[name], directory, elsewhere)
        run.scenario.prepare(start)
        copies(start, directory)
        assert run(log) == 0
        bad += run.scenario.check(directory)
        for call in calls_of(log, directory):
            copies(start, directory)
            inject = f"{call.name}:signal=SIGKILL:when={call.index}"
            status = run(log, inject)
            found = run.scenario.check(directory)
            if status != SIGKILLED:
                found.append(f"the status is {status}")
            if os.listdir(elsewhere):
                found.append("there are temporary files elsewhere")
            bad += [f"{name}, {inject} of {call.text}: {text}" for text in found]
            tries += 1
    return tries, bad


class TracedRun:
    """Makes the change of a scenario under strace, and returns the status of that process."""

    def __init__(self, scenario: Scenario, directory: Path, elsewhere: Path) -> None:
        self.scenario = scenario
        self._directory = directory
        self._elsewhere = elsewhere
        self._manager: CheckpointManager | None = None
        # The calls of imports are none of the scenario.
        warm = directory.with_name("warm")
        warm.mkdir()
        SCENARIOS["background"].run(warm, elsewhere)
        shutil.rmtree(warm)

    def __call__(self, log: Path, inject: str | None = None) -> int:
        return traced(self._work, log, inject, self._prepare)

    def _prepare(self) -> None:
        # The calls of each thread are counted by themselves: one of two shall make none.
        if self.scenario.is_async:
            self._manager = make_manager(self.scenario.place(self._directory))

    def _work(self) -> None:
        if self._manager is None:
            self.scenario.run(self._directory, self._elsewhere)
        else:
            self.scenario.work(self._manager)


@pytest.mark.faults
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_order_of_system_calls(name: str, tmp_path: Path, elsewhere: Path) -> None:
    directory, log = tmp_path / "a", tmp_path / "log"
    SCENARIOS[name].prepare(directory)
    assert processes.call(run_once, name, directory, elsewhere, log) == 0
    calls = calls_of(log, directory)
    assert len(calls) >= 10
    steps = map(step_of, calls)
    assert order_faults(step for step in steps if step is not None) == []


def run_once(name: str, directory: Path, elsewhere: Path, log: Path) -> int:
    return TracedRun(SCENARIOS[name], directory, elsewhere)(log)


def step_of(call: Call) -> tuple[Any, ...] | None:
    """Return a call as a step of `order_faults`; None if it failed."""
    names = {
        "openat": "create",
        "write": "write",
        "sync_file_range": "write",
        "fsync": "sync",
        "close": "close",
        "mkdir": "make_directory",
        "rename": "rename",
        "unlink": "remove_file",
        "rmdir": "remove_directory",
    }
    if " = -1 " in call.text:
        return None
    paths = call.paths[-1:] if call.name == "openat" else call.paths
    return (names[call.name], *paths)


@pytest.mark.faults
@pytest.mark.usefixtures("strace")
def test_a_run_that_is_killed_at_a_system_call_ends_like_the_others(tmp_path: Path) -> None:
    variant = {**VARIANTS["plain"], "epochs": 2}
    whole = processes.call(program.run, None, **variant)
    log = tmp_path / "log"
    assert processes.call(traced_run, tmp_path / "all", log, None, variant) == 0
    calls = calls_of(log, tmp_path / "all")
    # Tensors are many writes of the same kind.
    chosen = [call for call in calls if call.name != "write" or call.index % 20 == 0]
    assert len(chosen) >= 60
    bad = []
    for call in chosen:
        directory = tmp_path / f"{call.name}-{call.index}"
        inject = f"{call.name}:signal=SIGKILL:when={call.index}"
        assert processes.call(traced_run, directory, log, inject, variant) == SIGKILLED
        if processes.call(program.run, directory, resume="auto", **variant) != whole:
            bad.append(f"{inject} of {call.text}")
        check_run(directory)
    print(f"{len(chosen)} tries")
    assert not bad, "\n".join(map(str, bad))


def traced_run(directory: Path, log: Path, inject: str | None, variant: dict[str, Any]) -> int:
    return traced(lambda: program.run(directory, **variant), log, inject)
