"""Moving, resetting, remapping and measuring the state of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.optimizers import (
    SGD,
    Adam,
    AdamW,
    move_state,
    remap_state,
    reset_state,
    state_bytes,
)

#: Ours and torch's, which must agree after every helper, and another of torch's.
MAKES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "AdamW": (AdamW, lambda p: torch.optim.AdamW(p, fused=True)),
    "Adam": (
        lambda p: Adam(p, amsgrad=True),
        lambda p: torch.optim.Adam(p, amsgrad=True, fused=True),
    ),
    "SGD": (
        lambda p: SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    "RMSprop": (torch.optim.RMSprop, torch.optim.RMSprop),
}
each_pair = pytest.mark.parametrize("name", MAKES)


class Pair:
    """The same parameters under two optimizers, trained for three steps."""

    def __init__(self, name: str) -> None:
        self.params = [[torch.randn(n, requires_grad=True) for n in (40, 300, 1)]]
        self.params.append([p.detach().clone().requires_grad_() for p in self.params[0]])
        self.optimizers = [make(params) for make, params in zip(MAKES[name], self.params)]
        for _ in range(3):
            self.step()

    def step(self) -> None:
        for a, b in zip(*self.params):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in self.optimizers:
            optimizer.step()

    def check(self) -> None:
        self.step()
        for a, b in zip(*self.params):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            for key, value in self.optimizers[1].state[b].items():
                torch.testing.assert_close(self.optimizers[0].state[a][key], value, rtol=0, atol=0)


def copies(state: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()
    }


def assert_state(state: dict[str, Any], expected: dict[str, Any]) -> None:
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)


@each_pair
def test_reset_all(name: str) -> None:
    pair = Pair(name)
    for optimizer in pair.optimizers:
        reset_state(optimizer)
        assert not optimizer.state
    pair.check()
    if name != "SGD":
        assert float(pair.optimizers[0].state[pair.params[0][0]]["step"]) == 1


@each_pair
def test_reset_some(name: str) -> None:
    pair = Pair(name)
    kept = copies(pair.optimizers[0].state[pair.params[0][1]])
    for optimizer, params in zip(pair.optimizers, pair.params):
        reset_state(optimizer, [params[0], params[2]])
        assert set(optimizer.state) == {params[1]}
    assert_state(pair.optimizers[0].state[pair.params[0][1]], kept)
    pair.check()


def test_reset_of_a_stranger_forgets_nothing() -> None:
    pair = Pair("AdamW")
    with pytest.raises(ValueError, match=r"of shape \(2,\) is not in the optimizer"):
        reset_state(pair.optimizers[0], [pair.params[0][0], torch.zeros(2)])
    assert len(pair.optimizers[0].state) == 3


@each_pair
def test_remap_keeps_the_state_of_replaced_parameters(name: str) -> None:
    pair = Pair(name)
    for which, optimizer in enumerate(pair.optimizers):
        params = pair.params[which]
        states = [optimizer.state[param] for param in params]
        kept = [copies(state) for state in states]
        new = params[0].detach().clone().requires_grad_()
        group = optimizer.param_groups[0]
        listed = group["params"]
        remap_state(optimizer, {params[0]: new})
        assert optimizer.param_groups[0] is group
        assert group["params"] is listed
        assert [p is q for p, q in zip(listed, [new, *params[1:]])] == [True] * 3
        assert params[0] not in optimizer.state
        # Not even copied.
        assert optimizer.state[new] is states[0]
        for state, values in zip(states, kept):
            assert_state(state, values)
        pair.params[which] = [new, *params[1:]]
    pair.check()


@each_pair
def test_parameters_of_a_grown_model_start_empty(name: str) -> None:
    pair = Pair(name)
    for which, optimizer in enumerate(pair.optimizers):
        params = pair.params[which]
        new = params[1].detach().clone().requires_grad_()
        gained = torch.ones(7, requires_grad=True)
        remap_state(optimizer, {params[1]: new})
        optimizer.add_param_group({"params": [gained]})
        assert gained not in optimizer.state
        pair.params[which] = [params[0], new, params[2], gained]
    pair.check()


@each_pair
def test_parameters_may_trade_places(name: str) -> None:
    first, second = (torch.zeros(4, requires_grad=True) for _ in range(2))
    optimizer = MAKES[name][0]([first, second])
    first.grad, second.grad = torch.ones(4), torch.full((4,), 2.0)
    optimizer.step()
    states = [optimizer.state[first], optimizer.state[second]]
    remap_state(optimizer, {first: second, second: first})
    assert optimizer.state[second] is states[0]
    assert optimizer.state[first] is states[1]
    assert optimizer.param_groups[0]["params"][0] is second


def test_remap_to_another_dtype_converts_the_moments() -> None:
    pair = Pair("AdamW")
    for which, optimizer in enumerate(pair.optimizers):
        params = pair.params[which]
        new = params[1].detach().double().requires_grad_()
        remap_state(optimizer, {params[1]: new})
        state = optimizer.state[new]
        assert {key: value.dtype for key, value in state.items()} == {
            "step": torch.float32,
            "exp_avg": torch.float64,
            "exp_avg_sq": torch.float64,
        }
        pair.params[which] = [params[0], new, params[2]]
    pair.check()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (lambda p: {torch.zeros(3): torch.zeros(3)}, "is not in the optimizer"),
        (lambda p: {p[0]: torch.zeros(41)}, r"shape \(41,\) cannot take over .* shape \(40,\)"),
        (lambda p: {p[0]: p[1]}, "in the optimizer already"),
        (lambda p: dict.fromkeys(p[:2], torch.zeros(40)), "given twice"),
    ],
)
def test_a_bad_mapping_changes_nothing(mapping: Any, message: str) -> None:
    pair = Pair("AdamW")
    params = pair.params[0]
    with pytest.raises(ValueError, match=message):
        remap_state(pair.optimizers[0], mapping(params))
    assert all(p is q for p, q in zip(pair.optimizers[0].param_groups[0]["params"], params))
    assert set(pair.optimizers[0].state) == set(params)
    pair.check()


@each_pair
def test_move_to_where_it_is_changes_nothing(name: str) -> None:
    pair = Pair(name)
    before = [dict(pair.optimizers[0].state[param]) for param in pair.params[0]]
    for optimizer in pair.optimizers:
        move_state(optimizer, "cpu")
        move_state(optimizer, dtype=torch.float32)
    for param, state in zip(pair.params[0], before):
        assert all(pair.optimizers[0].state[param][key] is value for key, value in state.items())
    pair.check()


@each_pair
def test_move_to_another_dtype_and_back(name: str) -> None:
    pair = Pair(name)
    for optimizer in pair.optimizers:
        for param, state in optimizer.state.items():
            assert state["step"].dtype == torch.float32 if "step" in state else True
            assert param.dtype == torch.float32
        move_state(optimizer, dtype=torch.float64)
        for state in optimizer.state.values():
            dtypes = {key: value.dtype for key, value in state.items() if key != "step"}
            assert set(dtypes.values()) == {torch.float64}
            assert state.get("step", torch.zeros(())).dtype == torch.float32
        move_state(optimizer, dtype=torch.float32)
    pair.check()


def test_move_to_another_device_takes_nested_tensors_but_not_the_count() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = AdamW([param])
    param.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[param]["history"] = [torch.ones(2), {"a": (torch.ones(1), "text")}]
    move_state(optimizer, "meta")
    state = optimizer.state[param]
    assert state["exp_avg"].device.type == "meta"
    assert state["history"][0].device.type == "meta"
    assert state["history"][1]["a"][0].device.type == "meta"
    assert state["history"][1]["a"][1] == "text"
    assert state["step"].device.type == "cpu"


def test_a_dtype_that_is_no_float_is_refused() -> None:
    pair = Pair("AdamW")
    with pytest.raises(ValueError, match=r"must be a floating-point dtype, got torch\.int64"):
        move_state(pair.optimizers[0], dtype=torch.int64)
    pair.check()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("AdamW", 3 * 4 + 2 * 341 * 4), ("Adam", 3 * 4 + 3 * 341 * 4), ("SGD", 341 * 4)],
)
def test_bytes(name: str, expected: int) -> None:
    pair = Pair(name)
    assert [state_bytes(optimizer) for optimizer in pair.optimizers] == [expected] * 2
    for optimizer in pair.optimizers:
        reset_state(optimizer)
    assert state_bytes(pair.optimizers[0]) == 0


def test_bytes_count_shared_tensors_once() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([param], lr=1.0)
    shared = torch.ones(10)
    optimizer.state[param] = {"a": shared, "b": [shared, {"c": torch.ones(1)}], "n": 3}
    assert state_bytes(optimizer) == 44


def test_numbers_of_one_element_parameters_keep_their_dtype() -> None:
    param = torch.ones((), requires_grad=True)
    param.grad = torch.ones(())
    optimizer = torch.optim.AdamW([param], fused=True)
    optimizer.step()
    move_state(optimizer, dtype=torch.float64)
    dtypes = {key: value.dtype for key, value in optimizer.state[param].items()}
    assert dtypes == {
        "step": torch.float32,
        "exp_avg": torch.float64,
        "exp_avg_sq": torch.float64,
    }
