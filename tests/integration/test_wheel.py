"""The wheel as a user gets it: built from the sources, and run from a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hotloop import backend

ROOT = Path(__file__).resolve().parents[2]
SIZE_MAX = 1_500_000
LEVELS = [level for level, needed in backend.CPU_LEVELS.items() if needed <= backend.cpu_flags()]
#: What hatchling reads of the checkout, and the rest of what the sources consist of.
SOURCES = ("python", "shared", "tools", "tests")
FILES = (".gitignore", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")

STEP = """
from pathlib import Path
import hotloop, torch
from hotloop import backend
from hotloop.optimizers import AdamW

params = [torch.linspace(-1, 1, 1000).requires_grad_() for _ in range(2)]
optimizers = [AdamW(params[:1]), torch.optim.AdamW(params[1:], fused=True)]
for param, optimizer in zip(params, optimizers):
    (param ** 2).sum().backward()
    optimizer.step()
print(Path(hotloop.__file__).parent.parent)
print(backend.current().name, backend.current().cpu_level, torch.equal(*params))
"""


@pytest.fixture(scope="module", autouse=True)
def _once() -> None:
    if backend.current().name != "native" or backend.current().cpu_level != LEVELS[0]:
        pytest.skip("the wheel is the same on every backend: tested on the best one")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without anything built before."""
    copy = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__", "_kernels.*", ".*_cache")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
        else:
            (copy / name).write_text("To be written.\n")
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", *options, "--wheel-dir", str(target)],
        cwd=sources,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


def test_tag_fits_every_python_on_this_platform(wheel: Path) -> None:
    name = r"hotloop-[\d.]+-py3-none-manylinux_2_\d+_x86_64\.whl"
    assert re.fullmatch(name, wheel.name)


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < SIZE_MAX


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = {n.partition("/")[2]: archive.read(n) for n in names if ".dist-info/" in n}
    assert len(names) == len(set(names))
    files = {name for name in names if ".dist-info/" not in name}
    sources = (ROOT / "python").rglob("*")
    package = {str(path.relative_to(ROOT / "python")) for path in sources if path.suffix == ".py"}
    kernels = {f"hotloop/_kernels.{end}" for end in ("v3.so", "v4.so", "json")}
    assert files == package | kernels | {"hotloop/py.typed"}
    assert "licenses/LICENSE" in metadata
    assert b"Tag: py3-none-manylinux" in metadata["WHEEL"]
    assert b"Root-Is-Purelib: false" in metadata["WHEEL"]
    assert b"License-Expression: Apache-2.0" in metadata["METADATA"]


def test_source_distribution_holds_sources_only(sources: Path, tmp_path: Path) -> None:
    code = f"import hatchling.build; print(hatchling.build.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True)
    (built,) = tmp_path.iterdir()
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in names if "_kernels." in name or name.startswith("tests")]
    needed = {"hatch_build.py", "tools/kernels.py", "python/hotloop/py.typed", "LICENSE"}
    needed |= {str(path.relative_to(ROOT)) for path in (ROOT / "shared").rglob("*.mojo")}
    assert needed - names == set()


@pytest.mark.parametrize("level", LEVELS)
def test_unpacked_wheel_trains_on_the_kernels(wheel: Path, tmp_path: Path, level: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOTLOOP_")}
    environment |= {
        "PYTHONPATH": str(tmp_path / "site"),
        "HOTLOOP_BACKEND": "native",
        "HOTLOOP_CPU": level,
    }
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [str(tmp_path / "site"), f"native {level} True"]
