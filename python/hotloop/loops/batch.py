"""Batches of any nesting: moved to a device, and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["batch_size", "device_of", "first_length", "to_device"]


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with all its tensors on a device, itself if they are there.

    What has a method `to`, such as a packed sequence or an encoding, is asked to move itself;
    lists, tuples, named tuples, dicts and dataclass instances are taken apart and made anew;
    the rest stays as it is. Copies do not block where the source is pinned.

    Args:
        batch: Any nesting of them.
        device: Where to.
    """
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, (tuple, list)) and _is_there(batch, device):
        return batch
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, (tuple, list)):
        parts = [to_device(part, device) for part in batch]
        if _are_same(parts, batch):
            return batch
        if isinstance(batch, list):
            return parts
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, dict):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        return batch if _are_same(moved.values(), batch.values()) else moved
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = [field.name for field in dataclasses.fields(batch) if field.init]
        old = {name: getattr(batch, name) for name in fields}
        moved = to_device(old, device)
        return batch if moved is old else dataclasses.replace(batch, **moved)
    return batch


def _is_there(parts: tuple[Any, ...] | list[Any], device: torch.device) -> bool:
    # Without a call for each part: this is asked of every batch.
    for part in parts:  # noqa: SIM110
        if not isinstance(part, Tensor) or part.device != device:
            return False
    return True


def _are_same(parts: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(part is other for part, other in zip(parts, others))


def batch_size(batch: Any) -> int:
    """Return the length of the first dimension of the first tensor in a batch.

    Raises:
        ValueError: If there is no tensor with a dimension in it.
    """
    size = first_length(batch)
    if size is None:
        raise ValueError(
            "a batch must have a tensor whose first dimension counts its samples, or the step "
            "function return StepOutput(loss, preds, target) with such a target; got "
            f"{type(batch).__name__}"
        )
    return size


def first_length(batch: Any) -> int | None:
    """Return the length of the first dimension of the first tensor in a batch, None without."""
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
        size = first_length(part)
        if size is not None:
            return size
    return None


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU without one."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
