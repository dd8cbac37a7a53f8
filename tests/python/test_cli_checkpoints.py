"""`python -m hotloop checkpoints`: what each action prints, changes and refuses."""

from __future__ import annotations

import datetime
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import hotloop
from hotloop import cli
from hotloop.checkpoint import (
    CheckpointManager,
    checkpoint_directory,
    manifest,
    read_manifest,
    storage,
    verify_checkpoint,
)
from hotloop.cli import checkpoint_actions
from hotloop.cli.catalogue import size_of
from hotloop.cli.text import local_time, size_text, styled
from hotloop.config import TrainingConfig
from hotloop.errors import CorruptCheckpointError
from hotloop.loops import Trainer

NAN = float("nan")
NAMES = ("step_00000010", "step_00000020", "step_00000030")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No terminal, in a place that is two hours ahead, at a time that goes by in minutes."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    minutes = iter(range(10_000))

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return cls(2026, 3, 1, 22, 58, tzinfo=tz) + datetime.timedelta(minutes=next(minutes))

    monkeypatch.setattr(
        manifest, "datetime", SimpleNamespace(datetime=Clock, timezone=datetime.timezone)
    )
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs an action and returns what it prints; it must be right."""

    def run(*words: object) -> str:
        assert cli.main(["checkpoints", *map(str, words)]) == 0
        output, errors = capsys.readouterr()
        assert errors == ""
        return output

    return run


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs an action and returns its one line of error."""

    def fail(*words: object) -> str:
        assert cli.main(["checkpoints", *map(str, words)]) == 1
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("hotloop: ")
        assert errors.count("\n") == 1
        return errors.removeprefix("hotloop: ").removesuffix("\n")

    return fail


def text(lines: str) -> str:
    return textwrap.dedent(lines).lstrip("\n")


def state_of(number: int) -> dict[str, Any]:
    # A megabyte, so that sizes do not depend on that of the manifest.
    return {"model": {"weight": torch.full((250_000,), float(number))}, "step": number}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three checkpoints of a megabyte: the second is the best, the first is pinned."""
    path = tmp_path / "runs"
    manager = CheckpointManager(path, metric="val_loss")
    for i, (name, loss) in enumerate(zip(NAMES, (3.0, 1.25, 1.5)), 1):
        metrics = {"train_loss": 0.1 * i, "val_loss": loss}
        assert manager.save(state_of(i), step=10 * i, epoch=i, metrics=metrics) == path / name
    manager.pin(NAMES[0])
    return path


def content(path: Path) -> dict[str, bytes | None]:
    return {
        str(each.relative_to(path)): each.read_bytes() if each.is_file() else None
        for each in path.rglob("*")
    }


def reason(path: Path) -> str:
    """Return what is wrong with a checkpoint, which is not named."""
    with pytest.raises(CorruptCheckpointError) as caught:
        read_manifest(path)
    return str(caught.value).replace(f"{path}/", "").removeprefix(f"{path} ")


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# List


@pytest.mark.parametrize("words", [(), ("list",)])
def test_list(directory: Path, run: Run, words: tuple[str, ...]) -> None:
    assert run(directory, *words) == text(
        """
        name           step  epoch             saved     size  val_loss
        step_00000030    30      3  2026-03-02 01:00  1.00 MB       1.5  latest
        step_00000020    20      2  2026-03-02 00:59  1.00 MB      1.25  best
        step_00000010    10      1  2026-03-02 00:58  1.00 MB         3  pinned

        3 checkpoints, 3.00 MB
        """
    )


def test_list_without_a_metric(tmp_path: Path, run: Run) -> None:
    manager = CheckpointManager(tmp_path, keep_last=None)
    manager.save(state_of(1), step=12345, epoch=1, metrics={"b": 1e-9, "a": NAN}, is_best=True)
    manager.save(state_of(2), step=20000, name="x", metrics={"c": 1}, is_pinned=True)
    manager.save(state_of(3), step=20001, epoch=1234, metrics={"a": 1 / 3}, is_best=True)
    assert run(tmp_path) == text(
        """
        name             step  epoch             saved     size         a  c
        step_00020001  20,001  1,234  2026-03-02 01:00  1.00 MB  0.333333     latest best
        x              20,000      0  2026-03-02 00:59  1.00 MB            1  pinned
        step_00012345  12,345      1  2026-03-02 00:58  1.00 MB       nan

        3 checkpoints, 3.00 MB
        """
    )
    manager.unpin("x")
    assert run(tmp_path).splitlines()[2].endswith(" 1")


def test_list_does_not_trust_the_pointer_to_the_best(directory: Path, run: Run) -> None:
    def best() -> list[str]:
        return [line.split()[0] for line in run(directory).splitlines() if "best" in line]

    pointer = directory / "best.json"
    value = json.loads(pointer.read_bytes())
    changes: list[dict[str, Any]] = [
        {"checkpoint": "step_00000040"},
        {"checkpoint": NAMES[2]},
        {"checkpoint": []},
        {"metric": 3},
    ]
    for changed in changes:
        pointer.write_text(json.dumps({**value, **changed}))
        assert best() == [NAMES[1]], changed
        assert "train_loss" in run(directory), changed
    for damaged in ("", "[]", "{}", "[" * 100_000):
        pointer.write_text(damaged)
        assert best() == [NAMES[1]], damaged[:9]
    pointer.write_text(json.dumps({**value, "checkpoint": NAMES[2], "sequence": 3}))
    assert best() == [NAMES[2]]


def test_list_tells_what_is_damaged(directory: Path, run: Run) -> None:
    flip(directory / NAMES[0] / "manifest.json")
    with (directory / NAMES[1] / "state.json").open("ab") as file:
        file.write(b" ")
    (directory / "link").symlink_to(directory / NAMES[2])
    (directory / "step_00000099").mkdir()
    (directory / "other").mkdir()
    (directory / ".saving-x").mkdir()
    (directory / ".saving-x" / "state.json").touch()
    shutil.copytree(directory / NAMES[2], directory / "renamed")
    (directory / "renamed" / "notes").touch()
    (directory / "pinned.json").write_text("{")
    assert "'notes'" in reason(directory / "renamed")
    *lines, end = run(directory).splitlines()
    assert lines == [
        "name           step  epoch             saved     size  train_loss  val_loss",
        "step_00000030    30      3  2026-03-02 01:00  1.00 MB         0.3       1.5  latest",
        "link  is a symbolic link, which is not followed; use its target instead",
        f"renamed  {reason(directory / 'renamed')}",
        "step_00000010  manifest.json is damaged: its checksum is wrong",
        f"step_00000020  {reason(directory / NAMES[1])}",
        f"step_00000099  {reason(directory / 'step_00000099')}",
        lines[7],
        "",
    ]
    assert re.fullmatch(
        r"pinned\.json is damaged: .*; remove it, and pin again what is to stay",
        lines[7],
    )
    assert end == "1 checkpoint, 1.00 MB; 5 more cannot be loaded"


@pytest.mark.parametrize("pins", ["[]", '{"pinned": "ab", "unpinned": {}}', '{"pinned": []}'])
def test_list_of_pins_that_are_none(directory: Path, run: Run, pins: str) -> None:
    (directory / "pinned.json").write_text(pins)
    assert "\npinned.json is damaged: " in run(directory)


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    path = CheckpointManager(tmp_path).save(state_of(1), step=1, metrics={"a": NAN})
    assert size_of(read_manifest(path)) == sum(file.stat().st_size for file in path.iterdir())


def test_only_damaged_ones(directory: Path, run: Run) -> None:
    for name in NAMES:
        flip(directory / name / "manifest.json")
    assert run(directory) == text(
        """
        step_00000010  manifest.json is damaged: its checksum is wrong
        step_00000020  manifest.json is damaged: its checksum is wrong
        step_00000030  manifest.json is damaged: its checksum is wrong

        0 checkpoints, 0 B; 3 more cannot be loaded
        """
    )


def test_a_renamed_checkpoint_has_its_new_name(directory: Path, run: Run) -> None:
    (directory / NAMES[2]).rename(directory / "a")
    assert run(directory).splitlines()[1].startswith("a                30 ")


@pytest.mark.parametrize("action", ["list", "verify", "prune"])
def test_no_checkpoints(tmp_path: Path, run: Run, action: str) -> None:
    assert run(tmp_path, action) == f"{tmp_path} has no checkpoints\n"
    assert list(tmp_path.iterdir()) == []


def test_no_directory(tmp_path: Path, fail: Run) -> None:
    place = tmp_path / "x"
    assert fail(place) == f"{place} does not exist; give a directory of checkpoints"
    place.touch()
    assert fail(place, "verify") == f"{place} is no directory; give a directory of checkpoints"


def test_reading_changes_nothing(directory: Path, run: Run, tmp_path: Path) -> None:
    (directory / ".lock").unlink()
    (directory / ".saving-step_00000040").mkdir()
    (directory / ".replaced-step_00000010").mkdir()
    before = content(directory)
    for words in (
        ["list"],
        ["verify"],
        ["show", "latest"],
        ["prune", "--keep-last", "1"],
        ["export", "best", tmp_path / "w"],
    ):
        run(directory, *words)
        assert content(directory) == before, words


def test_a_checkpoint_may_go_while_it_is_listed(
    directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Any:
        if path.name == NAMES[0]:
            shutil.rmtree(path)
        return read_manifest(path)

    monkeypatch.setattr(checkpoint_directory, "read_manifest", read)
    assert run(directory).endswith("\n\n2 checkpoints, 2.00 MB\n")


def test_list_in_a_terminal(directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    CheckpointManager(directory).pin(NAMES[2])
    pointer = json.loads((directory / "best.json").read_bytes())
    (directory / "best.json").write_text(
        json.dumps({**pointer, "checkpoint": NAMES[2], "sequence": 3})
    )
    flip(directory / NAMES[0] / "manifest.json")
    output = run(directory)
    assert "\x1b[36mlatest\x1b[0m" in output
    assert "\x1b[32mbest\x1b[0m" in output
    assert "\x1b[33mpinned\x1b[0m" in output
    assert "\x1b[31mstep_00000010  manifest.json is damaged" in output
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()]
    # Tables fit; the texts of errors are broken by the terminal itself.
    assert lines == [
        "name           step  epoch             saved     size  val_loss",
        "step_00000030    30      3  2026-03-02 01:00  1.00 MB       1.5  latest best",
        f"{'':65}pinned",
        "step_00000020    20      2  2026-03-02 00:59  1.00 MB      1.25",
        "step_00000010  manifest.json is damaged: its checksum is wrong",
        "",
        "2 checkpoints, 2.00 MB; 1 more cannot be loaded",
    ]
    (directory / NAMES[1] / ("n" * 100)).touch()
    assert "n" * 100 in re.sub(r"\x1b\[[0-9;]*m", "", run(directory))
    (directory / NAMES[1] / ("n" * 100)).unlink()
    name = "a-name-of-so-many-words-may-be-broken"
    (directory / NAMES[2]).rename(directory / name)
    rows = run(directory).split("step_")[0].splitlines()[1:]
    assert len(rows) > 1
    assert "".join(row.split(" ")[0] for row in rows) == name


def test_what_a_file_says_cannot_control_the_terminal(tmp_path: Path, run: Run) -> None:
    evil = "\x1b[2J\x07\n[red]\ud800"
    manager = CheckpointManager(tmp_path)
    manager.save({evil: torch.ones(1)}, step=1, metrics={evil: 1.0}, config={evil: evil})
    for words in ([], ["show", "latest"]):
        output = run(tmp_path, *words)
        assert r"\x1b[2J\x07\n[red]\ud800" in output
        assert "\x1b" not in output


# Verify


def test_verify(directory: Path, run: Run) -> None:
    lines = run(directory, "verify").splitlines()
    assert [line.split("  ")[0] for line in lines] == [NAMES[2], NAMES[1], NAMES[0]]
    for line in lines:
        assert re.fullmatch(r"step_000000\d0  ok  1\.00 MB, \d+\.\d\d GB/s", line)
    lines = run(directory, "verify", "best", NAMES[0], "latest", NAMES[0]).splitlines()
    assert [line.split()[0] for line in lines] == [NAMES[1], NAMES[0], NAMES[2]]


def test_verify_tells_its_speed(directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.0005])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    assert run(directory, "verify", "latest") == f"{NAMES[2]}  ok  1.00 MB, 2.00 GB/s\n"


def test_verify_names_the_file_and_the_tensor(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(directory / NAMES[0] / "tensors.safetensors")
    CheckpointManager(directory).save(1, step=4, name="x")
    flip(directory / "x" / "manifest.json")
    assert cli.main(["checkpoints", str(directory), "verify"]) == 1
    output, errors = capsys.readouterr()
    lines = output.splitlines()
    assert [line[15:].split()[0] for line in lines] == ["ok", "ok", "FAILED", "FAILED"]
    assert re.fullmatch(
        r"step_00000010  FAILED  tensors\.safetensors is damaged: tensor 'model\.weight' has "
        r"checksum [0-9a-f]{16}, not [0-9a-f]{16}",
        lines[2],
    )
    assert lines[3] == "x              FAILED  manifest.json is damaged: its checksum is wrong"
    assert errors == "hotloop: 2 of 4 checkpoints cannot be loaded\n"
    assert cli.main(["checkpoints", str(directory), "verify", NAMES[2]]) == 0
    assert cli.main(["checkpoints", str(directory), "verify", "x"]) == 1
    assert capsys.readouterr().err == "hotloop: 1 of 1 checkpoint cannot be loaded\n"


def test_verify_prints_each_line_when_it_knows_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Stream()
    printed = []

    def verify(path: Path) -> Any:
        printed.append(stream.flushed.count(" ok "))
        return read_manifest(path)

    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(checkpoint_actions, "verify_checkpoint", verify)
    assert cli.main(["checkpoints", str(directory), "verify"]) == 0
    assert printed == [0, 1, 2]


def test_a_checkpoint_may_go_while_it_is_verified(
    directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(path: Path) -> Any:
        shutil.rmtree(path)
        return verify_checkpoint(path)

    monkeypatch.setattr(checkpoint_actions, "verify_checkpoint", remove)
    assert run(directory, "verify", NAMES[1]) == f"{NAMES[1]}  removed in the meantime\n"


# Names


@pytest.mark.parametrize("action", ["verify", "show", "pin", "unpin"])
@pytest.mark.parametrize("name", ["step_00000011", "../runs/step_00000010", ".", ""])
def test_unknown_names(directory: Path, fail: Run, action: str, name: str) -> None:
    assert fail(directory, action, name) == (
        f"there is no checkpoint {name!r} in {directory}; there are: "
        "step_00000030, step_00000020, step_00000010"
    )


@pytest.mark.parametrize("name", ["latest", "best"])
def test_names_of_nothing(tmp_path: Path, fail: Run, name: str) -> None:
    message = f"there is no checkpoint {name!r} in {tmp_path}; there are: none"
    assert fail(tmp_path, "show", name) == message


def test_a_directory_needs_a_name(directory: Path, fail: Run, tmp_path: Path) -> None:
    message = f"{directory} is a directory of checkpoints; name one: " + ", ".join(NAMES[::-1])
    assert fail(directory, "show") == message
    assert fail(directory, "export", tmp_path / "w") == message


def test_one_checkpoint(
    directory: Path, run: Run, fail: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = directory / NAMES[0]
    shown = run(directory, "show", NAMES[0])
    assert run(place) == shown
    assert run(place, "show") == shown
    assert run(place, "show", NAMES[0]) == shown
    assert run(place, "verify").startswith(f"{NAMES[0]}  ok  1.00 MB")
    assert run(place, "export", tmp_path / "w").startswith(f"wrote 1 tensor of {NAMES[0]} to ")
    (tmp_path / "link").symlink_to(place)
    assert run(tmp_path / "link") == shown
    monkeypatch.chdir(place)
    assert run(".") == shown
    for action in (["list"], ["prune"], ["pin", "x"], ["unpin", "x"]):
        assert fail(".", *action) == (
            f"{action[0]} needs a directory of checkpoints, and {place} is one checkpoint; use "
            f"{directory}"
        )
    assert fail(".", "show", "latest") == f"{place} is one checkpoint and has no 'latest'"
    flip(place / "manifest.json")
    message = f"{place}/manifest.json is damaged: its checksum is wrong"
    assert fail(".") == message
    (place / "manifest.json").unlink()
    assert fail(".") == f"{place}/{reason(place)}"


# Show


class Tied(nn.Module):
    """Has two names for a weight, a buffer, and a buffer that is not saved."""

    count: Tensor
    hidden_count: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(3, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.last = nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("hidden_count", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.norm(self.first(x)))
        return output


def test_show(tmp_path: Path, run: Run) -> None:
    state = {
        "model": Tied().state_dict(),
        "optimizer": {"lr": 0.1, "state": [{"m": torch.ones(2, 3, dtype=torch.bfloat16)}, {}]},
        "loss": torch.tensor(1.0, dtype=torch.float64),
    }
    CheckpointManager(tmp_path).save(
        state, step=1234, epoch=2, metrics={"a": 1 / 3, "b": NAN}, config={"lr": 0.1, "x": (1,)}
    )
    size = read_manifest(tmp_path / "step_00001234").files["tensors.safetensors"].size
    assert 0 < size < 10_000
    shown = run(tmp_path, "show", "latest").splitlines()
    assert re.fullmatch(r"  size      \d\.\d\d kB, with 8 tensors", shown.pop(4))
    assert "\n".join(shown) + "\n" == text(
        f"""
        step_00001234
          step      1,234
          epoch     2
          saved     2026-03-02 00:58
          metrics   a 0.3333333333333333, b nan
          versions  hotloop {hotloop.__version__}, python 3.{sys.version_info.minor}.\
{sys.version_info.micro}, torch {torch.__version__}
          config    lr=0.1, x=(1,)

        state                               dtype     shape   values  size
        model                                                     22  92 B
          first.weight                      float32   [3, 3]       9  36 B
          norm.weight                       float32   [3]          3  12 B
          norm.bias                         float32   [3]          3  12 B
          norm.running_mean                 float32   [3]          3  12 B
          norm.running_var                  float32   [3]          3  12 B
          norm.num_batches_tracked          int64     []           1   8 B
          last.weight = model.first.weight  float32   [3, 3]
        optimizer                                                  6  12 B
          state                                                    6  12 B
            0                                                      6  12 B
              m                             bfloat16  [2, 3]       6  12 B
        loss                                float64   []           1   8 B

        model: 22 parameters and buffers; all: 29 values, 112 B
        """
    )
    lines = run(tmp_path, "show", "latest", "--depth", "1").splitlines()
    assert [line.split()[0] for line in lines[9:-2]] == ["state", "model", "optimizer", "loss"]
    lines = run(tmp_path, "show", "latest", "--depth", "2").splitlines()
    assert lines[-4].split() == ["state", "6", "12", "B"]
    assert lines[-1] == "model: 22 parameters and buffers; all: 29 values, 112 B"


def test_show_of_little(tmp_path: Path, run: Run) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(None, step=0, name="a")
    manager.save(torch.ones(2, 2), step=0, name="b")
    manager.save({"a": {"model": {"w": torch.ones(1)}}}, step=0, name="c")
    lines = run(tmp_path, "show", "a").splitlines()
    assert [line.split()[0] for line in lines[:-2]] == [
        *("a", "step", "epoch", "saved", "size", "versions")
    ]
    assert lines[-2:] == ["", "all: 0 values, 0 B"]
    assert run(tmp_path, "show", "b").splitlines()[-5:] == [
        "",
        "state  dtype    shape   values  size",
        "state  float32  [2, 2]       4  16 B",
        "",
        "all: 4 values, 16 B",
    ]
    assert run(tmp_path, "show", "c").splitlines()[-1] == "all: 1 values, 4 B"


def test_show_does_not_read_tensors(
    directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(directory / NAMES[0] / "tensors.safetensors")
    assert run(directory, "show", NAMES[0]).endswith("all: 250,000 values, 1.00 MB\n")


def test_show_refuses(directory: Path, fail: Run) -> None:
    assert fail(directory, "show", "latest", "--depth", "0") == (
        "--depth must be a positive int, or None, got 0"
    )
    first, second, third = (directory / name for name in NAMES)
    flip(first / "state.json", 5)
    assert fail(directory, "show", NAMES[0]) == (
        f"{first}/state.json is damaged: it has another checksum"
    )
    header = second / "tensors.safetensors"
    data = header.read_bytes()
    header.write_bytes(data.replace(b'"F32"', b'"F3x"'))
    message = fail(directory, "show", NAMES[1])
    assert message.startswith(f"{header} is damaged: Error while deserializing header")
    # A type that the format has, and no checkpoint.
    changed = data.replace(b'"F32","shape":[250000]', b'"F4","shape":[2000000]')
    assert len(changed) == len(data)
    header.write_bytes(changed)
    assert fail(directory, "show", NAMES[1]) == f"{header} is damaged: it has dtype 'F4'"
    header = third / "tensors.safetensors"
    header.write_bytes(header.read_bytes().replace(b"model.weight", b"model.weighs"))
    assert fail(directory, "show", NAMES[2]).startswith(
        f"{third}/state.json is damaged at 'model.weight': there is no tensor 'model.weight'"
    )


# Prune


def test_prune_is_a_dry_run_by_default(directory: Path, run: Run) -> None:
    manager = CheckpointManager(directory, keep_last=None)
    manager.save(state_of(4), step=40)
    manager.save(state_of(5), step=50)
    before = content(directory)
    words = [directory, "prune", "--keep-last", 1, "--keep-every", 20]
    assert run(*words) == text(
        """
        keeping the last 1, the best, multiples of 20 steps and the pinned
        would remove 1 of 5 checkpoints, 1.00 MB:
          step_00000030
        nothing was removed; --yes removes
        """
    )
    assert content(directory) == before
    assert run(*words, "--yes") == text(
        """
        keeping the last 1, the best, multiples of 20 steps and the pinned
        removed 1 of 5 checkpoints, 1.00 MB:
          step_00000030
        """
    )
    assert not (directory / NAMES[2]).exists()
    assert [manifest.step for manifest in manager.checkpoints()] == [50, 40, 20, 10]
    assert run(*words, "--yes") == text(
        """
        keeping the last 1, the best, multiples of 20 steps and the pinned
        nothing to remove of 4 checkpoints
        """
    )


@pytest.mark.parametrize(
    ("words", "kept", "rules"),
    [
        ("", "5 4 3 2 1", "the last 3, the best and the pinned"),
        ("--keep-last 1", "5 2 1", "the last 1, the best and the pinned"),
        ("--keep-last 1 --keep-best 2", "5 2 1", "the last 1, the 2 best and the pinned"),
        (
            "--keep-last 1 --keep-best 2 --metric val_loss",
            "5 3 2 1",
            "the last 1, the 2 best by 'val_loss' (min) and the pinned",
        ),
        (
            "--keep-last 1 --metric train_loss --mode max",
            "5 3 1",
            "the last 1, the best by 'train_loss' (max) and the pinned",
        ),
        (
            "--keep-last 1 --keep-every 40",
            "5 4 2 1",
            "the last 1, the best, multiples of 40 steps and the pinned",
        ),
    ],
)
def test_prune_keeps_what_the_rules_say(
    directory: Path, run: Run, words: str, kept: str, rules: str
) -> None:
    manager = CheckpointManager(directory, keep_last=None)
    for i in (4, 5):
        manager.save(state_of(i), step=10 * i)
    if "train_loss" not in words:
        # With the third one unpinned and the first one still pinned.
        manager.pin(NAMES[2])
        manager.unpin(NAMES[2])
    told = run(directory, "prune", *words.split()).splitlines()
    assert told[0] == f"keeping {rules}"
    names = [line[2:] for line in told if line.startswith("  ")]
    removed = [f"step_000000{i}0" for i in (5, 4, 3, 2, 1) if str(i) not in kept]
    if words == "":
        assert names == removed == []
        return
    assert names == removed
    run(directory, "prune", *words.split(), "--yes")
    left = " ".join(str(manifest.step // 10) for manifest in manager.checkpoints())
    assert left == kept


def test_prune_refuses_to_remove_the_best_by_mistake(directory: Path, fail: Run) -> None:
    message = (
        "'step_00000020' was saved as the best by 'val_loss', and these rules would remove it; "
        "give the right --metric and --mode, or pin it"
    )
    words = [directory, "prune", "--keep-last", "1", "--metric", "val_loss", "--mode", "max"]
    assert fail(*words) == message
    assert fail(*words, "--yes") == message
    assert fail(directory, "prune", "--metric", "acc") == (
        f"no checkpoint in {directory} has a finite 'acc'; their metrics are: train_loss, val_loss"
    )
    assert len(CheckpointManager(directory).checkpoints()) == 3


def test_prune_refuses_rules_and_damaged_pins(directory: Path, fail: Run) -> None:
    assert fail(directory, "prune", "--keep-last", "0") == (
        "keep_last must be a positive int, or None, got 0"
    )
    (directory / "pinned.json").write_text("{}")
    before = content(directory)
    assert fail(directory, "prune", "--keep-last", "1", "--yes") == (
        f"{directory}/pinned.json is damaged: it has no checksum; remove it, and pin again what "
        "is to stay"
    )
    assert content(directory) == before


def test_prune_needs_no_best(tmp_path: Path, run: Run) -> None:
    manager = CheckpointManager(tmp_path, keep_last=None)
    for step in (1, 2):
        manager.save(step, step=step)
    run(tmp_path, "prune", "--keep-last", "1", "--yes")
    assert [manifest.step for manifest in manager.checkpoints()] == [2]


def test_prune_leaves_damaged_ones_alone(directory: Path, run: Run) -> None:
    flip(directory / NAMES[0] / "manifest.json")
    assert run(directory, "prune", "--keep-last", "1") == text(
        """
        keeping the last 1, the best and the pinned
        nothing to remove of 2 checkpoints
        left alone, as they cannot be read: step_00000010
        """
    )


def test_prune_tells_what_was_removed_in_the_end(
    directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(directory, keep_last=None)
    manager.save(state_of(4), step=40)
    prune = CheckpointManager.prune

    def first_save(self: CheckpointManager, dry_run: bool = False) -> list[Path]:
        manager.save(state_of(5), step=50)
        return prune(self, dry_run)

    monkeypatch.setattr(CheckpointManager, "prune", first_save)
    lines = run(directory, "prune", "--keep-last", "1", "--yes").splitlines()
    assert lines[2:] == ["  step_00000040", "  step_00000030"]


# Pin and unpin


def test_pin_and_unpin(directory: Path, run: Run, fail: Run) -> None:
    def pinned() -> list[str]:
        return [line.split()[0] for line in run(directory).splitlines() if "pinned" in line]

    assert run(directory, "pin", "latest") == f"pinned {NAMES[2]}\n"
    assert run(directory, "pin", "best") == f"pinned {NAMES[1]}\n"
    assert pinned() == [NAMES[2], NAMES[1], NAMES[0]]
    assert run(directory, "unpin", NAMES[0]) == f"unpinned {NAMES[0]}\n"
    assert run(directory, "unpin", "latest") == f"unpinned {NAMES[2]}\n"
    assert pinned() == [NAMES[1]]
    shutil.rmtree(directory / NAMES[1])
    assert run(directory, "unpin", NAMES[1]) == f"unpinned {NAMES[1]}\n"
    assert json.loads((directory / "pinned.json").read_bytes())["pinned"] == []
    flip(directory / NAMES[0] / "manifest.json")
    assert fail(directory, "pin", NAMES[0]) == (
        f"{directory / NAMES[0]}/manifest.json is damaged: its checksum is wrong"
    )


def test_a_checkpoint_that_was_saved_pinned_can_be_unpinned(tmp_path: Path, run: Run) -> None:
    CheckpointManager(tmp_path).save(1, step=1, is_pinned=True)
    assert "latest pinned" in run(tmp_path)
    run(tmp_path, "unpin", "latest")
    assert "pinned" not in run(tmp_path)
    # Another one of that name is another one.
    CheckpointManager(tmp_path).save(1, step=1, is_pinned=True)
    assert "latest pinned" in run(tmp_path)


# Export


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator))
        for _ in range(count)
    ]


def predict(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = model.eval()(batches()[0][0])
    return output


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Trainer, Path]:
    """A trainer of a model with tied weights and its directory with a checkpoint."""
    config = TrainingConfig(epochs=2, learning_rate=0.1, average_decay=0.5, progress=False)
    model = Tied()
    directory = tmp_path / "runs"
    trainer = Trainer(model, config, batches(), loss=nn.functional.mse_loss, checkpoints=directory)
    trainer.train()
    return trainer, directory


@pytest.mark.parametrize("is_average", [False, True])
def test_export(trained: tuple[Trainer, Path], run: Run, is_average: bool) -> None:
    trainer, directory = trained
    file = directory / "w.safetensors"
    words = ["--average"] if is_average else []
    printed = run(directory, "export", "latest", file, *words)
    noun = "averages" if is_average else "tensors"
    size = size_text(file.stat().st_size)
    assert printed == f"wrote 7 {noun} of step_00000008 to {file}, {size}\n"
    weights = safetensors.torch.load_file(file)
    model = Tied(seed=1)
    assert weights.keys() == model.state_dict().keys()
    assert not torch.equal(predict(model), predict(trainer.model))
    model.load_state_dict(weights)
    assert trainer.average is not None
    expected = {False: predict(trainer.model)}
    with trainer.average.swap():
        expected[True] = predict(trainer.model)
    assert not torch.equal(expected[True], expected[False])
    assert torch.equal(predict(model), expected[is_average])
    assert torch.equal(weights["first.weight"], weights["last.weight"])
    assert weights["norm.num_batches_tracked"].dtype == torch.int64


def test_export_keeps_types_and_shapes(tmp_path: Path, run: Run) -> None:
    model = {
        "a": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "b": torch.zeros(0, 3),
        "c": torch.arange(6).reshape(2, 3).T,
        "d": torch.tensor(True),
    }
    CheckpointManager(tmp_path).save({"model": model}, step=1)
    run(tmp_path, "export", "latest", tmp_path / "w")
    weights = safetensors.torch.load_file(tmp_path / "w")
    assert {name: (t.dtype, t.shape, t.tolist()) for name, t in weights.items()} == {
        name: (t.dtype, t.shape, t.tolist()) for name, t in model.items()
    }


def test_export_does_not_overwrite(directory: Path, run: Run, fail: Run, tmp_path: Path) -> None:
    file = tmp_path / "w"
    file.write_text("mine")
    words = [directory, "export", NAMES[1], file]
    assert fail(*words) == f"{file} exists; --force replaces it"
    assert file.read_text() == "mine"
    run(*words, "--force")
    assert safetensors.torch.load_file(file)["weight"].tolist() == [2.0] * 250_000
    file.unlink()
    file.symlink_to("nowhere")
    assert fail(*words) == f"{file} exists; --force replaces it"
    run(*words[:2], "--force", *words[2:])
    assert not file.is_symlink()
    assert (
        fail(directory, "export", "latest", directory, "--force") == f"{directory} is a directory"
    )
    assert fail(directory, "export", "latest", tmp_path / "x" / "w") == (
        f"there is no directory {tmp_path / 'x'}"
    )
    place = directory / NAMES[0]
    assert fail(place, "export", place / "w") == (
        f"{place}/w would be a file too many in a checkpoint; write it elsewhere"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "w"}


def test_export_is_atomic_and_durable(
    directory: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def note(name: str, operate: Callable[..., Any], *args: Any) -> Any:
        if name == "create":
            # A manager that is at work there would remove it.
            assert not args[0].name.startswith(".saving-")
        if done[-1:] != [name]:
            done.append(name)
        return operate(*args)

    for name in ("create", "write", "sync", "close", "rename", "sync_directory"):
        operate = functools.partial(note, name, getattr(storage, name))
        monkeypatch.setattr(storage, name, operate)
    file = tmp_path / "out" / "w"
    file.parent.mkdir()
    before = os.umask(0o027)
    try:
        run(directory, "export", "latest", file)
    finally:
        os.umask(before)
    # The first close is that of what was read.
    assert done == ["close", "create", "write", "sync", "close", "rename", "sync_directory"]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["w"]


@pytest.mark.parametrize("operation", ["create", "write", "sync", "close", "rename"])
def test_export_that_fails_leaves_the_old_file(
    directory: Path, fail: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    file = tmp_path / "w"
    file.write_text("old")
    operate = getattr(storage, operation)

    def refuse(*args: Any) -> Any:
        if operation == "close":
            operate(*args)
            if not list(tmp_path.glob(".w.*")):
                return
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, operation, refuse)
    message = f"[Errno 28] No space left on device: '{file}'"
    assert fail(directory, "export", "latest", file, "--force") == message
    assert file.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "w"}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.ones(1)], "has no model: its state has no dict 'model' of tensors"),
        ({"models": {}}, "has no model: its state has no dict 'model' of tensors"),
        ({"model": {}}, "has no model: its state has no dict 'model' of tensors"),
        (
            {"model": {"a": torch.ones(1), "b": {"c": 1}}},
            "has a model with 'b' of type dict, which a file of tensors cannot hold",
        ),
        (
            {"model": {3: torch.ones(1)}},
            "has a model with 3 of type Tensor, which a file of tensors cannot hold",
        ),
    ],
)
def test_export_needs_a_model(tmp_path: Path, fail: Run, state: Any, message: str) -> None:
    path = CheckpointManager(tmp_path).save(state, step=1)
    assert fail(tmp_path, "export", "latest", tmp_path / "w") == f"{path} {message}"
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("average", "message"),
    [
        (None, "has no average of the weights; export without --average"),
        ({"updates": 3}, "has no average of the weights; export without --average"),
        ({"averages": {"a": torch.zeros(1)}}, "has no average of 'b'"),
        ({"averages": {"a": torch.zeros(1), "b": 1}}, "has no average of 'b'"),
    ],
)
def test_export_needs_an_average(tmp_path: Path, fail: Run, average: Any, message: str) -> None:
    state = {"model": {"a": torch.ones(1), "b": torch.ones(1)}, "average": average}
    path = CheckpointManager(tmp_path).save(state, step=1)
    words = [tmp_path, "export", "latest", tmp_path / "w", "--average"]
    assert fail(*words) == f"{path} {message}"


def test_export_verifies(directory: Path, fail: Run, tmp_path: Path) -> None:
    flip(directory / NAMES[1] / "tensors.safetensors")
    message = fail(directory, "export", "best", tmp_path / "w")
    assert message.startswith(
        f"{directory / NAMES[1]}/tensors.safetensors is damaged: tensor 'model.weight' has "
    )
    assert not (tmp_path / "w").exists()


# The command line itself


def test_help_names_all_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["checkpoints", "--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("usage: python -m hotloop checkpoints [-h] DIR action ...")
    actions = re.findall(r"^    (\w+) ", output, re.MULTILINE)
    assert actions == ["list", "verify", "show", "prune", "pin", "unpin", "export"]


def test_control_c_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_actions, "verify_checkpoint", interrupt)
    assert cli.main(["checkpoints", str(directory), "verify"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_enough_is_no_error() -> None:
    program = "from hotloop import cli; cli.info.describe = lambda: 'x'; exit(cli.main(['info']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=(pipe := os.pipe())[1],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(hotloop.__file__).parents[1])},
    )
    for fd in pipe:
        os.close(fd)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


def test_a_command_imports_only_what_it_needs() -> None:
    program = """
import sys
from hotloop.cli import main
assert "torch" not in sys.modules
main(["info"])
names = ("rich", "safetensors", "hotloop.checkpoint", "hotloop.schedulers", "hotloop.loops")
print([name for name in names if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(hotloop.__file__).parents[1])},
    )
    assert result.stderr == "[]\n"
    assert "\nhotloop " in result.stdout


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567_890, "1.23 GB"),
        (5 * 10**12, "5.00 TB"),
        (12_345 * 10**12, "12345 TB"),
    ],
)
def test_sizes(size: int, expected: str) -> None:
    assert size_text(size) == expected


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        ("2026-03-01T22:58:59.123456+00:00", "2026-03-02 00:58"),
        ("soon", "soon"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_times(created: str, expected: str) -> None:
    assert local_time(created) == expected


def test_texts_are_escaped() -> None:
    assert styled("a\x1b[31m\u202eé[b]").plain == r"a\x1b[31m\u202eé[b]"
