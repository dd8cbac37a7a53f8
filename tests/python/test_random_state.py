"""The states of random generators: taken, put back, and refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hotloop.checkpoint import flatten, random_state, rebuild, set_random_state
from hotloop.testing import differences
from hotloop.testing.state_roundtrip import saved_and_loaded

Change = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Begin each test at the same place, and leave no trace of it."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    yield
    random.setstate(python)
    np.random.set_state(numpy)


def draws(*generators: torch.Generator) -> list[Any]:
    """Draw from every generator: words, and normals, of which each keeps one for later."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(()).item(),
        torch.randn(()).item(),
        *(torch.rand((), generator=generator).item() for generator in generators),
    ]


@pytest.mark.parametrize("drawn", [0, 1, 2, 700])
def test_the_draws_behind_a_state_come_again(drawn: int) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    for _ in range(drawn):
        draws(*generators)
    state = random_state(generators)
    first = [draws(*generators) for _ in range(3)]
    assert len({str(each) for each in first}) == 3
    draws(*generators)
    set_random_state(state, generators)
    assert [draws(*generators) for _ in range(3)] == first


def test_a_cached_normal_is_part_of_the_state_and_none_is_too() -> None:
    empty = random_state()
    random.gauss(0, 1)
    np.random.randn()
    full = random_state()
    assert empty["python"]["gauss_next"] is None
    assert empty["numpy"]["gauss_next"] is None
    expected = random.gauss(0, 1), np.random.randn()
    assert (full["python"]["gauss_next"], full["numpy"]["gauss_next"]) == expected
    set_random_state(full)
    assert (random.gauss(0, 1), np.random.randn()) == expected
    random.gauss(0, 1)
    np.random.randn()
    set_random_state(empty)
    assert differences(empty, random_state()) == []


@pytest.mark.parametrize("way", ["tree", "file"])
def test_a_state_survives_being_saved(way: str) -> None:
    generator = torch.Generator().manual_seed(4)
    draws(generator)
    state = random_state([generator])
    saved = rebuild(*flatten(state)) if way == "tree" else saved_and_loaded(state)
    expected = draws(generator)
    set_random_state(saved, [generator])
    assert draws(generator) == expected


def test_taking_a_state_draws_nothing_and_drawing_leaves_it_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    state = random_state([generator])
    assert differences(state, random_state([generator])) == []
    kept = copy.deepcopy(state)
    for _ in range(700):
        draws(generator)
    assert differences(kept, state) == []
    set_random_state(state, [generator])
    draws(generator)
    assert differences(kept, state) == []


def test_what_the_state_of_a_processor_holds() -> None:
    state = random_state()
    assert list(state) == ["python", "numpy", "torch", "cuda", "mps", "generators"]
    version, words, gauss = random.getstate()
    assert state["python"]["version"] == version
    assert state["python"]["gauss_next"] == gauss
    assert tuple(state["python"]["words"].tolist()) == words
    assert torch.equal(state["torch"], torch.get_rng_state())
    assert state["generators"] == []
    if not torch.cuda.is_available():
        assert state["cuda"] == []


def test_generators_are_put_back_in_their_order() -> None:
    first, second = (torch.Generator().manual_seed(seed) for seed in (4, 5))
    state = random_state(iter((first, second)))
    expected = [torch.rand((), generator=each).item() for each in (first, second)]
    set_random_state(state, iter((second, first)))
    assert [torch.rand((), generator=each).item() for each in (second, first)] == expected


# What is refused


def put(part: str, value: Any) -> Change:
    return lambda state: state.__setitem__(part, value)


def put_in(part: str, name: str, value: Any) -> Change:
    return lambda state: state[part].__setitem__(name, value)


def word(part: str, value: int) -> Change:
    return lambda state: state[part]["words"].__setitem__(7, value)


TEXT = torch.zeros(5, dtype=torch.uint8)
REFUSED: dict[str, tuple[Change, str]] = {
    "a part is missing": (
        lambda state: state.pop("numpy"),
        r"state must have the keys \['python', .*\], got \['python', 'torch', 'cuda', 'mps', 'g",
    ),
    "a part too many": (put("jax", 1), r"state must have the keys .* got .*'jax'\]"),
    "python is nothing": (put("python", None), r"state\['python'\] is no state of such a gen"),
    "python of another version": (put_in("python", "version", 9), r"state\['python'\] .*version 9"),
    "python without words": (lambda state: state["python"].pop("words"), "KeyError.*words"),
    "python with fewer words": (put_in("python", "words", torch.zeros(9).long()), r"\['python'\]"),
    "python with fractions": (put_in("python", "words", torch.zeros(625)), r"\['python'\]"),
    "python with a negative word": (word("python", -1), r"\['python'\]"),
    "python with a wrong place": (
        lambda state: state["python"]["words"].__setitem__(624, 625),
        r"state\['python'\] is no state of such a generator: ValueError\('invalid state'\)",
    ),
    "python with a text as normal": (
        put_in("python", "gauss_next", "0"),
        "gauss_next must be a float or None, got '0'",
    ),
    "numpy is a list": (put("numpy", []), r"state\['numpy'\] is no state of such a generator"),
    "numpy with fewer words": (
        put_in("numpy", "words", torch.zeros(623, dtype=torch.int64)),
        r"state\['numpy'\] .*words must be 624 int64 in \[0, 2\*\*32\)",
    ),
    "numpy with more words": (
        put_in("numpy", "words", torch.zeros(625, dtype=torch.int64)),
        "words must be 624 int64",
    ),
    "numpy with other words": (put_in("numpy", "words", torch.zeros(624)), "words must be 624 int"),
    "numpy with a negative word": (word("numpy", -1), "words must be 624 int64"),
    "numpy with a large word": (word("numpy", 2**32), "words must be 624 int64"),
    "numpy behind its end": (
        put_in("numpy", "position", 625),
        r"position must be an int in \[0, 624\], got 625",
    ),
    "numpy before its begin": (put_in("numpy", "position", -1), "position must be .*, got -1"),
    "numpy at a fraction": (put_in("numpy", "position", 1.0), "position must be .*, got 1.0"),
    "numpy with an int as normal": (
        put_in("numpy", "gauss_next", 1),
        "gauss_next must be a float or None, got 1",
    ),
    "torch of another size": (put("torch", TEXT), r"state\['torch'\] is no state of such a gen"),
    "torch is nothing": (put("torch", None), r"state\['torch'\] is no state of such a generator"),
    "cuda is nothing": (put("cuda", None), r"state\['cuda'\] must be a list of states, got None"),
    "generators are a number": (put("generators", 2), r"state\['generators'\] must be a list of"),
    "a generator of another size": (put("generators", [TEXT]), r"state\['generators'\] is no"),
    "more generators": (
        lambda state: state["generators"].append(TEXT),
        r"state\['generators'\] holds 2 states, and there are 1 generators; use the same samplers",
    ),
    "fewer generators": (
        put("generators", []),
        r"state\['generators'\] holds 0 states, and there are 1 generators; use the same samplers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_changes_nothing(case: str) -> None:
    change, message = REFUSED[case]
    generator = torch.Generator().manual_seed(4)
    state = copy.deepcopy(random_state([generator]))
    change(state)
    draws(generator)
    before = random_state([generator])
    with pytest.raises(ValueError, match=message):
        set_random_state(state, [generator])
    assert differences(before, random_state([generator])) == []


@pytest.mark.parametrize("position", [0, 623, 624])
def test_any_position_within_the_words_is_one(position: int) -> None:
    state = random_state()
    state["numpy"]["position"] = position
    set_random_state(state)
    assert random_state()["numpy"]["position"] == position


def test_numpy_with_a_generator_of_another_kind() -> None:
    state = random_state()
    draws()
    legacy: Any = np.random
    kept = legacy.get_bit_generator()
    legacy.set_bit_generator(np.random.PCG64(0))
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    message = "the generator of numpy.random must be an MT19937, .* got PCG64"
    try:
        with pytest.raises(ValueError, match=message):
            random_state()
        with pytest.raises(ValueError, match=rf"state\['numpy'\] .*{message}"):
            set_random_state(state)
        assert random.getstate() == before[0]
        assert np.random.get_state(legacy=False) == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
    finally:
        legacy.set_bit_generator(kept)


# Devices


class FakeDevices:
    """Stands for two CUDA devices and Metal, whose generators are those of the CPU."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.cuda = [torch.Generator().manual_seed(seed) for seed in (6, 7)]
        self.metal = torch.Generator().manual_seed(8)
        self.tried: list[torch.device] = []
        generator = torch.Generator

        def make(device: Any = "cpu") -> torch.Generator:
            self.tried.append(torch.device(device))
            return generator()

        def states() -> list[Tensor]:
            return [each.get_state() for each in self.cuda]

        patch.setattr(torch, "Generator", make)
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: len(self.cuda))
        patch.setattr(torch.cuda, "get_rng_state_all", states)
        patch.setattr(
            torch.cuda, "set_rng_state", lambda state, device: self.cuda[device].set_state(state)
        )
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(torch.mps, "get_rng_state", self.metal.get_state)
        patch.setattr(torch.mps, "set_rng_state", self.metal.set_state)

    def draws(self) -> list[float]:
        return [torch.rand((), generator=each).item() for each in (*self.cuda, self.metal)]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> FakeDevices:
    return FakeDevices(monkeypatch)


def test_the_draws_of_devices_come_again(devices: FakeDevices) -> None:
    state = random_state()
    assert (len(state["cuda"]), len(state["mps"])) == (2, 1)
    expected = devices.draws()
    devices.draws()
    set_random_state(state)
    assert devices.draws() == expected
    assert [str(each) for each in devices.tried] == ["cpu", "cuda:0", "cuda:1", "mps:0"]


def test_devices_that_are_not_used_are_not_asked(devices: FakeDevices) -> None:
    devices.patch.setattr(torch.cuda, "is_initialized", lambda: False)
    devices.patch.setattr(torch.backends.mps, "is_available", lambda: False)
    state = random_state()
    assert (state["cuda"], state["mps"]) == ([], [])


def test_devices_that_a_state_does_not_have_stay_as_they_are(devices: FakeDevices) -> None:
    state = random_state()
    expected = devices.draws()
    devices.draws()
    later = random_state()
    state["cuda"].pop()
    state["mps"].pop()
    set_random_state(state)
    after = random_state()
    assert devices.draws()[0] == expected[0]
    assert torch.equal(after["cuda"][1], later["cuda"][1])
    assert torch.equal(after["mps"][0], later["mps"][0])


@pytest.mark.parametrize(("part", "there"), [("cuda", 1), ("cuda", 0), ("mps", 0)])
def test_a_state_of_more_devices_changes_nothing(
    devices: FakeDevices, part: str, there: int
) -> None:
    state = random_state()
    draws()
    devices.draws()
    before = random_state()
    if part == "cuda":
        devices.patch.setattr(torch.cuda, "device_count", lambda: there)
    else:
        devices.patch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ValueError,
        match=rf"state\['{part}'\] holds the generators of {len(state[part])} devices, and there "
        rf"are {there} here; make as many visible, or set it to \[\] to leave them as they are",
    ):
        set_random_state(state)
    devices.patch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert differences(before, random_state()) == []


@pytest.mark.parametrize("part", ["cuda", "mps"])
def test_a_device_with_a_wrong_state_changes_nothing(devices: FakeDevices, part: str) -> None:
    state = random_state()
    state[part][-1] = TEXT
    draws()
    devices.draws()
    before = random_state()
    with pytest.raises(ValueError, match=rf"state\['{part}'\] is no state of such a generator"):
        set_random_state(state)
    assert differences(before, random_state()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_draws_of_cuda_come_again() -> None:
    torch.zeros(1, device="cuda")
    generator = torch.Generator("cuda").manual_seed(1)
    state = saved_and_loaded(random_state([generator]))
    assert len(state["cuda"]) == torch.cuda.device_count()
    first = [torch.rand(3, device="cuda", generator=each) for each in (None, generator)]
    set_random_state(state, [generator])
    second = [torch.rand(3, device="cuda", generator=each) for each in (None, generator)]
    assert all(torch.equal(one, other) for one, other in zip(first, second))
