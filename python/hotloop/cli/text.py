"""How the command line shows things: for people in a terminal, plainly for everything else."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["count_text", "local_time", "new_table", "render", "size_text", "styled"]


def render(*parts: RenderableType) -> str:
    """Return the text of tables and texts, one below the other.

    In a terminal there are colours and tables fit its width; elsewhere lines are whole.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    # Less than that is too narrow for tables; the terminal breaks their lines then.
    console.width = max(console.width, 80) if console.is_terminal else 1_000_000
    with console.capture() as capture:
        for part in parts:
            # Lines are broken by the terminal, so that what is copied from it is whole.
            console.print(part, soft_wrap=isinstance(part, Text))
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def new_table() -> Table:
    """Return a table without lines, to add columns and rows to."""
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")


def styled(text: str, style: str = "") -> Text:
    r"""Return a text in which control characters are escaped: "\x1b" is four characters.

    Args:
        text: The text, which a file may have brought.
        style: The colour, as rich names it.
    """
    from rich.text import Text

    return Text(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), style
    )


def size_text(size: int) -> str:
    """Return a number of bytes in three digits, such as "1.20 GB"."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    units = ["kB", "MB", "GB", "TB"]
    while True:
        value /= 1000
        unit = units.pop(0)
        if value < 999.5 or not units:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def count_text(count: int, noun: str) -> str:
    """Return a number of things, such as "1 tensor" or "1,234 tensors"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def local_time(created: str) -> str:
    """Return a time in ISO format by the clock of this place, to the minute."""
    try:
        return datetime.datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return created
