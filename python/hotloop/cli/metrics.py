"""`metrics`: what can be measured, with formulas, as the classes themselves say."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotloop.metrics import Metric

__all__ = ["Description", "add_parser", "describe", "descriptions"]

#: Where the first line of a docstring tells the range.
_RANGE = re.compile(r"\bin ([\[(][^\])]*[\])]|the range of the values)|\b(at (?:least|most) \S+)\b")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns):")


@dataclass(frozen=True)
class Description:
    """What the docstring and the attributes of a metric say.

    Attributes:
        name: The name of the class.
        text: The docstring.
        formula: Its first indented lines.
        range: Where values are, as its first line says; "" if it does not.
        better: "higher", "lower", or "" if neither is better.
        unit: The unit of values, "" for none.
    """

    name: str
    text: str
    formula: tuple[str, ...]
    range: str
    better: str
    unit: str


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("metrics", help="list the metrics with their formulas")
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one in full")
    parser.set_defaults(run=_run)


def descriptions() -> list[Description]:
    """Return the description of each metric, by name."""
    from hotloop import metrics

    found = (getattr(metrics, name) for name in sorted(metrics.__all__, key=str.lower))
    return [describe(each) for each in found if _is_metric(each)]


def describe(kind: type[Metric]) -> Description:
    """Return the description of a metric.

    Args:
        kind: Its class.
    """
    text = inspect.getdoc(kind) or ""
    match = _RANGE.search(text.partition("\n")[0])
    better = {True: "higher", False: "lower", None: ""}[kind.higher_is_better]
    return Description(
        name=kind.__name__,
        text=text,
        formula=_formula(text),
        range=(match[1] or match[2]).removeprefix("the range of the ") if match else "",
        better=better,
        unit=kind.unit,
    )


def _is_metric(value: Any) -> bool:
    from hotloop.metrics import Metric

    is_class = isinstance(value, type) and issubclass(value, Metric)
    return is_class and not inspect.isabstract(value)


def _formula(text: str) -> tuple[str, ...]:
    """Return the first indented lines of a docstring, outside of its sections."""
    lines: list[str] = []
    for line in text.splitlines():
        if _SECTION.match(line):
            break
        if line.startswith("    "):
            lines.append(line.strip())
        elif lines:
            break
    return tuple(lines)


def _run(options: argparse.Namespace) -> Iterator[str]:
    from hotloop.errors import unknown_name

    known = {each.name.lower(): each for each in descriptions()}
    if options.name is None:
        yield _table(list(known.values()))
        return
    if options.name.lower() not in known:
        names = [each.name for each in known.values()]
        raise ValueError(unknown_name("metric", options.name, names))
    yield _in_full(known[options.name.lower()])


def _table(rows: list[Description]) -> str:
    from rich.text import Text

    from hotloop.cli.text import new_table, render

    table = new_table()
    table.add_column("metric", no_wrap=True)
    table.add_column("range", no_wrap=True)
    table.add_column("better", no_wrap=True)
    table.add_column("formula")
    for row in rows:
        # Alignment is for reading in a docstring.
        lines = [re.sub(r" {2,}", "  ", line) for line in row.formula]
        table.add_row(row.name, row.range, row.better, Text("\n".join(lines)))
    return render(table)


def _in_full(row: Description) -> str:
    from rich.console import Console

    console = Console()
    better = {"higher": "higher is better", "lower": "lower is better"}.get(row.better, "")
    facts = ", ".join(filter(None, [better, row.unit and f"in {row.unit}"]))
    # In a terminal that is too narrow for the lines as they are written.
    text = _filled(row.text, console.width) if console.is_terminal else row.text
    return "\n".join([f"{row.name}{f' ({facts})' if facts else ''}", "", text])


def _filled(text: str, width: int) -> str:
    """Return a docstring with paragraphs of other lines, and formulas as they are."""
    import textwrap

    lines: list[str] = []
    in_section = False
    for block in text.split("\n\n"):
        in_section = in_section or _SECTION.match(block) is not None
        if lines:
            lines.append("")
        if block.startswith("    ") and not in_section:
            lines += block.splitlines()
            continue
        entries: list[str] = []
        for line in block.splitlines():
            # What goes on is deeper than the entry of a section, or not the first line.
            is_new = in_section and re.match(r" {0,4}\S", line)
            if entries and not is_new:
                entries[-1] += " " + line.strip()
            else:
                entries.append(line)
        for entry in entries:
            indent = " " * (len(entry) - len(entry.lstrip()))
            rest = indent + ("    " if indent else "")
            lines += textwrap.wrap(entry, width, subsequent_indent=rest) or [entry]
    return "\n".join(lines)
