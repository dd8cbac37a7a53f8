"""Optimizers by name, and the groups that decay."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotloop.optimizers
from hotloop.optimizers import AdamW, NativeStep, create_optimizer, decay_groups

NAMES = [
    name
    for name in hotloop.optimizers.__all__
    if isinstance(getattr(hotloop.optimizers, name), type)
    and issubclass(getattr(hotloop.optimizers, name), torch.optim.Optimizer)
    and name != "NativeStep"
]


class Model(nn.Module):
    """One of everything, with a head tied to the embedding and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
        self.own = nn.MultiheadAttention(8, 2)
        self.conv = nn.Conv1d(8, 8, 3)
        self.norm = nn.LayerNorm((2, 8))
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


def names_in(model: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    names = {id(param): name for name, param in model.named_parameters()}
    return [[names[id(param)] for param in group["params"]] for group in groups]


DECAYING = {
    "attention.q_proj_weight",
    "attention.k_proj_weight",
    "attention.v_proj_weight",
    "attention.out_proj.weight",
    "own.in_proj_weight",
    "own.out_proj.weight",
    "conv.weight",
    # Two dimensions, as a norm over the last two has.
    "norm.weight",
    "norm.bias",
    "out.weight",
}


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({}, set()),
        ({"decay_embeddings": True}, {"embed.weight"}),
        ({"no_decay": (nn.LayerNorm,)}, {"norm.weight", "norm.bias"}),
        ({"no_decay": (nn.Conv1d, nn.Linear), "decay_embeddings": True}, None),
    ],
)
def test_groups(options: dict[str, Any], difference: set[str] | None) -> None:
    model = Model()
    groups = decay_groups(model, 0.3, **options)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    decaying, others = map(set, names_in(model, groups))
    if difference is None:
        # The head is linear, so the table that it shares is exempt as well.
        expected = {name for name in DECAYING if "proj_weight" in name or "norm" in name}
    else:
        expected = DECAYING ^ difference
    assert decaying == expected
    trainable = {name for name, param in model.named_parameters() if param.requires_grad}
    assert decaying | others == trainable
    assert not decaying & others
    assert sum(len(group["params"]) for group in groups) == len(trainable)


def test_order_is_that_of_the_names() -> None:
    class Reversed(nn.Module):
        def __init__(self, names: str) -> None:
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(2, 2))

    listed = [names_in(m, decay_groups(m, 0.1)) for m in (Reversed("abc"), Reversed("cab"))]
    assert (
        listed[0]
        == listed[1]
        == [["a.weight", "b.weight", "c.weight"], ["a.bias", "b.bias", "c.bias"]]
    )


def test_a_group_without_parameters_is_left_out() -> None:
    (group,) = decay_groups(nn.Linear(2, 2, bias=False), 0.1)
    assert group["weight_decay"] == 0.1
    (group,) = decay_groups(nn.Embedding(2, 2), 0.1)
    assert group["weight_decay"] == 0.0


@pytest.mark.parametrize("weight_decay", [-1.0, math.nan, math.inf])
def test_bad_weight_decay_raises(weight_decay: float) -> None:
    model = nn.Linear(2, 2)
    for make in (
        lambda: decay_groups(model, weight_decay),
        lambda: create_optimizer(model, "adamw", 0.1, weight_decay),
    ):
        with pytest.raises(ValueError, match="weight_decay must be at least 0 and finite"):
            make()


@pytest.mark.parametrize("name", NAMES)
def test_every_export_has_its_name(name: str) -> None:
    model = nn.Linear(3, 3, bias=False)
    for written in (name, name.lower(), name.upper()):
        optimizer = create_optimizer(model, written, 0.25)
        assert type(optimizer) is getattr(hotloop.optimizers, name)
        assert isinstance(optimizer, NativeStep)
        assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    "make", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Rprop, torch.optim.LBFGS, AdamW]
)
def test_any_class_of_torch_serves(make: Any) -> None:
    assert type(create_optimizer(Model(), make, 0.1)) is make


def test_options_and_groups_reach_the_optimizer() -> None:
    model = Model()
    optimizer = create_optimizer(
        model, "adamw", 0.1, 0.5, decay_embeddings=True, betas=(0.5, 0.6), eps=1e-3
    )
    decaying, others = optimizer.param_groups
    assert set(names_in(model, [decaying])[0]) == DECAYING | {"embed.weight"}
    for group, weight_decay in ((decaying, 0.5), (others, 0.0)):
        got = [group[key] for key in ("lr", "weight_decay", "betas", "eps")]
        assert got == [0.1, weight_decay, (0.5, 0.6), 1e-3]


@pytest.mark.parametrize(("decay", "expected"), [("all", 0.5), ("none", 0.0)])
def test_one_group_for_all_or_none(decay: str, expected: float) -> None:
    model = Model()
    (group,) = create_optimizer(model, "sgd", 0.1, 0.5, decay=decay).param_groups
    assert group["weight_decay"] == expected
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())


def test_default_weight_decay_is_that_of_the_class() -> None:
    model = Model()
    assert create_optimizer(model, "adamw", 0.1).param_groups[0]["weight_decay"] == 0.01
    assert create_optimizer(model, "adam", 0.1).param_groups[0]["weight_decay"] == 0


def test_learning_rate_may_be_a_tensor() -> None:
    rate = torch.tensor(0.5)
    assert create_optimizer(Model(), "sgd", rate).param_groups[0]["lr"] is rate


BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (
        ("adamx", 0.1),
        {},
        ValueError,
        r"unknown optimizer 'adamx' \(did you mean 'adam\w*'\?\); it is",
    ),
    (("zzz", 0.1), {}, ValueError, r"unknown optimizer 'zzz'; it is one of .*adamw.*sgd"),
    ((3, 0.1), {}, TypeError, "name must be a str or a torch.optim.Optimizer class, got 3"),
    ((nn.Linear, 0.1), {}, TypeError, "name must be a str or"),
    (("NativeStep", 0.1), {}, ValueError, "unknown optimizer 'NativeStep'"),
    (
        ("adamw", 0.1),
        {"beta": 1},
        TypeError,
        r"unknown option of AdamW 'beta' \(did you mean 'betas'\?\); it is one of amsgrad, betas,",
    ),
    (("sgd", 0.1), {"lr": 0.1}, TypeError, "unknown option of SGD 'lr'"),
    (("sgd", 0.1), {"decay": "some"}, ValueError, "unknown decay 'some'; it is one of all, matr"),
    ((torch.optim.Rprop, 0.1, 0.1), {}, TypeError, "Rprop has no weight_decay, got 0.1"),
    (("sgd", -1.0), {}, ValueError, "learning_rate must be at least 0 and finite, got -1.0"),
    (("sgd", math.nan), {}, ValueError, "learning_rate must be"),
    (("sgd", math.inf), {}, ValueError, "learning_rate must be"),
    (("adam", 0.1), {"betas": (0.9, 1.0)}, ValueError, r"betas must be in \[0, 1\), got"),
    (("adam", 0.1), {"betas": (-0.1, 0.9)}, ValueError, "betas must be in"),
    (("adam", 0.1), {"betas": (math.nan, 0.9)}, ValueError, "betas must be in"),
    (("adam", 0.1), {"eps": 0.0}, ValueError, "eps must be above 0 and finite, got 0.0"),
    ((torch.optim.Adafactor, 0.1), {"eps": (None, 0.0)}, ValueError, "eps must be above 0"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments_raise(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_optimizer(Model(), *arguments, **options)


def test_it_trains_and_spares_the_frozen() -> None:
    model = Model()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer = create_optimizer(model, "adamw", 0.1)
    for param in model.parameters():
        if param.requires_grad:
            param.grad = torch.ones_like(param)
    optimizer.step()

    def moved(name: str, param: Tensor) -> bool:
        return not torch.equal(before[name], param)

    assert all(moved(n, p) == p.requires_grad for n, p in model.named_parameters())
