"""Every optimizer against the torch optimizer that it replaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import optimizers
from hotloop.optimizers import SGD, Adam, AdamW
from tests.conftest import needs_native

STEPS = 50
LENGTHS = [*range(68), 255, 256, 257, 1000, 5000]

# torch's fused Adam is the reference of ours; torch's SGD is its single-tensor loop.
ADAM_CASES: list[dict[str, Any]] = [
    {},
    {"amsgrad": True},
    {"weight_decay": 0.0},
    {"weight_decay": 0.3, "maximize": True},
    {"betas": (0.0, 0.9)},
    {"betas": (0.5, 0.5), "eps": 0.0},
    {"betas": (0.3, 0.999), "lr": 0.1},
    {"lr": 0.0},
]
SGD_CASES: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.5, "maximize": True},
]


def make(sizes: Iterable[int], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    ours = [torch.randn(size).to(dtype).requires_grad_() for size in sizes]
    return ours, [param.detach().clone().requires_grad_() for param in ours]


def run(
    ours: Any,
    theirs: Any,
    mine: list[Tensor],
    other: list[Tensor],
    threads: int = 2,
) -> None:
    """Step both optimizers on the same gradients of growing and shrinking scale."""
    for step in range(STEPS):
        for a, b in zip(mine, other):
            grad = (torch.randn(a.shape) * 10.0 ** (step % 7 - 3)).to(a.dtype)
            a.grad, b.grad = grad.clone(), grad
        torch.set_num_threads(threads)
        ours.step()
        # torch wakes its threads for each of its many small tensors.
        torch.set_num_threads(1)
        theirs.step()


def assert_same_bits(ours: Any, theirs: Any, mine: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(mine, other):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert ours.state[a].keys() == theirs.state[b].keys()
        for key, value in theirs.state[b].items():
            torch.testing.assert_close(ours.state[a][key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", ADAM_CASES, ids=str)
@pytest.mark.parametrize("name", ["AdamW", "Adam"])
def test_adam_has_the_bits_of_torch_fused(
    name: str, options: dict[str, Any], dtype: torch.dtype, threads: int
) -> None:
    mine, other = make(LENGTHS, dtype)
    ours = {"AdamW": AdamW, "Adam": Adam}[name](mine, **options)
    theirs = getattr(torch.optim, name)(other, fused=True, **options)
    run(ours, theirs, mine, other, threads)
    assert_same_bits(ours, theirs, mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_adam_with_decoupled_weight_decay(dtype: torch.dtype) -> None:
    options = {"weight_decay": 0.3, "decoupled_weight_decay": True}
    mine, other = make(LENGTHS, dtype)
    ours, theirs = Adam(mine, **options), torch.optim.Adam(other, fused=True, **options)
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)


# Two estimates with a Newton step each, 2^-21 and 2^-21, and roundings of float32.
FAST = 2.0**-19


@needs_native
@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", ["AdamW", "Adam"])
def test_fast_math_is_off_by_at_most_its_bound(name: str, scale: float) -> None:
    kind = {"AdamW": AdamW, "Adam": Adam}[name]
    sizes = [0, 1, 15, 16, 17, 24, 1003]
    mine, other = make(sizes, torch.float32)
    fast, exact = (
        kind(p, lr=0.01, weight_decay=0.0, fast_math=f) for p, f in ((mine, True), (other, False))
    )
    for _ in range(10):
        for a, b in zip(mine, other):
            with torch.no_grad():
                a.zero_(), b.zero_()
            a.grad = torch.randn(a.shape) * scale
            b.grad = a.grad.clone()
        fast.step(), exact.step()
        for a, b in zip(mine, other):
            torch.testing.assert_close(a, b, rtol=FAST, atol=0)
    assert fast.fallback_reason is None
    assert any(not torch.equal(a, b) for a, b in zip(mine, other))


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"eps": 0.0}], ids=str)
def test_fast_math_stays_exact_where_it_says_so(options: dict[str, Any]) -> None:
    mine, other = make([1003], torch.float32)
    ours = AdamW(mine, fast_math=True, **options)
    theirs = torch.optim.AdamW(other, fused=True, **options)
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)


def test_weight_decay_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(3)
    for lr, decay in torch.rand((200, 2), generator=generator, dtype=torch.float64).tolist():
        mine, other = make([5], torch.float64)
        mine[0].grad, other[0].grad = torch.zeros_like(mine[0]), torch.zeros_like(other[0])
        AdamW(mine, lr=lr, weight_decay=decay).step()
        torch.optim.AdamW(other, lr=lr, weight_decay=decay, fused=True).step()
        torch.testing.assert_close(mine[0], other[0], rtol=0, atol=0)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adamw_on_180_tensors_of_mixed_sizes(dtype: torch.dtype, amsgrad: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(0, 30_000, (180,), generator=generator).tolist()
    mine, other = make(sizes, dtype)
    ours = AdamW(mine, amsgrad=amsgrad)
    theirs = torch.optim.AdamW(other, amsgrad=amsgrad, fused=True)
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", SGD_CASES, ids=str)
def test_sgd_has_the_bits_of_torch(options: dict[str, Any], dtype: torch.dtype) -> None:
    mine, other = make(LENGTHS, dtype)
    ours, theirs = SGD(mine, **options), torch.optim.SGD(other, **options)
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)


TORCH_CASES: list[tuple[str, dict[str, Any]]] = [
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "maximize": True}),
    ("RMSprop", {"centered": True, "alpha": 0.5}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1}),
    ("Adagrad", {"initial_accumulator_value": 0.5, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"weight_decay": 0.1, "rho": 0.5, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1, "betas": (0.3, 0.5), "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.3, 0.5)}),
    ("NAdam", {"maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.3, 0.5)}),
    ("RAdam", {"maximize": True}),
    # A power of beta2 below 1/2, where 1 - (1 - power) is no longer the power.
    ("RAdam", {"betas": (0.5, 0.9)}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"t0": 5, "lambd": 0.01, "weight_decay": 0.1}),
    ("ASGD", {"alpha": 0.3, "maximize": True}),
]
each_torch_case = pytest.mark.parametrize(
    ("name", "options"), TORCH_CASES, ids=[f"{n} {o}" for n, o in TORCH_CASES]
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_torch_case
@pytest.mark.usefixtures("rounded_roots")
def test_rule_has_the_bits_of_torch(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    mine, other = make(LENGTHS, dtype)
    ours = getattr(optimizers, name)(mine, **options)
    theirs = getattr(torch.optim, name)(other, foreach=False, **options)
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)


# MKL's root is off by a unit in the last place at most, and so is the update then. Momentum
# 0.9 adds up ten of them, and RMSprop's first ones are as large as the parameters here.
ROOT_ULPS = 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_torch_case
def test_rule_is_near_torch_with_its_own_roots(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    mine, other = make(LENGTHS, dtype)
    ours = getattr(optimizers, name)(mine, **options)
    theirs = getattr(torch.optim, name)(other, **options)
    run(ours, theirs, mine, other)
    eps = torch.finfo(dtype).eps
    for a, b in zip(mine, other):
        torch.testing.assert_close(a, b, rtol=ROOT_ULPS * eps, atol=ROOT_ULPS / 10 * eps)


def test_a_nan_in_the_largest_moment_stays_as_in_torch() -> None:
    mine, other = make([40], torch.float32)
    ours, theirs = Adam(mine, amsgrad=True), torch.optim.Adam(other, amsgrad=True, fused=True)
    for step in range(3):
        for optimizer, param in ((ours, mine[0]), (theirs, other[0])):
            param.grad = torch.ones(40)
            if step == 1:
                optimizer.state[param]["max_exp_avg_sq"][::2] = torch.nan
            optimizer.step()
    assert_same_bits(ours, theirs, mine, other)


def test_adagrad_starts_a_later_group_where_its_constructor_said() -> None:
    mine, other = make([5, 6], torch.float32)
    values = {"initial_accumulator_value": 0.5}
    ours, theirs = optimizers.Adagrad(mine[:1], **values), torch.optim.Adagrad(other[:1], **values)
    for optimizer, params in ((ours, mine), (theirs, other)):
        optimizer.add_param_group({"params": params[1:], "initial_accumulator_value": 2.0})
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        assert optimizer.state[params[1]]["sum"].tolist() == [1.5] * 6
    assert_same_bits(ours, theirs, mine, other)


@needs_native
@each_torch_case
def test_bfloat16_rule_rounds_once(name: str, options: dict[str, Any]) -> None:
    (mine,), (other,) = make([5003], torch.bfloat16)
    ours = getattr(optimizers, name)([mine], **options)
    theirs = getattr(torch.optim, name)([other], foreach=False, **options)
    ours_off = torch_off = 0.0
    for _ in range(20):
        other.grad = torch.randn(5003).bfloat16()
        exact = other.detach().double().requires_grad_()
        exact.grad = other.grad.double()
        reference = getattr(torch.optim, name)([exact], foreach=False, **options)
        # All three take this step from torch's state.
        if other in theirs.state:
            for key, value in theirs.state[other].items():
                wide = value.double() if value.numel() > 1 else value.clone()
                reference.state[exact][key] = wide
                if mine in ours.state:
                    ours.state[mine][key].copy_(value)
        with torch.no_grad():
            mine.copy_(other)
        mine.grad = other.grad.clone()
        ours.step(), theirs.step(), reference.step()
        with torch.no_grad():
            ours_off += float((mine.double() - exact).abs().mean())
            torch_off += float((other.double() - exact).abs().mean())
    assert ours.fallback_reason is None
    assert ours_off <= torch_off * 1.001


# Half the distance between neighbours is at most 2^-8 of the value; the float32 arithmetic
# before the rounding may add a little.
ROUNDED_ONCE = 2.0**-8 * 1.001


@needs_native
@pytest.mark.parametrize("options", SGD_CASES, ids=str)
def test_bfloat16_sgd_rounds_once(options: dict[str, Any]) -> None:
    (mine,), (other,) = make([5003], torch.bfloat16)
    ours, theirs = SGD([mine], **options), torch.optim.SGD([other], **options)
    for _ in range(20):
        other.grad = torch.randn(5003).bfloat16()
        exact = other.detach().double().requires_grad_()
        exact.grad = other.grad.double()
        reference = torch.optim.SGD([exact], **options)
        if other in theirs.state:
            buffer = theirs.state[other]["momentum_buffer"]
            reference.state[exact]["momentum_buffer"] = buffer.double()
            ours.state[mine]["momentum_buffer"].copy_(buffer)
        with torch.no_grad():
            mine.copy_(other)
        mine.grad = other.grad.clone()
        ours.step(), theirs.step(), reference.step()
        ours_off, torch_off = (
            ((param.double() - exact).abs() / (exact.abs() + 1e-3)).max() for param in (mine, other)
        )
        assert ours_off <= ROUNDED_ONCE
        # torch rounds lr, weight decay and 1 - dampening to bfloat16 as well, and again
        # after each of its operators.
        assert ours_off <= torch_off
