"""float32 state and master weights of bfloat16 parameters."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.optimizers import Adam, AdamW
from tests.conftest import needs_native

SIZES = [0, 1, 7, 8, 9, 100, 257, 5003, 70_001]
OURS = {"Adam": Adam, "AdamW": AdamW}
each = pytest.mark.parametrize("name", OURS)
CASES: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.3, "maximize": True},
    {"lr": 0.1, "betas": (0.3, 0.6)},
    {"amsgrad": True},
]


def make(dtype: torch.dtype = torch.bfloat16, sizes: list[int] = SIZES) -> list[Tensor]:
    return [torch.randn(size).to(dtype).requires_grad_() for size in sizes]


def widened(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().float().requires_grad_() for param in params]


def set_grads(narrow: list[Tensor], wide: list[Tensor], scale: float = 1.0) -> None:
    for a, b in zip(narrow, wide):
        a.grad = (torch.randn(a.shape) * scale).to(a.dtype)
        b.grad = a.grad.float()


def assert_master_is(ours: Any, theirs: Any, mine: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(mine, other):
        state = dict(ours.state[a])
        assert torch.equal(state.pop("master"), b)
        assert torch.equal(a, b.to(a.dtype))
        assert state.keys() == theirs.state[b].keys()
        for key, value in theirs.state[b].items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", CASES, ids=str)
@each
def test_master_weights_have_the_bits_of_float32(
    name: str, options: dict[str, Any], threads: int, request: pytest.FixtureRequest
) -> None:
    is_fallback = "amsgrad" in options
    if is_fallback:
        request.getfixturevalue("lenient")
    mine = make()
    other = widened(mine)
    ours = OURS[name](mine, master_weights=True, **options)
    theirs = getattr(torch.optim, name)(other, fused=True, **options)
    for step in range(20):
        set_grads(mine, other, 10.0 ** (step % 7 - 3))
        torch.set_num_threads(threads)
        ours.step()
        torch.set_num_threads(1)
        theirs.step()
    assert_master_is(ours, theirs, mine, other)
    if is_fallback:
        assert ours.fallback_reason is not None
    assert all(len(state) == len(theirs.state[other[0]]) + 1 for state in ours.state.values())


@each
def test_float32_state_rounds_the_parameter_alone(name: str) -> None:
    mine = make()
    ours = OURS[name](mine, lr=0.01, state_dtype=torch.float32)
    other = widened(mine)
    theirs = getattr(torch.optim, name)(other, lr=0.01, fused=True)
    for _ in range(10):
        set_grads(mine, other)
        ours.step(), theirs.step()
        for a, b in zip(mine, other):
            assert torch.equal(a, b.bfloat16())
            for key, value in theirs.state[b].items():
                torch.testing.assert_close(ours.state[a][key], value, rtol=0, atol=0)
            # The next step starts from the rounded parameter.
            with torch.no_grad():
                b.copy_(a)


@each
def test_small_updates_are_lost_without_a_master(name: str) -> None:
    results = []
    for options in ({}, {"state_dtype": torch.float32}, {"master_weights": True}):
        param = torch.ones(100, dtype=torch.bfloat16, requires_grad=True)
        optimizer = OURS[name]([param], lr=1e-4, weight_decay=0.0, **options)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        results.append(param[0].item())
    # 1 - 100 * 1e-4; half the distance of bfloat16 numbers below 1 is 2e-3.
    assert results == [1, 1, 0.98828125]


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_parameters_are_as_without(name: str, dtype: torch.dtype) -> None:
    mine = make(dtype)
    other = [param.detach().clone().requires_grad_() for param in mine]
    ours, plain = OURS[name](mine, master_weights=True), OURS[name](other)
    for _ in range(3):
        for a, b in zip(mine, other):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step(), plain.step()
    for a, b in zip(mine, other):
        assert torch.equal(a, b)
        assert ours.state[a].keys() == plain.state[b].keys()


@each
@pytest.mark.usefixtures("lenient")
def test_half_precision_runs_on_torch(name: str) -> None:
    mine = make(torch.float16)
    other = widened(mine)
    ours = OURS[name](mine, master_weights=True)
    theirs = getattr(torch.optim, name)(other)

    def closure() -> int:
        set_grads(mine, other)
        return 3

    for _ in range(3):
        assert ours.step(closure) == 3
        theirs.step()
    assert_master_is(ours, theirs, mine, other)
    assert all(state["master"].grad is None for state in ours.state.values())
    assert len(ours.state) == len(mine)


@each
@pytest.mark.parametrize("options", [{"master_weights": True}, {"state_dtype": torch.float32}])
def test_state_dict_keeps_options_and_bits(name: str, options: dict[str, Any]) -> None:
    mine = make()
    unused = widened(mine)
    ours = OURS[name](mine, **options)
    set_grads(mine, unused)
    ours.step()
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other = [param.detach().clone().requires_grad_() for param in mine]
    again = OURS[name](other)
    again.load_state_dict(loaded)
    copied = copy.deepcopy(ours)
    third = copied.param_groups[0]["params"]
    for key, value in options.items():
        assert again.param_groups[0][key] == copied.param_groups[0][key] == value
    for _ in range(2):
        set_grads(mine, unused)
        for params in (other, third):
            for a, b in zip(params, mine):
                a.grad = b.grad.clone()
        ours.step(), again.step(), copied.step()
    for optimizer, params in ((again, other), (copied, third)):
        for a, b in zip(params, mine):
            assert torch.equal(a, b)
            for key, value in ours.state[b].items():
                assert optimizer.state[a][key].dtype == value.dtype
                assert torch.equal(optimizer.state[a][key], value)


@each
def test_torchs_state_dict_is_widened(name: str) -> None:
    mine = make()
    theirs = getattr(torch.optim, name)(mine, fused=True)
    set_grads(mine, widened(mine))
    theirs.step()
    ours = OURS[name](mine, master_weights=True)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.param_groups[0]["master_weights"] is True
    for param in mine:
        state = ours.state[param]
        assert state["exp_avg"].dtype == torch.float32
        assert torch.equal(state["master"], param.float())
    ours.step()


@each
def test_groups_have_their_own_options(name: str) -> None:
    mine = make(sizes=[100, 100, 100])
    groups = [{"params": mine[:1], "master_weights": True}, {"params": mine[1:2]}]
    ours = OURS[name](groups)
    ours.add_param_group({"params": mine[2:], "state_dtype": torch.float32})
    for _ in range(2):
        for param in mine:
            param.grad = torch.ones_like(param)
        ours.step()
    dtypes = [ours.state[param]["exp_avg"].dtype for param in mine]
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32]
    assert ["master" in ours.state[param] for param in mine] == [True, False, False]


@each
def test_groups_are_torchs_by_default(name: str) -> None:
    ours = OURS[name](make(sizes=[3]))
    theirs = getattr(torch.optim, name)(make(sizes=[3]))
    own = ours.param_groups[0].keys() - theirs.param_groups[0].keys()
    assert own == OURS[name].own_options.keys()
    assert not any(ours.param_groups[0][option] for option in own)


@each
def test_other_dtypes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"state_dtype must be torch.float32 or None"):
        OURS[name](make(), state_dtype=torch.float64)


@needs_native
@each
def test_the_kernels_run(name: str) -> None:
    for options in ({"master_weights": True}, {"state_dtype": torch.float32}):
        mine = make()
        ours = OURS[name](mine, **options)
        set_grads(mine, widened(mine))
        ours.step()
        assert ours.fallback_reason is None
