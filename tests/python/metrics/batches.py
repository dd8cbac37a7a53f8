"""Batches for tests of metrics: split, laid out in memory and merged in any way."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor

from hotloop import backend

#: Where a batch of up to 67 samples is cut.
CUTS = st.lists(st.integers(0, 67), max_size=4)
LAYOUTS = ("contiguous", "strided", "transposed")


def pieces(count: int, cuts: Sequence[int]) -> list[slice]:
    """Return slices that make up `count` samples, some of them empty."""
    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    return [slice(start, end) for start, end in itertools.pairwise(bounds)]


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return a tensor with the same elements elsewhere in memory."""
    if layout == "contiguous":
        return tensor.clone()
    if layout == "transposed":
        return tensor.T.contiguous().T
    wider = tensor.new_full((*tensor.shape[:-1], 3 * tensor.shape[-1]), 77)
    wider[..., 1::3] = tensor
    return wider[..., 1::3]


def merges(parts: Sequence[Any], order: int) -> Any:
    """Return a metric that has merged copies of parts, in one of several orders."""
    copies = [copy.deepcopy(part) for part in parts]
    if order == 1:
        copies.reverse()
    if order == 2:
        # As a tree.
        while len(copies) > 1:
            for first, second in zip(copies[::2], copies[1::2]):
                first.merge(second)
            copies = copies[::2]
        return copies[0]
    for part in copies[1:]:
        copies[0].merge(part)
    return copies[0]


def torch_backend() -> Any:
    """Return a context in which torch's operators take the place of the kernels."""
    return mock.patch.object(backend, "current", return_value=backend.Backend("torch", "a test"))


def every_order(metrics: Sequence[Any]) -> Iterator[Any]:
    """Yield what the parts make together, for each order of merges."""
    for order in range(3):
        yield merges(metrics, order)


def as_dtype(values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return numbers rounded to a dtype."""
    return torch.tensor(values, dtype=torch.float64).to(dtype)


class FarTensor(Tensor):
    """A tensor that says it is on a CUDA device, and raises where one would be waited for."""

    is_waiting_allowed = False

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "unique")
        name = func.__name__
        if not cls.is_waiting_allowed and name in (*waits, "masked_select", "bincount"):
            raise AssertionError(f"{name} waits for the device")
        return super().__torch_function__(func, types, args, kwargs or {})


def far(tensor: Tensor) -> FarTensor:
    """Return a tensor as if it were on a CUDA device."""
    return tensor.as_subclass(FarTensor)
