"""The main job: the digits example as a user runs it, on this run's backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from hotloop import backend

EXAMPLE = Path(__file__).parents[2] / "examples" / "python" / "digits.py"


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits_reach_97_percent() -> None:
    out = run()
    chosen = backend.current()
    assert out.startswith(f"backend: {chosen.name} ({chosen.reason})")
    match = re.search(r"validation accuracy (\S+)% after 20 epochs on the (\w+) backend", out)
    assert match is not None, out
    assert float(match[1]) >= 97
    assert match[2] == chosen.name
    assert len(re.findall(r"^\d+/20 ", out, re.MULTILINE)) == 20


def test_backends_train_to_the_same_bits(tmp_path: Path) -> None:
    saved = tmp_path / "here.pt", tmp_path / "torch.pt"
    run("--epochs", "3", "--save", str(saved[0]))
    run("--epochs", "3", "--save", str(saved[1]), HOTLOOP_BACKEND="torch")
    here, there = (torch.load(path, weights_only=True) for path in saved)
    assert here.keys() == there.keys()
    for key, value in here.items():
        torch.testing.assert_close(value, there[key], rtol=0, atol=0)
