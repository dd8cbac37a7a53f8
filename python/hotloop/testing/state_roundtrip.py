"""Takes a state out of an object and puts it into another."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hotloop.testing.difference import differences

__all__ = ["assert_state_roundtrip"]


def assert_state_roundtrip(obj: Any, other: Any) -> None:
    """Check that a state can be saved, loaded and taken again.

    The state must hold only tensors, numbers, texts, bools and None, in dicts with texts or
    ints as keys, lists and tuples; it must come back from `torch.save` and
    `torch.load(weights_only=True)`; and the other object must have the same, bit for bit, once
    it was given what came back.

    Args:
        obj: Whose `state_dict()`.
        other: Whose `load_state_dict` and `state_dict`: made as `obj` was, and not trained.

    Raises:
        AssertionError: If one of that fails; the text names the places.
    """
    state = obj.state_dict()
    strange = _strange(state, "")
    if strange:
        raise AssertionError("the state holds more than plain values:\n" + "\n".join(strange))
    loaded = saved_and_loaded(state)
    found = differences(state, loaded)
    if found:
        raise AssertionError("saving and loading changes the state:\n" + "\n".join(found))
    other.load_state_dict(loaded)
    found = differences(state, other.state_dict())
    if found:
        raise AssertionError("the other object has another state:\n" + "\n".join(found))


def saved_and_loaded(state: Any) -> Any:
    """Return a state that went through `torch.save` and `torch.load(weights_only=True)`."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _strange(value: Any, path: str) -> list[str]:
    here = path or "state"
    if isinstance(value, Mapping):
        found = []
        for key, each in value.items():
            if type(key) not in (str, int):
                found.append(f"{here}: the key {key!r} is a {type(key).__name__}")
            found += _strange(each, f"{path}.{key}" if path else str(key))
        return found if isinstance(value, dict) else [f"{here}: {type(value).__name__}", *found]
    if type(value) in (list, tuple):
        return [
            text for index, each in enumerate(value) for text in _strange(each, f"{path}[{index}]")
        ]
    if value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str):
        return []
    return [f"{here}: {type(value).__name__}"]
