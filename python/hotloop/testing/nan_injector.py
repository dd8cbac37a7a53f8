"""Poisons a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["NanInjector"]


class NanInjector:
    """A loader one of whose batches is all NaN, so that its loss and gradients are.

    Args:
        loader: Whose batches.
        batch: Which one to poison, from 0, counted over all passes over the loader.

    Raises:
        ValueError: If `batch` is no int of at least 0; while iterating, if the batch has no
            floating-point tensor among its tensors, lists, tuples and mappings.
    """

    def __init__(self, loader: Iterable[Any], batch: int) -> None:
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 0:
            raise ValueError(f"batch must be an int of at least 0, got {batch!r}")
        self._loader = loader
        self._batch = batch
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches; those that are left alone are the loader's own."""
        for batch in self._loader:
            self._count += 1
            yield _poisoned(batch) if self._count == self._batch + 1 else batch

    def __len__(self) -> int:
        """Return the length of the loader."""
        # Of a loader without a length this raises the TypeError that `len` does there.
        return len(self._loader)  # type: ignore[arg-type]


def _poisoned(batch: Any) -> Any:
    found = 0

    def poison(value: Any) -> Any:
        nonlocal found
        if isinstance(value, Tensor) and value.is_floating_point():
            found += 1
            return torch.full_like(value, torch.nan)
        if isinstance(value, Mapping):
            return {name: poison(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            poisoned = [poison(each) for each in value]
            is_named = hasattr(value, "_fields")
            return type(value)(*poisoned) if is_named else type(value)(poisoned)
        return value

    batch = poison(batch)
    if not found:
        raise ValueError(
            "the batch has no floating-point tensor that could be NaN; poison the loss in a "
            "step function"
        )
    return batch
