"""The Python examples as a user runs them, and the twins in plain torch beside them."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from hotloop import backend
from hotloop.callbacks import Callback, TrainState
from hotloop.losses import CrossEntropy

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"
BY_FEATURE = sorted(path.stem for path in (EXAMPLES / "by_feature").glob("*.py"))


@pytest.fixture(autouse=True)
def _one_thread(_two_threads: None) -> Iterator[None]:
    # The models are small, and threads that wait for each other suffer on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class RecordLoss(Callback):
    """Keeps the loss of each update."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step_end(self, state: TrainState) -> None:
        assert state.loss is not None
        self.losses.append(float(state.loss))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an example as a program, in this process, and returns what it printed."""

    def run(name: str, *arguments: str) -> str:
        path = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digits_losses(model: str, epochs: int) -> tuple[list[float], list[float]]:
    ours, theirs = load("digits"), load("digits_torch")
    record = RecordLoss()
    torch.manual_seed(0)
    ours.train(ours.make_model(model), epochs, [record])
    torch.manual_seed(0)
    losses, _ = theirs.train(theirs.make_model(model), epochs)
    return record.losses, losses


def language_model_losses(*arguments: str) -> tuple[list[float], list[float]]:
    ours, theirs = load("language_model"), load("language_model_torch")
    record = RecordLoss()
    ours.train(ours.parse(["--small", *arguments]), [record])
    *_, losses = theirs.train(theirs.parse(["--small", *arguments]))
    return record.losses, losses


def differences(ours: list[float], theirs: list[float]) -> list[float]:
    return [abs(mine - other) / other for mine, other in zip(ours, theirs, strict=True)]


# The headline of what each example says when it does what its docstring promises.
SAID: dict[str, str | Callable[[str], bool]] = {
    "accumulation": lambda out: float(out.split()[-1]) < 1e-6,
    "checkpoints": r"lost: injected after 90 updates(?s:.*)equal weights: True\nequal losses: True",
    "clipping_and_averaging": r"4 averaged tensors",
    "config_file": r"refused: unknown setting 'learning_rte' \(did you mean 'learning_rate'",
    "early_stopping": lambda out: (
        re.search(r"best (\S+)$", out, re.MULTILINE)[1] == out.split()[-1]  # type: ignore[index]
    ),
    "manual_loop_gan": lambda out: (
        abs(float(re.search(r"mean (\S+)", out)[1]) - 2) < 0.5  # type: ignore[index]
        and float(re.search(r"by epoch: \[(\S+),", out)[1]) > 0.5  # type: ignore[index]
    ),
    "mixed_precision": r"bf16: loss \S+, outputs torch.bfloat16, parameters torch.float32",
    "own_callback": r"8 batches to an update\nstopped: the batches are as large as they may be",
    "own_step": lambda out: float(out.split()[-1]) < 0.02,
    "predict": lambda out: float(out.split("\n")[-2].split("%")[0]) > 90,
    "schedules": r"step 200: lr 0.00050, weight decay 0.00000",
    "several_validation_loaders": r"clean: accuracy \[(0.\d+, ){7}0.9\d+\]",
    "skip_bad_batches": r"left out by epoch: \[1.0, 1.0, 1.0, 1.0, 1.0\]",
}


def test_each_feature_has_its_check() -> None:
    assert sorted(SAID) == BY_FEATURE


@pytest.mark.parametrize("name", BY_FEATURE)
def test_feature_does_what_its_docstring_promises(run: Callable[..., str], name: str) -> None:
    out = run(f"by_feature/{name}")
    said = SAID[name]
    assert re.search(said, out) if isinstance(said, str) else said(out), out


@pytest.mark.parametrize("twin", ["", "_torch"])
def test_digits_take_both_models(run: Callable[..., str], twin: str) -> None:
    out = run(f"digits{twin}", "--model", "mlp", "--epochs", "3")
    assert re.search(r"^validation accuracy 9\S+% after 3 epochs", out, re.MULTILINE), out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("twin", ["", "_torch"])
def test_language_model_writes(run: Callable[..., str], twin: str, precision: str) -> None:
    out = run(f"language_model{twin}", "--small", "--steps", "40", "--precision", precision)
    found = [float(value) for value in re.findall(r"validation perplexity (\S+)", out)]
    assert len(found) == 5
    assert found[0] > found[1] > found[3] == found[4]
    assert len(out) > 400


@pytest.mark.parametrize("twin", ["", "_torch"])
def test_regression_stops_and_keeps_its_best_weights(run: Callable[..., str], twin: str) -> None:
    out = run(f"regression{twin}")
    assert "stopped: " in out
    match = re.search(r"best validation loss (\S+), (\d+)% of the variance", out)
    assert match is not None, out
    assert int(match[2]) >= 30
    rate = re.search(r"learning rate (\S+)", out)
    assert rate is not None
    assert float(rate[1]) < 3e-3


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_digits_have_the_bits_of_their_twin(model: str) -> None:
    ours, theirs = digits_losses(model, epochs=5)
    assert len(ours) == 225
    assert ours == theirs


def test_regression_has_the_bits_of_its_twin() -> None:
    ours, theirs = load("regression"), load("regression_torch")
    record = RecordLoss()
    model, history = ours.train(100, [record])
    twin, losses = theirs.train(100)
    assert len(losses) >= 200
    assert record.losses == losses
    assert history.stop_reason is not None
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_language_model_has_the_numbers_of_its_twin_without_clipping(precision: str) -> None:
    arguments = "--steps", "200", "--accumulate", "1", "--clip-norm", "inf"
    ours, theirs = language_model_losses(*arguments, "--precision", precision)
    assert len(ours) == 200
    if backend.current().name == "torch":
        assert ours == theirs
    else:
        # The kernels' loss rounds otherwise, which bfloat16 makes more of.
        assert max(differences(ours, theirs)) < (1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_digits_have_the_numbers_of_their_twin_with_our_loss(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load("digits")
    record = RecordLoss()
    with monkeypatch.context() as patch:
        patch.setattr(nn, "CrossEntropyLoss", lambda: CrossEntropy(reduction="mean"))
        torch.manual_seed(0)
        ours.train(ours.make_model(model), 5, [record])
    theirs = load("digits_torch")
    torch.manual_seed(0)
    losses, _ = theirs.train(theirs.make_model(model), 5)
    assert len(losses) == 225
    assert max(differences(record.losses, losses)) < 1e-5


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_language_model_has_the_numbers_of_its_twin_with_clipping(accumulate: int) -> None:
    arguments = "--steps", "100", "--accumulate", str(accumulate), "--clip-norm", "0.5"
    ours, theirs = language_model_losses(*arguments)
    assert len(ours) == 100
    assert max(differences(ours, theirs)) < 1e-6


def test_code_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It saves checkpoints in the current directory.
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "training.md", "exec"), names)
    assert names["history"]["val_loss"][-1] < 0.1


def test_code_of_the_docs_on_metrics_runs() -> None:
    text = (EXAMPLES.parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 10
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "metrics.md", "exec"), names)
    assert 0 < names["values"]["f1"] < 1
