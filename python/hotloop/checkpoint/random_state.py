"""The states of the random generators of a process."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_state", "set_random_state"]

_PARTS = ("python", "numpy", "torch", "cuda", "mps", "generators")
_NUMPY_WORDS = 624


def random_state(generators: Iterable[torch.Generator] = ()) -> dict[str, Any]:
    """Return the states of the generators that all share, and of further ones.

    Those are Python's `random`, NumPy's `numpy.random`, and torch's of the CPU, of each CUDA device
    if CUDA is in use, and of Metal where there is one.

    Args:
        generators: Further ones.

    Returns:
        "python", "numpy", "torch", and lists "cuda", "mps" and "generators": plain values and
        tensors on the CPU.

    Raises:
        ValueError: If NumPy's generator was replaced by one of another kind.
    """
    version, words, gauss_next = random.getstate()
    return {
        "python": {"version": version, "words": _tensor_of(words), "gauss_next": gauss_next},
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _is_cuda_used() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
        "generators": [generator.get_state() for generator in generators],
    }


def set_random_state(state: Mapping[str, Any], generators: Iterable[torch.Generator] = ()) -> None:
    """Put the generators where they were.

    Those of devices that the state does not have stay as they are.

    Args:
        state: What `random_state` returned.
        generators: As many as it was given, of the same devices and in the same order.

    Raises:
        ValueError: If the state is no such, or has more generators, or more devices than there
            are. Nothing is changed then.
    """
    generators = list(generators)
    if set(state) != set(_PARTS):
        raise ValueError(f"state must have the keys {list(_PARTS)}, got {list(state)}")
    for name in ("cuda", "mps", "generators"):
        if not isinstance(state[name], (list, tuple)):
            raise ValueError(f"state[{name!r}] must be a list of states, got {state[name]!r}")
    for name, there in (
        ("cuda", torch.cuda.device_count()),
        ("mps", int(torch.backends.mps.is_available())),
    ):
        if len(state[name]) > there:
            raise ValueError(
                f"state[{name!r}] holds the generators of {len(state[name])} devices, and there "
                f"are {there} here; make as many visible, or set it to [] to leave them as they are"
            )
    if len(state["generators"]) != len(generators):
        raise ValueError(
            f"state['generators'] holds {len(state['generators'])} states, and there are "
            f"{len(generators)} generators; use the same samplers and loaders as in the saved run"
        )
    # Each part is tried on a generator of its own before anything is changed.
    with _part("python"):
        python_state = _python_state_of(state["python"])
        random.Random().setstate(python_state)
    with _part("numpy"):
        numpy_state = _numpy_state_of(state["numpy"])
        # Refuses a generator of another kind.
        _numpy_state()
    with _part("torch"):
        torch.Generator().set_state(state["torch"])
    for name in ("cuda", "mps"):
        with _part(name):
            for index, each in enumerate(state[name]):
                torch.Generator(torch.device(name, index)).set_state(each)
    with _part("generators"):
        for generator, each in zip(generators, state["generators"]):
            torch.Generator(generator.device).set_state(each)

    random.setstate(python_state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    for index, each in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(each, index)
    for each in state["mps"]:
        torch.mps.set_rng_state(each)
    for generator, each in zip(generators, state["generators"]):
        generator.set_state(each)


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Say which part of a state is wrong."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"state[{name!r}] is no state of such a generator: {error!r}") from error


def _numpy_state() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise ValueError(
            "the generator of numpy.random must be an MT19937, which it is unless "
            f"set_bit_generator is called, got {state['bit_generator']}"
        )
    return {
        "words": _tensor_of(state["state"]["key"]),
        "position": int(state["state"]["pos"]),
        "gauss_next": float(state["gauss"]) if state["has_gauss"] else None,
    }


def _numpy_state_of(state: Mapping[str, Any]) -> dict[str, Any]:
    words, position = state["words"].numpy(), state["position"]
    # NumPy takes any, and reads beyond the end of its words then.
    is_form = words.dtype == np.int64 and words.shape == (_NUMPY_WORDS,)
    if not is_form or words.min() < 0 or words.max() >= 2**32:
        raise ValueError(f"words must be {_NUMPY_WORDS} int64 in [0, 2**32)")
    if type(position) is not int or not 0 <= position <= _NUMPY_WORDS:
        raise ValueError(f"position must be an int in [0, {_NUMPY_WORDS}], got {position!r}")
    gauss_next = _checked_gauss(state["gauss_next"])
    return {
        "bit_generator": "MT19937",
        "state": {"key": words.astype(np.uint32), "pos": position},
        "has_gauss": int(gauss_next is not None),
        "gauss": 0.0 if gauss_next is None else gauss_next,
    }


def _python_state_of(state: Mapping[str, Any]) -> tuple[Any, ...]:
    words = tuple(state["words"].tolist())
    return state["version"], words, _checked_gauss(state["gauss_next"])


def _checked_gauss(value: Any) -> float | None:
    if value is not None and type(value) is not float:
        raise ValueError(f"gauss_next must be a float or None, got {value!r}")
    return value


def _is_cuda_used() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _tensor_of(words: Any) -> Tensor:
    return torch.from_numpy(np.array(words, dtype=np.int64))
