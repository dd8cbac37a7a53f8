"""The checks that losses make on their arguments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["at_least_float32", "check_indices", "check_number"]


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise ValueError if a value is not a finite number from `low` to `high`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        limits = f"of at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be a finite number {limits}, got {value!r}")


def check_indices(target: Tensor) -> None:
    """Raise ValueError if a target does not hold class indices."""
    if target.dtype != torch.int64:
        raise ValueError(f"target must hold class indices in torch.int64, got {target.dtype}")


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits in float32, or in their own dtype where that is wider.

    Raises:
        ValueError: If they are not floating point.
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
