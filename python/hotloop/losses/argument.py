"""The checks that losses make on their arguments."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "check_indices"]


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
