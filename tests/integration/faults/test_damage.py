"""Damage to any byte of any file is seen and named, and a run goes on from what is good."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hotloop.checkpoint import CheckpointManager, read_checkpoint, verify_checkpoint
from hotloop.errors import CheckpointError, CorruptCheckpointError
from hotloop.testing import differences
from tests.integration.faults import processes, program
from tests.integration.faults.scenarios import warnings_of

#: Of a run that was stopped in its third epoch; the first one is pinned.
NAMES = ("step_00000005", "step_00000010", "step_00000013")
FILES = ("manifest.json", "state.json", "tensors.safetensors")
POINTERS = ("latest.json", "best.json", "pinned.json")
PAGE = 4096


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "run"
    stopped = processes.start(program.run, directory, stop_at=13, every="1 epoch")
    assert stopped.status() == 143
    CheckpointManager(directory, keep_last=None).pin(NAMES[0])
    folders = sorted(path.name for path in directory.iterdir() if path.is_dir())
    assert folders == list(NAMES)
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def states(made: Path) -> dict[str, Any]:
    return {name: read_checkpoint(made / name)[0] for name in NAMES}


def check(run: Path, states: dict[str, Any], damaged: dict[str, tuple[str, ...]]) -> None:
    """Check that damage is named, and that the newest good checkpoint is what it was.

    Args:
        run: The directory.
        states: What its checkpoints should have.
        damaged: The damaged ones, each with what its errors have to name.
    """
    for name, parts in damaged.items():
        path = run / name
        calls: tuple[Callable[[], object], ...] = (
            partial(read_checkpoint, path),
            partial(verify_checkpoint, path),
            partial(CheckpointManager(run).load, name),
        )
        for call in calls:
            with pytest.raises(CorruptCheckpointError) as caught:
                call()
            assert names_all(str(caught.value), parts), (parts, str(caught.value))
    good = [name for name in NAMES if name not in damaged]
    with warnings_of("hotloop") as warned:
        found = CheckpointManager(run).load_latest_good()
    assert found is not None
    assert found[1].name == good[-1]
    assert differences(found[0], states[good[-1]]) == []
    for name, parts in damaged.items():
        assert name < good[-1] or any(names_all(text, parts) for text in warned), (parts, warned)
    for text in warned:
        assert any(names_all(text, parts) for parts in damaged.values()), text


def names_all(text: str, parts: tuple[str, ...]) -> bool:
    return all(part in text for part in parts)


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """Give a file another content for a `with` block."""
    before = path.read_bytes()
    path.write_bytes(data)
    yield
    path.write_bytes(before)


def flipped(data: bytes, place: int, bit: int) -> bytes:
    result = bytearray(data)
    result[place] ^= 1 << bit
    return bytes(result)


def tensor_at(data: bytes, place: int) -> str | None:
    """Return the tensor that a byte of a safetensors file belongs to."""
    begin = 8 + int.from_bytes(data[:8], "little")
    for name, value in json.loads(data[8:begin]).items():
        first, end = value["data_offsets"]
        if begin + first <= place < begin + end:
            return str(name)
    return None


# One file


def check_flips(tries: int, run: Path, states: dict[str, Any]) -> None:
    chance = random.Random(tries)
    paths = [run / name / file for name in NAMES for file in FILES]
    tensors = set()
    for _ in range(tries):
        path = chance.choice(paths)
        data = path.read_bytes()
        place = chance.randrange(len(data))
        parts = [str(path)]
        tensor = tensor_at(data, place) if path.name == FILES[2] else None
        if tensor is not None:
            parts.append(f"tensor {tensor!r}")
            tensors.add(tensor)
        with replaced(path, flipped(data, place, chance.randrange(8))):
            check(run, states, {path.parent.name: tuple(parts)})
    assert len(tensors) >= 8
    check(run, states, {})


def test_one_flipped_bit(run: Path, states: dict[str, Any]) -> None:
    check_flips(60, run, states)


@pytest.mark.faults
def test_one_flipped_bit_anywhere(run: Path, states: dict[str, Any]) -> None:
    check_flips(1000, run, states)


def test_a_header_that_would_do(run: Path, states: dict[str, Any]) -> None:
    """Only its checksum tells that the header is another one."""
    path = run / NAMES[2] / FILES[2]
    with replaced(path, path.read_bytes().replace(b'"F32"', b'"I32"', 1)):
        check(run, states, {NAMES[2]: (str(path), "its header has checksum")})


@pytest.mark.parametrize("name", NAMES[1:])
def test_files_that_are_cut_off(run: Path, states: dict[str, Any], name: str) -> None:
    tries = 0
    for path in (run / name / file for file in FILES):
        data = path.read_bytes()
        for size in (*range(0, len(data), PAGE), len(data) - 1):
            with replaced(path, data[:size]):
                check(run, states, {name: (str(path),)})
            tries += 1
    print(f"{tries} tries")
    check(run, states, {})


@pytest.mark.parametrize("file", FILES)
def test_files_that_are_too_long(run: Path, states: dict[str, Any], file: str) -> None:
    path = run / NAMES[2] / file
    for tail in (b"\0", b" ", b"\n", bytes(PAGE)):
        with replaced(path, path.read_bytes() + tail):
            check(run, states, {NAMES[2]: (str(path),)})


@pytest.mark.parametrize("name", NAMES[1:])
def test_missing_files(run: Path, states: dict[str, Any], name: str) -> None:
    for path in (run / name / file for file in FILES):
        data = path.read_bytes()
        path.unlink()
        check(run, states, {name: (str(path),)})
        path.write_bytes(data)
    check(run, states, {})
    shutil.rmtree(run / name)
    (run / name).mkdir()
    check(run, states, {name: (str(run / name),)})


@pytest.mark.parametrize("extra", ["x", ".hidden", "tensors.safetensors.bak", "state.json "])
@pytest.mark.parametrize("is_directory", [False, True])
def test_files_that_are_too_many(
    run: Path, states: dict[str, Any], extra: str, is_directory: bool
) -> None:
    folder = run / NAMES[2]
    if is_directory:
        (folder / extra).mkdir()
    else:
        (folder / extra).write_bytes(b"")
    check(run, states, {NAMES[2]: (str(folder), repr(extra))})


@pytest.mark.parametrize("file", FILES)
def test_files_of_another_checkpoint(run: Path, states: dict[str, Any], file: str) -> None:
    first, second = (run / name / file for name in NAMES[1:])
    other = second.read_bytes()
    with replaced(second, first.read_bytes()), replaced(first, other):
        # A manifest that is whole is believed: what it does not fit to is named.
        named = [path.parent if file == FILES[0] else path for path in (first, second)]
        check(run, states, {name: (str(path),) for name, path in zip(NAMES[1:], named)})
    check(run, states, {})


def test_files_that_are_swapped_within_a_checkpoint(run: Path, states: dict[str, Any]) -> None:
    folder = run / NAMES[2]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        paths = folder / FILES[first], folder / FILES[second]
        other = paths[1].read_bytes()
        with replaced(paths[1], paths[0].read_bytes()), replaced(paths[0], other):
            check(run, states, {NAMES[2]: (str(folder),)})
    check(run, states, {})


# Pointers


@pytest.mark.parametrize("file", POINTERS)
def test_checkpoints_do_not_need_the_pointers(run: Path, states: dict[str, Any], file: str) -> None:
    path = run / file
    data = path.read_bytes()
    damaged = [b"", b"{}", b"\xff", data[:-5], data.replace(b"step_", b"stop_"), bytes(10**6)]
    for each in damaged:
        with replaced(path, each):
            check(run, states, {})
            manager = CheckpointManager(run, metric="val_loss")
            assert manager.latest == run / NAMES[2]
            assert manager.best is not None
    path.unlink()
    check(run, states, {})


@pytest.mark.parametrize("file", POINTERS[:2])
def test_the_next_save_mends_a_pointer(run: Path, file: str) -> None:
    for damage in (b"", b"\0" * 99, None):
        path = run / file
        path.unlink() if damage is None else path.write_bytes(damage)
        manager = CheckpointManager(run, keep_last=None, metric="val_loss")
        manager.save({}, step=99, name="new", metrics={"val_loss": 0.0})
        assert json.loads(path.read_bytes())["checkpoint"] == "new"


def check_pins(places: list[tuple[int, int]], run: Path) -> None:
    """Check that a pin either counts or is missed, and never gets lost without a word."""
    path = run / "pinned.json"
    original = path.read_bytes()
    silent = []
    for place, bit in places:
        copy = run.with_name("pins")
        shutil.copytree(run, copy)
        (copy / path.name).write_bytes(flipped(original, place, bit))
        with warnings_of("hotloop") as warned:
            CheckpointManager(copy, keep_last=1).prune()
        is_told = any(str(copy / path.name) in text for text in warned)
        if not is_told and not (copy / NAMES[0]).exists():
            silent.append((copy / path.name).read_bytes())
        shutil.rmtree(copy)
    assert silent == []


def test_damaged_pins_are_told(run: Path) -> None:
    size = (run / "pinned.json").stat().st_size
    check_pins([(place, place % 8) for place in range(size)], run)


@pytest.mark.faults
def test_pins_with_any_bit_flipped_are_told(run: Path) -> None:
    size = (run / "pinned.json").stat().st_size
    check_pins([(place, bit) for place in range(size) for bit in range(8)], run)


# Runs that go on


@pytest.fixture(scope="module")
def whole() -> dict[str, str]:
    """What the run ends with where nothing happens."""
    result = processes.call(program.run, None)
    assert isinstance(result, dict)
    return result


def resumed(run: Path) -> tuple[dict[str, str], list[str]]:
    """Return what a run ends with that goes on, and the warnings."""
    with warnings_of("hotloop") as warned:
        return program.run(run, resume="auto", every="1 epoch"), warned


def check_resumed(run: Path, whole: dict[str, str], *parts: str) -> None:
    outcome, warned = processes.call(resumed, run)
    assert outcome == whole
    assert len(warned) == len(parts)
    for part, text in zip(parts, warned):
        assert part in text


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file, and return its name."""
    data = path.read_bytes()
    place = chance.randrange(len(data))
    kind = chance.choice(("flip", "cut", "missing"))
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:place] if kind == "cut" else flipped(data, place, 3))
    return str(path)


def test_a_run_goes_on_from_the_newest_good_one(run: Path, whole: dict[str, str]) -> None:
    path = run / NAMES[2] / FILES[2]
    path.write_bytes(flipped(path.read_bytes(), -1, 0))
    check_resumed(run, whole, f"{path} is damaged: tensor ")
    # The one that was damaged is replaced when the run gets there, or stays.
    assert CheckpointManager(run).load_latest_good() is not None


def test_a_run_goes_on_from_the_only_good_one(run: Path, whole: dict[str, str]) -> None:
    (run / NAMES[2] / FILES[0]).unlink()
    (run / NAMES[1] / FILES[1]).write_bytes(b"")
    (run / "latest.json").write_bytes(b"\0")
    texts = [str(run / NAMES[1] / FILES[1]), str(run / NAMES[2] / FILES[0])]
    outcome, warned = processes.call(resumed, run)
    assert outcome == whole
    for text in texts:
        assert any(text in each for each in warned)
    assert all(any(text in each for text in texts) for each in warned)


@pytest.mark.faults
def test_runs_go_on_whatever_is_damaged(made: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    chance = random.Random(0)
    for index in range(60):
        run = Path(shutil.copytree(made, tmp_path / str(index)))
        damaged = chance.sample(NAMES[1:], chance.choice((1, 1, 2)))
        paths = [damage(run / name / chance.choice(FILES), chance) for name in damaged]
        if chance.random() < 0.3:
            damage(run / chance.choice(POINTERS[:2]), chance)
        outcome, warned = processes.call(resumed, run)
        assert outcome == whole
        good = [name for name in NAMES if name not in damaged][-1]
        for name, path in zip(damaged, paths):
            assert name < good or any(path in text for text in warned)
        assert all(any(path in text for path in paths) for text in warned)


def test_nothing_is_begun_anew_where_all_is_damaged(run: Path) -> None:
    paths = [run / name / file for name, file in zip(NAMES, FILES)]
    for path in paths:
        path.write_bytes(flipped(path.read_bytes(), -1, 7))
    with pytest.raises(CheckpointError) as caught:
        CheckpointManager(run).load_latest_good()
    for text in (str(caught.value), processes.call(refused, run)):
        assert text.startswith(f"no checkpoint in {run} can be loaded: ")
        assert all(f"{path} is damaged" in text for path in paths)
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == list(NAMES)


def refused(run: Path) -> str:
    """Return why a run does not begin."""
    with pytest.raises(CheckpointError) as caught:
        program.make_trainer(run, resume="auto")
    return str(caught.value)
