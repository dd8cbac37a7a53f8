"""Runs the Mojo package's own tests and examples, and checks which module imports which."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests" / "mojo").rglob("test_*.mojo"))
EXAMPLES = sorted((ROOT / "examples" / "mojo").glob("*.mojo"))
SOURCES = sorted((ROOT / "shared").rglob("*.mojo"))

# From the lowest up. A package imports itself and whatever lies below its layer, so
# that the packages of one layer never import each other.
LAYERS = (
    ("shared.training.core",),
    (
        "shared.training.checkpoint",
        "shared.training.losses",
        "shared.training.metrics",
        "shared.training.optimizers",
        "shared.training.schedulers",
    ),
    ("shared.training.models",),
    ("shared.training.callbacks",),
    ("shared.training.loops",),
    ("shared.bindings",),
)

# What only a few modules may import: Python has one door, and whatever uses Mojo's
# own threads needs its runtime, which the extension does without.
RESTRICTED = {
    "std.python": ("shared.bindings",),
    "max": ("shared.training.core.parallel_executor",),
    "shared.training.core.parallel_executor": (),
}

IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\S+)[ \t]+import[ \t]+(\([^)]*\)|.*)|import[ \t]+(\S+))")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _run(path: Path, *arguments: str) -> str:
    beside_python = Path(sys.executable).parent / "mojo"
    mojo = str(beside_python) if beside_python.exists() else shutil.which("mojo")
    if mojo is None:
        pytest.fail("no mojo beside this Python or on the PATH: install the dev extra")
    command = [mojo, "run", "--Werror", "-I", str(ROOT), "-I", str(ROOT / "tests" / "mojo")]
    command += [str(path), *arguments]
    # The compiler may have a word on its own cache or crash reports for stderr.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = f"{' '.join(command)} returned {done.returncode}:\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, said
    return done.stdout


def _imports(module: str, source: str, *, is_package: bool) -> Iterator[str]:
    """Yield the full names of what a module imports; a name for each imported name."""
    for line in re.finditer(IMPORT.pattern, source, re.MULTILINE):
        target, names, plain = line.groups()
        if plain is not None:
            yield plain
            continue
        dots = len(target) - len(target.lstrip("."))
        if dots:
            parts = module.split(".")
            above = dots - 1 if is_package else dots
            package = parts[: len(parts) - above]
            target = ".".join([*package, *filter(None, [target[dots:]])])
        for name in names.split("#")[0].strip("()").split(","):
            if name.strip():
                yield f"{target}.{name.split()[0]}"


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _layer(name: str) -> tuple[int, str] | None:
    for rank, packages in enumerate(LAYERS):
        for package in packages:
            if _is_within(name, package):
                return rank, package
    return None


def _violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    own = _layer(module)
    found = []
    for name in _imports(module, source, is_package=is_package):
        other = _layer(name)
        if _is_within(name, "shared") and own != other:
            if own is None or other is None:
                found.append(f"{module} imports {name}: one of them is in no layer")
            elif own[0] <= other[0]:
                found.append(f"{module} imports {name}, which is not below it")
        for restricted, allowed in RESTRICTED.items():
            if _is_within(name, restricted) and not any(_is_within(module, a) for a in allowed):
                found.append(f"{module} imports {name}, which is not for it")
    return found


def test_there_are_tests_and_examples() -> None:
    assert TESTS
    assert EXAMPLES
    assert SOURCES


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_mojo(path: Path) -> None:
    output = _run(path)
    summary = re.search(r"(\d+) passed , 0 failed , 0 skipped", output)
    assert summary, output
    written = re.findall(r"^def test_", path.read_text(), re.MULTILINE)
    assert int(summary[1]) == len(written), output


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """The digits as the example's own one-liner exports them."""
    source = (ROOT / "examples" / "mojo" / "digits.mojo").read_text()
    (program,) = re.findall(r'python -c "(.*?)"', source, re.DOTALL)
    command = [sys.executable, "-c", re.sub(r"\\\n\s*", "", program)]
    subprocess.run(command, cwd=tmp_path, check=True)
    return str(tmp_path / "digits.csv")


@pytest.mark.parametrize("path", EXAMPLES, ids=_name)
def test_example(path: Path, digits: str) -> None:
    lines = _run(path, *([digits] if path.stem == "digits" else [])).splitlines()
    assert lines
    if path.stem == "quadratic":
        assert [line.split()[:2] for line in lines] == [
            ["step", str(step)] for step in range(0, 201, 20)
        ]
        assert float(lines[-1].split("loss")[1]) < 1e-6
    if path.stem == "xor":
        rows = [[float(field) for field in line.split()] for line in lines[-4:]]
        assert [row[:3] for row in rows] == [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
        assert all(abs(row[3] - row[2]) < 0.02 for row in rows)
    if path.stem == "regression":
        rates = [float(line.split("lr")[1]) for line in lines[:-1]]
        assert rates.index(max(rates)) == 3
        assert rates[-1] < 1e-8
        assert float(lines[-1].split("R2")[1]) > 0.95
    if path.stem == "custom":
        assert re.match(r"val_loss \S+ after \d+ of 500 epochs", lines[0])
        assert float(lines[0].split()[1]) <= 1e-5
        inside = [line.split() for line in lines[4:8]]
        assert all(abs(float(wave) - float(output)) < 0.02 for _, wave, output in inside)
    if path.stem == "digits":
        accuracy = re.fullmatch(r"validation accuracy ([\d.]+) %, loss [\d.]+", lines[-1])
        assert accuracy
        assert float(accuracy[1]) >= 97


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports_go_down(path: Path) -> None:
    is_package = path.stem == "__init__"
    module = _name(path.parent if is_package else path)
    assert _violations(module, path.read_text(), is_package=is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("shared.training.core.driver", "from ..optimizers import SGD"),
        ("shared.training.core.driver", "from ..optimizers.sgd import SGD"),
        ("shared.training.core.driver", "from .. import optimizers"),
        ("shared.training.core.driver", "import shared.training.optimizers"),
        ("shared.training.core.driver", "def f():\n    from ..optimizers import SGD"),
        ("shared.training.core.driver", "from .parallel_executor import ParallelExecutor"),
        ("shared.training.core.driver", "from max.algorithm import parallelize"),
        ("shared.training.optimizers.sgd", "from shared.bindings.torch import Torch"),
        ("shared.training.optimizers.sgd", "from std.python import Python"),
        ("shared.training.optimizers.sgd", "from ..metrics import Accuracy"),
        ("shared.training", "from shared.training.core import update"),
        ("shared.bindings.plan", "from shared.training.core import (\n    parallel_executor,\n)"),
    ],
)
def test_imports_that_go_up_are_found(module: str, source: str) -> None:
    assert _violations(module, f'"""Text."""\n\n{source}\n')


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("shared.training.core.driver", "from .memory import (\n    Address,\n    words_at,\n)"),
        ("shared.training.core.driver", "from std.math import sqrt"),
        ("shared.training.optimizers.sgd", "from ..core import LaneUpdate, UpdateRule"),
        ("shared.bindings.plan", "from shared.training.optimizers import SGD  # the first"),
        ("shared.bindings.plan", "from std.python import Python"),
    ],
)
def test_imports_that_go_down_are_not(module: str, source: str) -> None:
    assert _violations(module, source) == []
