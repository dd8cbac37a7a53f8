"""Runs that are stopped at any batch and resumed in a new process end as the others do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults import processes, program
from tests.integration.faults.scenarios import warnings_of

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "workers": {"workers": 2},
    "window": {"accumulate": 2},
    "bf16": {"precision": "bf16", "accumulate": 3},
    "fp16": {"precision": "fp16", "accumulate": 2},
    "sampler": {"is_own_sampler": True, "accumulate": 3},
    "background": {"is_async": True},
}


def check(variant: dict[str, Any], batches: range, folder: Path) -> None:
    """Stop runs after some batches, each by SIGTERM, and compare what they end with."""
    whole = processes.call(program.run, None, **variant)
    for batch in batches:
        directory = folder / str(batch)
        stopped = processes.start(program.run, directory, stop_at=batch, every="1 epoch", **variant)
        assert stopped.status() == 143
        resumed = processes.call(program.run, directory, resume="auto", **variant)
        # Whatever differs is named.
        assert {name: resumed.get(name) for name in whole if resumed.get(name) != whole[name]} == {}
        assert resumed.keys() == whole.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_is_stopped_ends_like_the_others(name: str, tmp_path: Path) -> None:
    check(VARIANTS[name], range(4, 16, 5), tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_at_every_batch(name: str, tmp_path: Path) -> None:
    check(VARIANTS[name], range(1, 16), tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_from_every_checkpoint(name: str, tmp_path: Path) -> None:
    """Resume from the checkpoint of each update, of a run that was never stopped."""
    variant = VARIANTS[name]
    whole = processes.call(program.run, None, **variant)
    assert processes.call(program.run, tmp_path / "all", **variant) == whole
    found = sorted(path for path in (tmp_path / "all").iterdir() if path.is_dir())
    print(f"{len(found)} tries")
    assert len(found) >= 6
    for path in found:
        directory = tmp_path / path.name
        shutil.copytree(path, directory / path.name)
        assert processes.call(program.run, directory, resume="auto", **variant) == whole


def finished(directory: Path) -> tuple[dict[str, str], list[str]]:
    """Return what a run ends with that is started once more, and the warnings."""
    with warnings_of("hotloop") as warned:
        return program.run(directory, resume="auto"), warned


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    whole = processes.call(program.run, tmp_path / "a")
    outcome, warned = processes.call(finished, tmp_path / "a")
    assert outcome == whole
    assert warned == ["the run is finished, at epoch 3 and step 15: there is nothing to train"]


def test_every_random_state_counts(tmp_path: Path) -> None:
    """The comparison sees a difference where there is one."""
    first = processes.call(program.run, None)
    assert processes.call(program.run, None, accumulate=2) != first
    assert processes.call(program.run, None) == first
