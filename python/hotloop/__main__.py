"""The command line of `python -m hotloop`.

`info` tells what hotloop runs on, and why; `schedule` shows the curve of a schedule.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import hotloop
from hotloop import backend
from hotloop.errors import BackendError
from hotloop.schedulers import chart, create_schedule, plot


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after the program's name; those of this process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hotloop", description="Training for PyTorch with Mojo kernels."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    info = commands.add_parser("info", help="tell which backend runs here, and why")
    info.set_defaults(run=lambda options: describe())
    schedule = commands.add_parser("schedule", help="print a schedule as a table and a chart")
    schedule.add_argument(
        "spec", help="a name such as cosine, a JSON spec, or the path of a file that holds one"
    )
    schedule.add_argument("--steps", type=int, help="length of the run (default: its own, or 100)")
    schedule.add_argument("--lr", type=float, default=1.0, help="initial learning rate")
    schedule.add_argument("--warmup", type=_length, default=0, help="steps, or a fraction as 0.03")
    schedule.add_argument("--rows", type=int, default=11, help="rows of the table")
    schedule.add_argument("--plot", help="also draw it to this PNG, PDF or SVG file")
    schedule.set_defaults(run=show_schedule)
    options = parser.parse_args(arguments)
    try:
        report = options.run(options)
    except (BackendError, ImportError, OSError, TypeError, ValueError) as error:
        print(f"hotloop: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def show_schedule(options: argparse.Namespace) -> str:
    """Return a schedule as a table and a chart.

    Args:
        options: The words after `schedule`.

    Raises:
        ValueError: If the spec is none, or a number is out of range.
    """
    if options.rows < 2:
        raise ValueError(f"--rows must be at least 2, got {options.rows}")
    spec = _read_spec(options.spec)
    given = spec.pop("total", None) if isinstance(spec, dict) else None
    schedule = create_schedule(spec, warmup=options.warmup)
    steps = options.steps if options.steps is not None else given or schedule.length or 100
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps!r}")
    schedule = schedule.resolve(steps)
    rows = min(options.rows, steps)
    chosen = [round(i * (steps - 1) / max(rows - 1, 1)) for i in range(rows)]
    lines = [f"{'step':>10}  {'factor':>12}  {'lr':>12}"]
    for step in chosen:
        factor = schedule.value(step)
        lines.append(f"{step:>10}  {factor:>12.6g}  {factor * options.lr:>12.6g}")
    if options.plot:
        plot(schedule, steps, options.lr)
        from matplotlib import pyplot

        pyplot.savefig(options.plot, dpi=150)
    return "\n".join([*lines, "", chart(schedule, steps)])


def _length(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _read_spec(text: str) -> Any:
    if Path(text).is_file():
        text = Path(text).read_text(encoding="utf-8")
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the spec is not JSON: {error}") from error


def describe() -> str:
    """Return what a bug report should hold: backend, versions and CPU."""
    return "\n".join(
        [
            backend.describe(),
            f"hotloop {hotloop.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
            *_describe_cpu(),
        ]
    )


def _describe_cpu() -> list[str]:
    flags = backend.cpu_flags()
    lines = []
    for level, needed in backend.CPU_LEVELS.items():
        missing = needed - flags
        found = " ".join(sorted(needed & flags)) or "no flag"
        lacking = f"; lacks {' '.join(sorted(missing))}" if missing else ""
        lines.append(f"CPU level {level}: {'no' if missing else 'yes'} (has {found}{lacking})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
