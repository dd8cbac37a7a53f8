"""Checks of arguments, and the text of their errors."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["check_count", "check_number"]


def check_count(name: str, value: Any, least: int = 1, *, is_optional: bool = False) -> None:
    """Raise ValueError if a value is not an int of at least `least`; a bool is none.

    Args:
        name: The argument, for the error.
        value: Its value.
        least: The least that is allowed.
        is_optional: Whether None is allowed, too.
    """
    if value is None and is_optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        allowed = "a positive int" if least == 1 else f"an int of at least {least}"
        allowed += ", or None" if is_optional else ""
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise ValueError if a value is not a finite number from `low` to `high`; a bool is none.

    Args:
        name: The argument, for the error.
        value: Its value.
        low: The least that is allowed.
        high: The most that is allowed.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        limits = f"of at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be a finite number {limits}, got {value!r}")
