"""A state comes back from JSON and tensors as it was, and nothing else is taken for one."""

from __future__ import annotations

import collections
import enum
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import _TYPES
from torch import Tensor, nn

from hotloop.checkpoint import flatten, rebuild
from hotloop.checkpoint.tree import DTYPES, MAX_DEPTH, encode_json, parse_json
from hotloop.errors import CheckpointError, CorruptCheckpointError
from hotloop.optimizers import AdamW

NAN, INF = math.nan, math.inf


def describe(value: Any) -> Any:
    """Return something that is equal only for states that are alike to the bit."""
    if isinstance(value, Tensor):
        host = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return ("Tensor", value.dtype, tuple(value.shape), bytes(host.view(torch.uint8).tolist()))
    if isinstance(value, dict):
        kind = "Counter" if isinstance(value, collections.Counter) else "dict"
        return (kind, [(describe(key), describe(item)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return ("list" if isinstance(value, list) else "tuple", [describe(v) for v in value])
    return (type(value), repr(value))


def through_json(state: Any) -> Any:
    plain, tensors = flatten(state)
    return rebuild(parse_json(encode_json(plain), "state.json"), tensors)


def make_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = (math.prod(shape), dtype.itemsize)
    data = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return data.reshape(-1).view(dtype).reshape(shape)


def nest(depth: int, make: Callable[[Any], Any] = lambda inner: [inner], inner: Any = 1) -> Any:
    for _ in range(depth):
        inner = make(inner)
    return inner


# Round trips

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.mT if tensor.dim() >= 2 else tensor,
    "every other": lambda tensor: tensor[::2] if tensor.dim() else tensor,
    "expanded": lambda tensor: tensor.expand(2, *tensor.shape),
    "conjugate": lambda tensor: tensor.conj(),
    "parameter": lambda tensor: nn.Parameter(tensor, requires_grad=False),
}
tensors_ = st.builds(
    lambda dtype, shape, seed, layout: LAYOUTS[layout](make_tensor(dtype, tuple(shape), seed)),
    st.sampled_from(list(DTYPES.values())),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
    st.sampled_from(list(LAYOUTS)),
)
texts = st.text(st.characters(exclude_categories=()), max_size=4) | st.sampled_from(
    ["$tensor", "$", "__metadata__", "a.b", "a", "\ud83d\ude00", "\ud800", "\0"]
)
integers = st.integers() | st.sampled_from([10**600 - 1, 1 - 10**600, 2**63, -(2**64)])
scalars = st.none() | st.booleans() | integers | st.floats() | texts


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        items = st.lists(inner, max_size=4)
        dicts = st.dictionaries(scalars, inner, max_size=4)
        return (
            items
            | items.map(tuple)
            | dicts
            | dicts.map(collections.OrderedDict)
            | dicts.map(lambda value: collections.Counter(value))
        )

    return st.recursive(leaves, extend, max_leaves=12)


def walk(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [t for v in items for t in walk(v)] if isinstance(value, (dict, list, tuple)) else []


pools = st.lists(tensors_, min_size=1, max_size=3)


@given(pools.flatmap(lambda pool: trees(scalars | st.sampled_from(pool))))
def test_a_state_comes_back_as_it_was(state: Any) -> None:
    before = describe(state)
    plain, tensors = flatten(state)
    again = rebuild(parse_json(encode_json(plain), "state.json"), tensors)
    assert describe(again) == before == describe(state)
    # What was one object is one again, and one tensor in the file.
    ids = [id(tensor) for tensor in walk(state)]
    new = [id(tensor) for tensor in walk(again)]
    assert [ids.index(i) for i in ids] == [new.index(i) for i in new]
    assert len(tensors) == len(set(ids))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (-3, -3),
        (-0.0, -0.0),
        (1e300, 1e300),
        (NAN, {"$float": "nan"}),
        (INF, {"$float": "inf"}),
        (-INF, {"$float": "-inf"}),
        ("é", "é"),
        ("\udc80", {"$str": "edb280"}),
        ([1, [2]], [1, [2]]),
        ((1, (2,)), {"$tuple": [1, {"$tuple": [2]}]}),
        (torch.Size([2, 3]), {"$tuple": [2, 3]}),
        ({"b": 1, "a": 2}, {"b": 1, "a": 2}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({}, {}),
        ({1: "a", 1.5: "b", None: "c"}, {"$dict": [[1, "a"], [1.5, "b"], [None, "c"]]}),
        ({True: 1, "True": 2}, {"$dict": [[True, 1], ["True", 2]]}),
        ({NAN: 1}, {"$dict": [[{"$float": "nan"}, 1]]}),
        ({"$tuple": [1]}, {"$dict": [["$tuple", [1]]]}),
        ({"a": 1, "$b": 2}, {"$dict": [["a", 1], ["$b", 2]]}),
        ({"\ud800": 1}, {"$dict": [[{"$str": "eda080"}, 1]]}),
        (collections.Counter({3: 2}), {"$counter": [[3, 2]]}),
        (collections.Counter("a"), {"$counter": [["a", 1]]}),
    ],
)
def test_the_plain_value_of(value: Any, plain: Any) -> None:
    assert describe(flatten(value)[0]) == describe(plain)
    assert describe(through_json(value)) == describe(value)


def test_tensors_are_named_by_their_paths_in_their_order() -> None:
    tensors = [torch.tensor(float(i)) for i in range(5)]
    state = {
        "model": {"layers.0.weight": tensors[0]},
        "optimizer": {"state": {0: {"exp_avg": (tensors[1],)}}},
        "list": [None, tensors[2]],
        None: tensors[3],
        2.5: tensors[4],
    }
    names = ["model.layers.0.weight", "optimizer.state.0.exp_avg.0", "list.1", "None", "2.5"]
    found = flatten(state)[1]
    assert list(found) == names
    assert [float(tensor) for tensor in found.values()] == [0, 1, 2, 3, 4]
    assert list(flatten(tensors[0])[1]) == ["state"]


def test_names_are_unique_and_none_is_the_formats_own() -> None:
    a, b, c, d, e, f = (torch.tensor(i) for i in range(6))
    state = {"x.y~2": a, "x": {"y": b}, "x.y": c, "": {"": d}, "__metadata__": e, "\ud800": f}
    found = flatten(state)[1]
    assert list(found) == ["x.y~2", "x.y", "x.y~3", "state", "__metadata__~2", "?"]
    assert [int(tensor) for tensor in found.values()] == [0, 1, 2, 3, 4, 5]
    assert describe(through_json(state)) == describe(state)


def test_tensors_of_the_same_memory_are_one() -> None:
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    views = {
        "weight": weight,
        "tied": weight,
        "detached": weight.detach(),
        "data": weight.data.view(2, 3),
        "transposed": weight.detach().t(),
        "flat": weight.detach().view(6),
        "part": weight.detach()[0],
        "bits": weight.detach().view(torch.int32),
    }
    plain, tensors = flatten(views)
    assert list(tensors) == ["weight", "transposed", "flat", "part", "bits"]
    assert {plain[name]["$tensor"] for name in ("weight", "tied", "detached", "data")} == {"weight"}
    assert tensors["weight"].data_ptr() == weight.data_ptr()
    assert not any(tensor.requires_grad for tensor in tensors.values())
    square = torch.eye(2)
    assert list(flatten([square, square.t(), square.view(2, 2)])[1]) == ["0", "1"]
    empty = torch.empty(0)
    plain, tensors = flatten([empty, torch.empty(0), empty])
    assert list(tensors) == ["0", "1"]
    assert plain[2] == {"$tensor": "0"}
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    assert len(flatten([numbers, numbers.conj()])[1]) == 2


def test_the_dtypes_are_those_of_safetensors() -> None:
    assert DTYPES == _TYPES


def test_the_states_of_torch_come_back() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    twin = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(twin, [2, 2, 5])
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
    }
    again = through_json(state)
    assert describe(again) == describe(state)
    schedule.load_state_dict(again["schedule"])
    assert schedule.milestones == collections.Counter({2: 2, 5: 1})


# What cannot be saved


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float64(1), "numpy.float64"),
        (np.int64(1), "numpy.int64"),
        (np.zeros(2), "numpy.ndarray"),
        (b"x", "builtins.bytes"),
        (1j, "builtins.complex"),
        ({1}, "builtins.set"),
        (Fraction(1), "fractions.Fraction"),
        (Path("x"), "pathlib.PosixPath"),
        (Point(1), "test_checkpoint_tree.Point"),
        (Text("x"), "test_checkpoint_tree.Text"),
        (Level.LOW, "test_checkpoint_tree.Level"),
        (collections.defaultdict(list), "collections.defaultdict"),
        (MappingProxyType({}), "builtins.mappingproxy"),
        (lambda: None, "builtins.function"),
        (object(), "builtins.object"),
        (torch.float32, "torch.dtype"),
        (torch.device("cpu"), "torch.device"),
        (torch.Generator(), "torch._C.Generator"),
    ],
)
def test_other_types_are_refused_by_their_path(value: Any, name: str) -> None:
    for state, path in (
        ({"a": {"b.c": [1, (value,)]}}, "'a.b.c.1.0'"),
        ({3: value}, "'3'"),
        (value, "the state"),
    ):
        with pytest.raises(CheckpointError) as caught:
            flatten(state)
        message = str(caught.value)
        assert message.startswith(f"{path} cannot be saved: it is of type ")
        assert f"{name}; allowed are None, bool, int, float, str, Tensor, dict, Cou" in message
        assert not isinstance(caught.value, CorruptCheckpointError)


@pytest.mark.parametrize("key", [(1, 2), b"x", np.int64(1), Level.LOW, Text("y"), torch.float32])
def test_other_keys_are_refused_by_the_path_of_their_dict(key: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^'a' .* a dict with a key of type .*; allowed are"):
        flatten({"a": {"x": 1, key: 2}})


@pytest.mark.parametrize(("sign", "digits"), [(1, 601), (-1, 601), (1, 5000)])
def test_huge_ints_are_refused(sign: int, digits: int) -> None:
    number = sign * 10 ** (digits - 1)
    with pytest.raises(CheckpointError, match=r"^'0' .* an int of more than 600 digits$"):
        flatten([number])
    with pytest.raises(CheckpointError, match=r"^'0' .* a dict with an int of more than 600"):
        flatten([{number: 1}])


class Tagged(Tensor):
    pass


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_other_tensors_are_refused_by_their_path() -> None:
    dense = torch.eye(2)
    nested = torch.nested.as_nested_tensor([torch.ones(1), torch.ones(2)])
    cases: list[tuple[Tensor, str]] = [
        (dense.to_sparse(), r"a tensor of layout torch\.sparse_coo; allowed are strided ones"),
        (nested, "a nested tensor"),
        (torch.empty(2, device="meta"), "a tensor without data, on the device meta"),
        (
            torch.zeros(2, dtype=torch.complex128),
            r"a tensor of torch\.complex128; allowed are torch\.float64, .*torch\.bool$",
        ),
        (
            torch.empty(2, dtype=torch.float8_e8m0fnu),
            r"a tensor of torch\.float8_e8m0fnu; allowed are torch",
        ),
        (torch.ones((1,) * 65), r"a tensor of shape \(1, .*; allowed are 64 dimensions, and a"),
        (torch.empty(0, 2**60), rf"a tensor of shape \(0, {2**60}\); allowed are .* below 2\*\*60"),
        (torch.empty(0, 2**30, 2**30), r"a tensor of shape \(0, 1073741824, 1073741824\); allowe"),
        (dense.as_subclass(Tagged), r"of type .*\.Tagged; allowed is torch\.Tensor"),
        (nn.UninitializedParameter(), r"of type torch\.nn\.parameter\.UninitializedParameter"),
    ]
    for tensor, reason in cases:
        with pytest.raises(CheckpointError, match=f"^'a.0' cannot be saved: it is .*{reason}"):
            flatten({"a": [tensor]})


def test_depth_has_a_limit() -> None:
    makes: list[Callable[[Any], Any]] = [
        lambda inner: [inner],
        lambda inner: (inner,),
        lambda inner: {"a": inner},
        lambda inner: {1: inner},
        lambda inner: collections.Counter({"a": inner}),
    ]
    for make in makes:
        deepest = nest(MAX_DEPTH, make)
        assert describe(through_json(deepest)) == describe(deepest)
        assert through_json(nest(MAX_DEPTH - 1, make, make({2: "x"}[2]))) is not None
        with pytest.raises(
            CheckpointError, match="it is more than 64 levels deep, or contains its"
        ):
            flatten(make(deepest))
    loop: dict[str, Any] = {}
    loop["self"] = [loop]
    with pytest.raises(CheckpointError, match=r"^'self\.0\.self.*more than 64 levels deep"):
        flatten(loop)


# What is no state


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        ({"$tupel": [1]}, "has no valid '\\$tupel'"),
        ({"$": 1}, "has no valid '\\$'"),
        ({"$tuple": {"a": 1}}, "has no valid '\\$tuple'"),
        ({"$tuple": None}, "has no valid '\\$tuple'"),
        ({"$tuple": [], "$dict": []}, "has no valid"),
        ({"$tuple": [], "a": 1}, "has no valid"),
        ({"a": 1, "$tuple": []}, "has no valid"),
        ({"$tensor": 1}, "has no valid '\\$tensor'"),
        ({"$tensor": "b"}, "there is no tensor 'b'"),
        ({"$float": "1.5"}, "has no valid '\\$float'"),
        ({"$float": 1.5}, "has no valid '\\$float'"),
        ({"$str": "zz"}, "has no valid '\\$str'"),
        ({"$str": "ff"}, "has no valid '\\$str'"),
        ({"$str": 1}, "has no valid '\\$str'"),
        ({"$dict": {"a": 1}}, "has no valid '\\$dict'"),
        ({"$dict": [["a"]]}, "has something else than pairs"),
        ({"$dict": [["a", 1, 2]]}, "has something else than pairs"),
        ({"$dict": ["ab"]}, "has something else than pairs"),
        ({"$dict": [[[], 1]]}, "'\\$dict' has a key of type builtins.list"),
        ({"$dict": [[{"$tensor": "a"}, 1]]}, "'\\$dict' has a key of type torch.Tensor"),
        ({"$dict": [["a", 1], ["a", 2]]}, "has the key 'a' twice"),
        ({"$dict": [[1, 1], [True, 2]]}, "has the key True twice"),
        ({"$counter": [[1, 1], [1.0, 2]]}, "has the key 1.0 twice"),
        ({"$counter": {}}, "has no valid '\\$counter'"),
        (INF, "it is no valid float"),
        ((1,), "it is no valid tuple"),
        (b"x", "it is no valid bytes"),
        ({1: 2}, "it is no valid dict"),
    ],
)
def test_other_plain_values_are_refused_by_their_path(plain: Any, reason: str) -> None:
    tensors = {"a": torch.ones(1)}
    for value, path in ((plain, "the state"), ({"x": [{"$tensor": "a"}, plain]}, "'x.1'")):
        with pytest.raises(CorruptCheckpointError, match=f"f is damaged at {path}: .*{reason}"):
            rebuild(value, tensors, "f")


def test_a_tensor_that_is_left_over_is_refused() -> None:
    tensors = {"b": torch.ones(1), "a": torch.ones(1)}
    with pytest.raises(CorruptCheckpointError, match=r"^the state has no place for tensor 'b'$"):
        rebuild([{"$tensor": "a"}], tensors)
    assert rebuild([{"$tensor": "a"}, {"$tensor": "b"}], tensors) == [tensors["a"], tensors["b"]]


def test_deep_plain_values_are_refused() -> None:
    makes: list[Callable[[Any], Any]] = [
        lambda inner: [inner],
        lambda inner: {"a": inner},
        lambda inner: {"$tuple": [inner]},
        lambda inner: {"$dict": [[1, inner]]},
        lambda inner: {"$dict": [[inner, 1]]},
        lambda inner: {"$counter": [[1, inner]]},
        lambda inner: {"$float": inner},
        lambda inner: {"$str": inner},
        lambda inner: {"$": inner},
    ]
    for make in makes:
        for depth in (MAX_DEPTH + 1, 300, 10_000):
            with pytest.raises(CorruptCheckpointError, match=r"^the state is damaged at .*"):
                rebuild(nest(depth, make), {})


# JSON


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"1 2", "Extra data"),
        (b"[1,]", "Expecting value|trailing comma"),
        (b"'a'", "Expecting value"),
        (b'{"a":1,"a":2}', r"a key occurs twice in \['a', 'a'\]"),
        (b'[{"b":{"a":1,"a":1}}]', "a key occurs twice"),
        (b"NaN", "NaN is not a number of JSON"),
        (b"[Infinity]", "Infinity is not a number of JSON"),
        (b"-Infinity", "-Infinity is not a number of JSON"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b'"\xed\xa0\x80"', "can't decode byte 0xed"),
        (b'"\x01"', "Invalid control character"),
        (b"\xef\xbb\xbf1", "BOM|Expecting value"),
        ("1".encode("utf-16"), "can't decode byte 0xff"),
        (b"1" * 601, "an int has more than 600 digits"),
        (b"-" + b"1" * 100_000, "an int has more than 600 digits"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=f"^x.json is not valid JSON: .*({reason})"):
        parse_json(text, "x.json")


def test_json_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(json, "loads", fail)
    with pytest.raises(CorruptCheckpointError, match="it does not fit into memory"):
        parse_json(b"1", "x.json")


def test_json_is_ascii_and_strict() -> None:
    assert encode_json({"é": [1, -0.0, None]}) == b'{"\\u00e9":[1,-0.0,null]}'
    assert encode_json({"a": [1]}, indent=1) == b'{\n "a": [\n  1\n ]\n}'
    assert parse_json(b"-" + b"1" * 600, "x") == -int("1" * 600)
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(NAN)
