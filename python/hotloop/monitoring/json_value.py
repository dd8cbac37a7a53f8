"""Values as JSON holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_value"]


def json_value(value: Any) -> Any:
    """Return a value as JSON holds it.

    Args:
        value: Any value.

    Returns:
        The same for strings, ints, bools, None and finite floats; "nan", "inf" or "-inf" for
        other floats; dicts and lists of such values for mappings, lists and tuples; `str` of
        everything else, and of the keys.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return str(value)
