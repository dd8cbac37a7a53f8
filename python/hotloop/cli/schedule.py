"""`schedule`: the curve of a schedule as a table and a chart."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "show_schedule"]


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("schedule", help="print a schedule as a table and a chart")
    parser.add_argument(
        "spec", help="a name such as cosine, a JSON spec, or the path of a file that holds one"
    )
    parser.add_argument("--steps", type=int, help="length of the run (default: its own, or 100)")
    parser.add_argument("--lr", type=float, default=1.0, help="initial learning rate")
    parser.add_argument("--warmup", type=_length, default=0, help="steps, or a fraction as 0.03")
    parser.add_argument("--rows", type=int, default=11, help="rows of the table")
    parser.add_argument("--plot", help="also draw it to this PNG, PDF or SVG file")
    parser.set_defaults(run=lambda options: [show_schedule(options)])


def show_schedule(options: argparse.Namespace) -> str:
    """Return a schedule as a table and a chart.

    Args:
        options: The words after `schedule`.

    Raises:
        ValueError: If the spec is none, or a number is out of range.
    """
    from hotloop.schedulers import chart, create_schedule, plot

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
