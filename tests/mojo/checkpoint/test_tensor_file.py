"""Files that Mojo writes are read by the safetensors library, and the other way round."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).with_name("copy_tensors.mojo")

Copy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Runs `copy_tensors.mojo`."""
    program = tmp_path_factory.mktemp("mojo") / "copy_tensors"
    mojo = Path(sys.executable).parent / "mojo"
    command = [mojo, "build", "--Werror", "-I", ROOT, SOURCE, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def run(*paths: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *paths], capture_output=True, text=True)

    return run


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45]
    return {
        "a.weight": torch.randn(3, 4, generator=generator),
        "odd": torch.randn(5, generator=generator).to(torch.bfloat16),
        "double": torch.randn(2, 3, 1, 2, generator=generator, dtype=torch.float64),
        "whole": torch.tensor([-(2**63), 2**63 - 1, 0]),
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "empty": torch.empty(2, 0, 3),
        "special": torch.tensor(special),
        'name "with" \\ and\n\t\x01 äöü 🦆': torch.tensor([7]),
    }


def test_tensors_come_back_bit_for_bit(copy: Copy, tmp_path: Path) -> None:
    tensors = some_tensors()
    metadata = {"": "empty", 'a "b"\\\n\x1f': "ä€🦆", "json": json.dumps({"k": [1, "\u2028"]})}
    save_file(tensors, tmp_path / "a", metadata)
    done = copy(tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "b")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        size = tensor.element_size()
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
        assert torch.equal(found[name].view(kind), tensor.view(kind))
    with safetensors.safe_open(tmp_path / "b", "pt") as file:
        assert file.metadata() == metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_without_tensors_comes_back(copy: Copy, tmp_path: Path) -> None:
    save_file({}, tmp_path / "a")
    assert copy(tmp_path / "a", tmp_path / "b").returncode == 0
    assert load_file(tmp_path / "b") == {}


def test_torch_loads_a_run(copy: Copy, tmp_path: Path) -> None:
    done = copy(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    run = load_file(tmp_path / "run")
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in run.items() if k.startswith(prefix)}
    model.load_state_dict(state)
    outputs = load_file(tmp_path / "run.outputs")
    with torch.no_grad():
        torch.testing.assert_close(model(outputs["x"]), outputs["y"])
    assert run["optimizer.steps"].tolist() == [6.0] * 4
    assert run["history"].shape == (3, 5)
    for name, tensor in state.items():
        for index in range(2):
            assert run[f"optimizer.{name}.{index}"].shape == tensor.shape


def test_damaged_files_are_refused_or_read_as_the_library_does(copy: Copy, tmp_path: Path) -> None:
    content = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([3])}, {"k": "v"})
    generator = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice([1, 1, 3])):
            damaged[generator.randrange(len(damaged) - 32)] = generator.randrange(256)
        if generator.random() < 0.2:
            del damaged[generator.randrange(len(damaged)) :]
        (tmp_path / "a").write_bytes(damaged)
        done = copy(tmp_path / "a", tmp_path / "b")
        assert done.returncode in (0, 1), done.stderr
        try:
            theirs = load_file(tmp_path / "a")
        except Exception:
            theirs = None
        if done.returncode == 1:
            refused += 1
            assert f"cannot read {tmp_path / 'a'}: " in done.stderr
            continue
        # What is read here, the library reads as well.
        assert theirs is not None, bytes(damaged)
        ours = load_file(tmp_path / "b")
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor)
    assert refused > 75


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has 0 bytes, too few for a header's length"),
        (b"garbage", "it has 7 bytes"),
        (b"garbage that is longer", "the header should have|its header should have"),
        (struct.pack("<Q", 2**64 - 1), "the length of its header is out of range"),
        (struct.pack("<Q", 2) + b"[]", "its header does not begin with {"),
        (save({"a": torch.zeros(3, dtype=torch.float16)}), "dtype must be F32, F64, BF16 or I64"),
        (save({"a": torch.zeros(3)})[:-1], "tensor 'a' ends at byte 12 of 11"),
        (save({"a": torch.zeros(3)}) + b"\0", "leave a gap or overlap behind byte 12 of 13"),
    ],
)
def test_what_is_wrong_is_said(copy: Copy, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    done = copy(path, tmp_path / "b")
    assert done.returncode == 1
    assert f"cannot read {path}: " in done.stderr
    assert any(part in done.stderr for part in said.split("|")), done.stderr
    assert not (tmp_path / "b").exists()


def test_what_cannot_be_read_or_written_is_named(copy: Copy, tmp_path: Path) -> None:
    done = copy(tmp_path / "none", tmp_path / "b")
    assert f"cannot read {tmp_path / 'none'}: " in done.stderr
    assert f"cannot read {tmp_path}: " in copy(tmp_path, tmp_path / "b").stderr
    save_file({"a": torch.zeros(3)}, tmp_path / "a")
    done = copy(tmp_path / "a", tmp_path / "no" / "b")
    assert f"cannot write {tmp_path / 'no' / 'b'}: " in done.stderr
    (tmp_path / "folder").mkdir()
    done = copy(tmp_path / "a", tmp_path / "folder")
    assert f"cannot write {tmp_path / 'folder'}: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]
