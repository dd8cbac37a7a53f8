"""Signals at random instants: what is lost is nothing, or the time since the last checkpoint."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults import processes, program

VARIANTS: dict[str, dict[str, Any]] = {
    "foreground": {"accumulate": 2},
    "background": {"is_async": True},
    "workers": {"workers": 2},
}


def start(directory: Path, variant: dict[str, Any]) -> processes.Started:
    """Start a run, and return when it has begun to train."""
    began = directory.with_suffix(".began")
    began.unlink(missing_ok=True)
    started = processes.start(program.run_slowly, directory, began, resume="auto", **variant)
    deadline = time.monotonic() + 60
    while not began.exists() and started.process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return started


def whole_run(folder: Path, variant: dict[str, Any]) -> tuple[dict[str, str], float]:
    """Return what an undisturbed run ends with, and the seconds it takes."""
    start(folder / "first", variant).result()
    started = start(folder / "whole", variant)
    begin = time.monotonic()
    result = started.result()
    return result, time.monotonic() - begin


def check_terminations(tries: int, name: str, folder: Path) -> None:
    variant = VARIANTS[name]
    expected, seconds = whole_run(folder, variant)
    chance = random.Random(name)
    statuses = []
    for index in range(tries):
        directory = folder / str(index)
        started = start(directory, variant)
        time.sleep(chance.uniform(0, 0.9 * seconds))
        # A terminal or a scheduler sends it to a whole group: the workers get it too.
        send = os.kill if chance.random() < 0.5 else os.killpg
        with contextlib.suppress(ProcessLookupError):
            send(started.pid, signal.SIGTERM)
        statuses.append(started.status(timeout=30))
        if statuses[-1] == -signal.SIGTERM:
            # It came when the run was over and the process was not.
            assert processes.call(program.is_over, directory, **variant)
            statuses[-1] = 0
        assert processes.call(program.run, directory, resume="auto", **variant) == expected
    print(f"{tries} tries, {statuses.count(143)} of which ended with 143")
    # A run may be over before its signal comes.
    assert set(statuses) <= {143, 0}
    assert statuses.count(143) > tries / 2


def check_kills(tries: int, name: str, folder: Path) -> None:
    """Kill a run again and again, and start it again each time, until it is finished."""
    variant = VARIANTS[name]
    expected, seconds = whole_run(folder, variant)
    chance = random.Random(name)
    kills = finished = 0
    while kills < tries:
        directory = folder / f"killed{finished}"
        started = start(directory, variant)
        time.sleep(chance.uniform(0, 0.7 * seconds))
        started.process.kill()
        # Its workers notice after some seconds.
        started.process.join(30)
        status = started.process.exitcode
        assert status in (-signal.SIGKILL, 0)
        kills += status != 0
        if status == 0:
            # It was over before, and so would be all that follow there.
            assert started.result() == expected
            finished += 1
    print(f"{tries} tries, with {finished} runs that ended before")
    assert processes.call(program.run, directory, resume="auto", **variant) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_sigterm(name: str, tmp_path: Path) -> None:
    check_terminations(3, name, tmp_path)


@pytest.mark.parametrize("name", ["foreground", "background"])
def test_sigkill(name: str, tmp_path: Path) -> None:
    check_kills(3, name, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_sigterm_at_many_instants(name: str, tmp_path: Path) -> None:
    check_terminations(50, name, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_sigkill_at_many_instants(name: str, tmp_path: Path) -> None:
    check_kills(10, name, tmp_path)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    variant = VARIANTS["foreground"]
    expected, seconds = whole_run(tmp_path, variant)
    directory = tmp_path / "twice"
    started = start(directory, variant)
    time.sleep(0.4 * seconds)
    for _ in range(2):
        os.kill(started.pid, signal.SIGTERM)
    # The second one comes before the run gets to the next batch, or after it has saved there.
    assert started.status() in (-signal.SIGTERM, 143)
    assert processes.call(program.run, directory, resume="auto", **variant) == expected
