"""SIGKILL at any operation leaves the old state or the new one, and nothing of the dead process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.faults import processes
from tests.integration.faults.operations import intercepted, kill_at, recorded
from tests.integration.faults.scenarios import SCENARIOS, Scenario, copies

SIGKILLED = -9


@pytest.mark.parametrize("name", SCENARIOS)
def test_sigkill_at_every_operation(name: str, tmp_path: Path, elsewhere: Path) -> None:
    tries, bad = processes.call(kill_everywhere, name, tmp_path, elsewhere)
    assert bad == []
    assert tries > 25


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


def kill_everywhere(name: str, folder: Path, elsewhere: Path) -> tuple[int, list[str]]:
    """Kill a process at each operation, before it and in the middle of writes."""
    scenario = SCENARIOS[name]
    start, directory = folder / "start", folder / "a"
    scenario.prepare(start)
    copies(start, directory)
    operations = recorded(lambda: scenario.run(directory, elsewhere))
    bad = [f"not killed: {text}" for text in scenario.check(directory)]
    tries = 0
    for n, operation in enumerate(operations, 1):
        for how in ("before", "half") if operation.name == "write" else ("before",):
            copies(start, directory)
            status = killed(scenario, directory, elsewhere, n, how)
            found = scenario.check(directory)
            if status != SIGKILLED:
                found.append(f"its status is {status}")
            if os.listdir(elsewhere):
                found.append("there are temporary files elsewhere")
            bad += [f"{how} {n}, {operation.name} of {operation.path}: {text}" for text in found]
            tries += 1
    return tries, bad


def killed(scenario: Scenario, directory: Path, elsewhere: Path, n: int, how: str) -> int:
    child = os.fork()
    if not child:
        try:
            with intercepted(kill_at(n, how)):
                scenario.run(directory, elsewhere)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
