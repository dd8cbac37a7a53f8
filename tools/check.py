"""Run every check but the tests: `make check`.

Prints one line per step with its time, then what each failed step said. All steps run,
whichever fails; the exit code is 1 if any did.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import kernels

ROOT = kernels.ROOT
TOOLS = Path(sys.executable).parent
MOJO_FOLDERS = ("shared", "tests", "benchmarks", "examples")

Command = list[str]


def steps(folder: Path) -> Iterator[tuple[str, Command]]:
    """Yield the name and the command of each step.

    Args:
        folder: Where built files go.
    """
    python, mojo = sys.executable, tool("mojo")
    sources = [path for name in MOJO_FOLDERS for path in sorted((ROOT / name).rglob("*.mojo"))]
    yield "ruff check", [tool("ruff"), "check", "--quiet", "."]
    yield "ruff format", [tool("ruff"), "format", "--check", "--quiet", "."]
    yield "mypy", [tool("mypy"), "--strict", "--no-error-summary", "--package", "hotloop"]
    yield "import layers", [tool("lint-imports")]
    yield "mblack", [tool("mblack"), "--check", "-t", "mojo", *map(str, sources)]
    yield (
        "mojo doc",
        [
            *(mojo, "doc", "--diagnose-missing-doc-strings", "--Werror"),
            *("-I", ".", "-o", str(folder / "doc.json"), "shared/training"),
        ],
    )
    if kernels.can_build():
        build = f"import kernels, pathlib; kernels.build(pathlib.Path({str(folder)!r}))"
        yield "build the extension", [python, "-c", build]
    for path in sorted((ROOT / "examples" / "mojo").glob("*.mojo")):
        # An object file shows every warning and needs no linker.
        target = str(folder / f"{path.stem}.o")
        command = [mojo, "build", "--Werror", "--emit", "object", "-I", "."]
        name = str(path.relative_to(ROOT))
        yield f"build {name}", [*command, name, "-o", target]


def tool(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    return str(TOOLS / name)


def run(command: Command, environment: dict[str, str]) -> str | None:
    """Run a command and return what it printed if it failed, or None."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as error:
        return f"{error}: install the dev extra (`make build` does)"
    output = done.stdout.strip()
    return None if done.returncode == 0 else output or f"exit code {done.returncode}"


def main() -> int:
    """Run every step and return the exit code."""
    failures: dict[str, str] = {}
    count = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = kernels.environment(folder)
        paths = [str(ROOT / "python"), str(ROOT / "tools"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = ":".join(filter(None, paths))
        for step, command in steps(folder):
            count += 1
            start = time.perf_counter()
            failure = run(command, environment)
            seconds = time.perf_counter() - start
            print(
                f"{'ok    ' if failure is None else 'FAILED'}  {seconds:5.1f} s  {step}", flush=True
            )
            if failure is not None:
                failures[step] = failure
    for step, failure in failures.items():
        print(f"\n--- {step} ---\n{failure}")
    if failures:
        print(f"\n{len(failures)} of {count} checks failed: {', '.join(failures)}")
        return 1
    print(f"all {count} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
