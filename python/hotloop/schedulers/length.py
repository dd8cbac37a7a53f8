"""Lengths of schedules: steps, fractions of a run, or what is left of it."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = [
    "LENGTH",
    "POSITIVE_LENGTH",
    "Length",
    "check_length",
    "is_resolved_length",
    "resolve_length",
]

#: An int counts steps; a float in [0, 1] is a fraction of the run, which `Schedule.resolve`
#: rounds to a whole step; None is what is left of the run.
Length: TypeAlias = "int | float | None"

#: What the metadata of a dataclass field says if it is a length, or a tuple of lengths.
LENGTH = {"least": 0}
POSITIVE_LENGTH = {"least": 1}


def is_resolved_length(value: Any) -> bool:
    """Tell whether a length, or each of a tuple of lengths, is a number of steps."""
    if isinstance(value, tuple):
        return all(is_resolved_length(part) for part in value)
    return isinstance(value, int)


def check_length(name: str, value: Any, least: int) -> None:
    """Check a length, or each of a tuple of lengths.

    Args:
        name: What the error calls it.
        value: The length.
        least: The smallest number of steps allowed.

    Raises:
        ValueError: If it is neither an int from `least` up, a float in [0, 1], nor None.
    """
    if isinstance(value, tuple):
        for part in value:
            check_length(name, part, least)
        return
    is_steps = isinstance(value, int) and not isinstance(value, bool) and value >= least
    is_fraction = isinstance(value, float) and 0 <= value <= 1
    if value is not None and not is_steps and not is_fraction:
        raise ValueError(
            f"{name} must be an int of at least {least} (steps), a float in [0, 1] (a fraction "
            f"of the run) or None (the rest of the run), got {value!r}"
        )


def resolve_length(value: Any, total: int, rest: int) -> Any:
    """Return a length, or each of a tuple of lengths, as a number of steps.

    Args:
        value: The length.
        total: The length of the run, in steps.
        rest: What None stands for, in steps.
    """
    if isinstance(value, tuple):
        return tuple(resolve_length(part, total, rest) for part in value)
    if value is None:
        return rest
    return round(value * total) if isinstance(value, float) else value
