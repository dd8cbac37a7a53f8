"""Batches of any nesting: moved to a device, and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["batch_size", "device_of", "to_device"]


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with all its tensors on a device, itself if they are there.

    Lists, tuples, named tuples, dicts and dataclass instances are taken apart and made anew;
    whatever else has a method `to`, such as a packed sequence or an encoding, is asked to
    move itself; the rest stays as it is. Copies do not block where the source is pinned.

    Args:
        batch: Any nesting of them.
        device: Where to.
    """
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, (tuple, list)) and _is_there(batch, device):
        return batch
    if isinstance(batch, tuple):
        parts = [to_device(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, list):
        return [to_device(part, device) for part in batch]
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = [field.name for field in dataclasses.fields(batch) if field.init]
        moved = {name: to_device(getattr(batch, name), device) for name in fields}
        return dataclasses.replace(batch, **moved)
    return batch.to(device) if hasattr(batch, "to") else batch


def _is_there(parts: tuple[Any, ...] | list[Any], device: torch.device) -> bool:
    # Without a call for each part: this is asked of every batch.
    for part in parts:  # noqa: SIM110
        if not isinstance(part, Tensor) or part.device != device:
            return False
    return True


def batch_size(batch: Any) -> int:
    """Return the length of the first dimension of the first tensor in a batch.

    Raises:
        ValueError: If there is no tensor with a dimension in it.
    """
    size = _first_length(batch)
    if size is None:
        raise ValueError(
            "the batch has no tensor whose first dimension counts its samples; return a LossSum "
            f"or a StepOutput with a target, got a batch of type {type(batch).__name__}"
        )
    return size


def _first_length(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts: Any = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    elif isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    else:
        parts = ()
    for part in parts:
        size = _first_length(part)
        if size is not None:
            return size
    return None


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU without one."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
