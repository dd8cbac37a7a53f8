"""Curves of schedules, as pictures and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotloop.schedulers.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chart", "plot"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def plot(schedule: Schedule, steps: int, initial: float = 1.0, ax: Axes | None = None) -> Axes:
    """Draw the value at each step with matplotlib.

    Args:
        schedule: The schedule.
        steps: How many steps to draw, at least 1; open lengths are of that run.
        initial: The initial value that the factors multiply.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plot needs matplotlib: pip install matplotlib") from error
    schedule = schedule.resolve(steps)
    if ax is None:
        _, ax = pyplot.subplots(figsize=(7, 3), layout="constrained")
    ax.plot(range(steps), [initial * schedule.value(step) for step in range(steps)])
    ax.set_xlabel("step")
    ax.set_ylabel("factor" if initial == 1 else "value")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    return ax


def chart(schedule: Schedule, steps: int, width: int = 64, height: int = 10) -> str:
    """Draw the factor of each step with characters.

    Args:
        schedule: The schedule.
        steps: How many steps to draw, at least 1; open lengths are of that run.
        width: Columns of the curve, at least 2.
        height: Rows of the curve, at least 1.

    Returns:
        The lines, from the largest factor down to 0.
    """
    schedule = schedule.resolve(steps)
    columns = min(width, max(steps, 2))
    chosen = [round(i * (steps - 1) / (columns - 1)) for i in range(columns)]
    values = [schedule.value(step) for step in chosen]
    top = max(values) or 1.0
    lines = []
    for row in range(height - 1, -1, -1):
        cells = (min(max(8 * (value / top * height - row), 0), 8) for value in values)
        label = f"{top:8.3g}" if row == height - 1 else " " * 8
        lines.append(f"{label} ┤{''.join(_EIGHTHS[round(cell)] for cell in cells)}")
    first, last = "0", str(steps - 1)
    lines.append(f"{0:8} └{'─' * columns}")
    lines.append(f"{'':10}{first}{last:>{max(columns - len(first), 1)}}")
    return "\n".join(lines)
