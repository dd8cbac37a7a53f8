"""Compares states bit for bit."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["differences"]


def differences(
    first: Any, second: Any, *, ignored: Collection[str] = (), path: str = ""
) -> list[str]:
    """Compare two states bit for bit.

    Args:
        first: Tensors, numbers, texts, bools and None in mappings, lists and tuples.
        second: What to compare it with. Lists and tuples are told apart, dicts and other
            mappings are not; NaN equals NaN, and 0.0 differs from -0.0 and from 0.
        ignored: Keys of mappings whose entries may differ or be missing, at any depth.
        path: Where both are, for the texts.

    Returns:
        A text for each place where they differ, such as "model.weight[0]: 1 and 2".
    """
    here = path or "state"
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = []
        for key in {**first, **second}:
            if key in ignored:
                continue
            inner = f"{path}.{key}" if path else str(key)
            if key not in first or key not in second:
                found.append(f"{inner}: only in the {'first' if key in first else 'second'}")
            else:
                found += differences(first[key], second[key], ignored=ignored, path=inner)
        return found
    if type(first) is not type(second) and not (
        isinstance(first, Tensor) and isinstance(second, Tensor)
    ):
        return [f"{here}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{here}: {len(first)} and {len(second)} entries"]
        return [
            text
            for index, (one, other) in enumerate(zip(first, second))
            for text in differences(one, other, ignored=ignored, path=f"{path}[{index}]")
        ]
    if isinstance(first, Tensor):
        return [f"{here}: {text}" for text in _of_tensors(first.detach(), second.detach())]
    if isinstance(first, float):
        is_same = first == second or (math.isnan(first) and math.isnan(second))
        is_same = is_same and math.copysign(1, first) == math.copysign(1, second)
    else:
        is_same = bool(first == second)
    return [] if is_same else [f"{here}: {first!r} and {second!r}"]


def _of_tensors(first: Tensor, second: Tensor) -> list[str]:
    for name in ("dtype", "shape", "device"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            return [f"{name} {one} and {other}"]
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
    if torch.equal(*bits):
        return []
    differing = (bits[0] != bits[1]).reshape(first.numel(), -1).any(1)
    index = int(differing.nonzero()[0])
    one, other = first.reshape(-1)[index].item(), second.reshape(-1)[index].item()
    return [
        f"{int(differing.sum())} of {first.numel()} elements, the first at {index}: "
        f"{one!r} and {other!r}"
    ]
