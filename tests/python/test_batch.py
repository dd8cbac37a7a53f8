"""Batches: moved to a device, and counted."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from hotloop.loops import (
    batch_size,
    to_device,
)
from hotloop.loops.batch import device_of

CPU, META = torch.device("cpu"), torch.device("meta")


class Point(NamedTuple):
    x: Tensor
    y: Any


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Tensor
    rest: Any
    name: str = "a"
    rows: int = dataclasses.field(init=False, default=-1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", len(self.x))


class Encoding:
    """Moves itself, as tokenizers' encodings do."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Encoding:
        return Encoding(self.x.to(device))


def ones(rows: int = 2) -> Tensor:
    return torch.ones(rows, 3)


NESTINGS: dict[str, Callable[[], Any]] = {
    "tensor": ones,
    "list": lambda: [ones(), ones(4)],
    "tuple": lambda: (ones(), "text", None),
    "named tuple": lambda: Point(ones(), [ones(4)]),
    "dict": lambda: {"x": ones(), "y": {"z": (ones(4), 5)}},
    "dict of no tensor first": lambda: {"n": 5, "x": [[], ones()]},
    "dataclass": lambda: Sample(ones(), {"y": Point(ones(4), 1)}, "b"),
    "list of dataclasses": lambda: [Sample(ones(), None)],
    "scalar first": lambda: (torch.tensor(1.0), ones()),
}


def tensors_in(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Encoding):
        return [batch.x]
    if dataclasses.is_dataclass(batch):
        batch = list(vars(batch).values())
    parts = batch.values() if isinstance(batch, dict) else batch
    nested = parts if isinstance(batch, (dict, list, tuple)) else ()
    return [tensor for part in nested for tensor in tensors_in(part)]


def skeleton(batch: Any) -> Any:
    """Return a batch with shapes in place of its tensors."""
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    if dataclasses.is_dataclass(batch):
        return type(batch), skeleton(vars(batch))
    if isinstance(batch, dict):
        return type(batch), [(key, skeleton(value)) for key, value in batch.items()]
    if isinstance(batch, (list, tuple)):
        return type(batch), [skeleton(part) for part in batch]
    return batch


@pytest.mark.parametrize("name", NESTINGS)
def test_batches_of_any_nesting_move(name: str) -> None:
    batch = NESTINGS[name]()
    before = skeleton(batch)
    moved = to_device(batch, META)
    assert skeleton(moved) == before
    assert {tensor.device.type for tensor in tensors_in(moved)} == {"meta"}
    # The loader's own batch is as it was.
    assert skeleton(batch) == before
    assert {tensor.device.type for tensor in tensors_in(batch)} == {"cpu"}
    assert batch_size(batch) == batch_size(moved) == 2


@pytest.mark.parametrize("name", NESTINGS)
def test_batches_that_are_there_stay_what_they_are(name: str) -> None:
    batch = NESTINGS[name]()
    assert to_device(batch, CPU) is batch


def test_a_part_that_moves_leaves_the_others() -> None:
    there = torch.empty(2, device=META)
    inner = [there, "text"]
    moved = to_device({"a": ones(), "b": inner, "c": there}, META)
    assert moved["a"].device == META
    assert moved["b"] is inner
    assert moved["c"] is there


def test_objects_move_themselves() -> None:
    encoding = Encoding(ones())
    moved = to_device((encoding, 3), META)
    assert moved[0].x.device == META
    assert encoding.x.device == CPU
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device({"x": packed}, META)["x"]
    assert isinstance(moved, PackedSequence)
    # Its sizes belong on the CPU.
    assert (moved.data.device, moved.batch_sizes.device) == (META, CPU)
    assert to_device(packed, CPU) is packed

    @dataclasses.dataclass
    class Graph:
        x: Tensor
        moves: int = 0

        def to(self, device: torch.device) -> Graph:
            return Graph(self.x.to(device), self.moves + 1)

    assert to_device(Graph(ones()), META).moves == 1


@pytest.mark.parametrize("batch", ["text", 5, None, {1, 2}, SimpleNamespace(to=3), Sample, [], {}])
def test_what_holds_no_tensor_stays(batch: Any) -> None:
    assert to_device(batch, META) is batch


def test_fields_that_share_a_name_with_the_method_are_fields() -> None:
    class Edge(NamedTuple):
        to: Tensor

    assert to_device(Edge(ones()), META).to.device == META


def test_pinned_sources_do_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def to(tensor: Tensor, *args: Any, **options: Any) -> str:
        seen.append((args, options))
        return "moved"

    monkeypatch.setattr(Tensor, "to", to)
    assert to_device([ones()], META) == ["moved"]
    assert seen == [((META,), {"non_blocking": True})]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(0, 3), 0),
        ([torch.tensor(1.0), {"a": "x", "b": torch.ones(7)}], 7),
        (OrderedDict(a=torch.ones(3), b=torch.ones(4)), 3),
        (Sample(torch.ones(6, 1), torch.ones(4)), 6),
        (Point(torch.tensor(1.0), torch.ones(5)), 5),
    ],
)
def test_samples_are_counted_by_the_first_tensor(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


@pytest.mark.parametrize(
    "batch", [5, "abc", torch.tensor(1.0), [], {"x": torch.tensor(1)}, Encoding(ones()), Sample]
)
def test_samples_that_cannot_be_counted(batch: Any) -> None:
    message = (
        "a batch must have a tensor whose first dimension counts its samples, or the step function "
        f"return StepOutput(loss, preds, target) with such a target; got {type(batch).__name__}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        batch_size(batch)


def test_device_of_a_model() -> None:
    assert device_of(nn.Linear(1, 1, device=META)) == META
    assert device_of(nn.BatchNorm1d(1, affine=False, device=META)) == META
    assert device_of(nn.ReLU()) == CPU
