"""Move, reset, carry over and measure the state of any `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["move_state", "remap_state", "reset_state", "state_bytes"]


def move_state(
    optimizer: Optimizer,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Move the state to another device, or give it another dtype, or both.

    A count of steps stays where it is unless its group is `capturable` or `fused`, as when
    torch loads a state dict. The parameters are not moved.

    Args:
        optimizer: Whose state.
        device: Where to; None for where it is.
        dtype: A floating-point dtype for the floating-point tensors that have the shape of
            their parameter. Counts and other numbers keep theirs.

    Raises:
        ValueError: If `dtype` is not a floating-point dtype.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    for group in optimizer.param_groups:
        for param in group["params"]:
            _move(optimizer, group, param, device, dtype)


def reset_state(optimizer: Optimizer, params: Iterable[Tensor] | None = None) -> None:
    """Forget the state, so that the next step is like the first.

    Args:
        optimizer: Whose state.
        params: Of which parameters; None for all. What a rule keeps in its param groups
            stays.

    Raises:
        ValueError: If one of `params` is not the optimizer's. Nothing is forgotten then.
    """
    if params is None:
        optimizer.state.clear()
        return
    chosen = list(params)
    _check_known(optimizer, chosen)
    for param in chosen:
        optimizer.state.pop(param, None)


def remap_state(optimizer: Optimizer, mapping: Mapping[Tensor, Tensor]) -> None:
    """Put new parameters in the place of old ones, with the state of the old.

    Groups change in place, in their order. State moves to the device and the dtype of the
    new parameter. Parameters not named keep theirs; those that a model gained come to the
    optimizer by `add_param_group`, and start without state.

    Args:
        optimizer: Whose parameters.
        mapping: Old parameters to new ones of the same shape. They may trade places.

    Raises:
        ValueError: If a parameter is not the optimizer's, a new one is already in it or
            named twice, or shapes differ. Nothing has changed then.
    """
    _check_known(optimizer, mapping)
    kept = {p for group in optimizer.param_groups for p in group["params"]} - mapping.keys()
    new = list(mapping.values())
    if len(set(new)) < len(new) or not kept.isdisjoint(new):
        raise ValueError("a new parameter is in the optimizer already, or given twice")
    for old, param in mapping.items():
        if old.shape != param.shape:
            raise ValueError(
                f"a parameter of shape {tuple(param.shape)} cannot take over the state of one "
                f"of shape {tuple(old.shape)}"
            )
    states = {param: optimizer.state.pop(old, None) for old, param in mapping.items()}
    optimizer.state.update({param: state for param, state in states.items() if state})
    for group in optimizer.param_groups:
        for index, old in enumerate(group["params"]):
            if old in mapping:
                param = group["params"][index] = mapping[old]
                if (old.device, old.dtype) != (param.device, param.dtype):
                    dtype = param.dtype if param.is_floating_point() else None
                    _move(optimizer, group, param, param.device, dtype)


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes that the tensors of the state hold, each counted once."""
    tensors = {id(tensor): tensor for tensor in _tensors(list(optimizer.state.values()))}
    return sum(tensor.nbytes for tensor in tensors.values())


def _move(
    optimizer: Optimizer,
    group: dict[str, Any],
    param: Tensor,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> None:
    is_step_moved = bool(group.get("capturable") or group.get("fused"))
    numbers = ("step", *getattr(optimizer, "scalar_names", ()))
    state = optimizer.state.get(param, {})
    for key, value in state.items():
        if key == "step" and not is_step_moved:
            continue
        is_number = key in numbers

        def moved(tensor: Tensor, is_number: bool = is_number) -> Tensor:
            is_cast = not is_number and tensor.is_floating_point() and tensor.shape == param.shape
            return tensor.to(device=device, dtype=dtype if is_cast else None)

        state[key] = _map(moved, value)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_map(function, item) for item in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _check_known(optimizer: Optimizer, params: Iterable[Tensor]) -> None:
    known = {param for group in optimizer.param_groups for param in group["params"]}
    for param in params:
        if param not in known:
            raise ValueError(f"a parameter of shape {tuple(param.shape)} is not in the optimizer")
