"""Properties that hold for every optimizer, length, dtype and number of threads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import optimizers
from hotloop.optimizers import SGD, Adam, AdamW, torch_fused_step

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
BOUNDARY = st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-38, 3e38, float("inf"), float("-inf"), float("nan")]
)
VALUES = st.one_of(BOUNDARY, st.floats(-100, 100, width=32))
ADAM = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 1),
        "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
        "eps": st.sampled_from([0.0, 1e-8, 1e-3]),
        "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
        "maximize": st.booleans(),
        "amsgrad": st.booleans(),
    }
)
SGD_OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 1),
        "momentum": st.sampled_from([0.0, 0.5, 0.99]),
        "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
        "maximize": st.booleans(),
    },
    optional={"dampening": st.floats(0, 1)},
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[list[list[float]]]]:
    lengths = draw(st.lists(st.integers(0, 67), min_size=1, max_size=4))
    vector = [st.lists(VALUES, min_size=n, max_size=n) for n in lengths]
    steps = draw(st.integers(1, 4))
    return [draw(v) for v in vector], [[draw(v) for v in vector] for _ in range(steps)]


def train(make: Any, problem: Any, dtype: torch.dtype, threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    start, grads = problem
    params = [torch.tensor(p, dtype=torch.float64).to(dtype).requires_grad_() for p in start]
    optimizer = make(params)
    for step in grads:
        for param, grad in zip(params, step):
            param.grad = torch.tensor(grad, dtype=torch.float64).to(dtype)
        optimizer.step()
    state = [optimizer.state.get(param, {}) for param in params]
    return [*params, *(entry[key] for entry in state for key in sorted(entry))]


def assert_same(
    a: list[torch.Tensor], b: list[torch.Tensor], *, with_zero_signs: bool = True
) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
        # The signs of zeros, too.
        if with_zero_signs:
            assert torch.equal(torch.signbit(x[x == 0]), torch.signbit(y[y == 0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@given(problem=problems(), options=ADAM, threads=st.sampled_from([1, 2]))
def test_adam_is_torch_fused(
    name: str, dtype: torch.dtype, problem: Any, options: dict[str, Any], threads: int
) -> None:
    ours = train(
        lambda p: {"Adam": Adam, "AdamW": AdamW}[name](p, **options), problem, dtype, threads
    )
    reference = getattr(torch.optim, name)
    assert_same(ours, train(lambda p: reference(p, fused=True, **options), problem, dtype, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(problem=problems(), options=SGD_OPTIONS, threads=st.sampled_from([1, 2]))
def test_sgd_is_torch(
    dtype: torch.dtype, problem: Any, options: dict[str, Any], threads: int
) -> None:
    ours = train(lambda p: SGD(p, **options), problem, dtype, threads)
    assert_same(ours, train(lambda p: torch.optim.SGD(p, **options), problem, dtype, 1))


ADAMS: dict[str, st.SearchStrategy[Any]] = {
    # At beta1 = 0 the sign of a zero in the first moment depends on the width of vectors.
    "betas": st.tuples(st.floats(0.01, 0.999), st.floats(0, 0.9999)),
    "eps": st.sampled_from([0.0, 1e-8, 1e-3]),
    "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
}
DECAY = {"weight_decay": ADAMS["weight_decay"], "eps": ADAMS["eps"]}
TORCH_RULES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "RMSprop": {
        **DECAY,
        # As beta1 = 0 below, of the mean gradient.
        "alpha": st.floats(0.01, 1),
        "momentum": st.sampled_from([0.0, 0.5, 0.99]),
        "centered": st.booleans(),
    },
    "Adagrad": {
        **DECAY,
        "lr_decay": st.floats(0, 1),
        "initial_accumulator_value": st.sampled_from([0.0, 0.3]),
    },
    "Adadelta": {**DECAY, "rho": st.floats(0, 1)},
    "Adamax": ADAMS,
    "NAdam": {
        **ADAMS,
        "momentum_decay": st.floats(0, 1),
        "decoupled_weight_decay": st.booleans(),
    },
    "RAdam": {**ADAMS, "decoupled_weight_decay": st.booleans()},
    "Rprop": {
        # An etaminus that is 1 in float32 would hold torch's parameters where they are.
        "etas": st.tuples(st.floats(0.01, 0.99), st.floats(1.01, 3)),
        "step_sizes": st.sampled_from([(1e-6, 50.0), (0.0, 1e30), (1e-3, 0.1)]),
    },
    "ASGD": {
        "lambd": st.floats(0, 1),
        "alpha": st.floats(0, 1),
        "t0": st.sampled_from([0.0, 1.0, 1.5, 1e6]),
        "weight_decay": ADAMS["weight_decay"],
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TORCH_RULES)
@pytest.mark.usefixtures("rounded_roots")
@given(data=st.data(), problem=problems(), threads=st.sampled_from([1, 2]))
def test_rule_is_torch(
    name: str, dtype: torch.dtype, data: st.DataObject, problem: Any, threads: int
) -> None:
    strategies = {"lr": st.floats(0, 1), "maximize": st.booleans(), **TORCH_RULES[name]}
    options = data.draw(st.fixed_dictionaries(strategies), label="options")
    ours = train(lambda p: getattr(optimizers, name)(p, **options), problem, dtype, threads)
    reference = getattr(torch.optim, name)
    assert_same(ours, train(lambda p: reference(p, foreach=False, **options), problem, dtype, 1))


@pytest.mark.parametrize("ours", [SGD, Adam, AdamW])
def test_threads_do_not_change_the_bits(ours: type) -> None:
    results = []
    for threads in (1, 2):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        params = [torch.randn(n, requires_grad=True) for n in (100_003, 1, 0, 255, 40_000)]
        optimizer = ours(params, lr=0.1)
        for _ in range(5):
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
        results.append(params)
    assert_same(*results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ours", [SGD, Adam, AdamW])
@given(length=st.integers(0, 67), offset=st.integers(0, 20))
def test_nothing_beyond_the_tensor_is_touched(
    ours: type, dtype: torch.dtype, length: int, offset: int
) -> None:
    memory = torch.full((length + 40,), 7.0, dtype=dtype)
    param = memory[offset : offset + length].detach().requires_grad_()
    gradient = torch.full((length + 40,), 3.0, dtype=dtype)
    param.grad = gradient[offset : offset + length]
    ours([param], lr=0.5).step()
    assert (gradient == 3).all()
    assert (memory[:offset] == 7).all()
    assert (memory[offset + length :] == 7).all()
    assert (memory[offset : offset + length] != 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(
    problem=problems(),
    max_norm=st.sampled_from([None, 0.0, 1e-30, 1e-3, 1.0, 50.0, 1e30, math.inf]),
    grad_factor=st.sampled_from([1.0, 0.5, 2.0**-16]),
    threads=st.sampled_from([1, 2]),
)
def test_fused_step_is_its_sequence(
    dtype: torch.dtype, problem: Any, max_norm: float | None, grad_factor: float, threads: int
) -> None:
    torch.set_num_threads(threads)
    start, grads = problem
    options = {"lr": 0.1, "momentum": 0.9}
    lists = [
        [torch.tensor(p, dtype=torch.float64).to(dtype).requires_grad_() for p in start]
        for _ in range(2)
    ]
    ours, theirs = SGD(lists[0], **options), torch.optim.SGD(lists[1], **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1 / grad_factor) if grad_factor < 1 else None
    is_clipped = False
    for step in grads:
        for params in lists:
            for param, grad in zip(params, step):
                param.grad = torch.tensor(grad, dtype=torch.float64).to(dtype)
        if scaler is not None:
            scaler.scale(torch.zeros(()))
        report = ours.fused_step(max_norm=max_norm, scaler=scaler)
        if scaler is not None:
            scaler.update(1 / grad_factor)
        expected = torch_fused_step(
            theirs,
            theirs.step,
            max_norm=math.inf if scaler is not None and max_norm is None else max_norm,
            grad_factor=grad_factor,
            zero_grad=False,
        )
        assert report.is_applied == expected.is_applied
        if expected.grad_norm is not None and expected.is_applied:
            assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12, abs=1e-300)
            is_clipped |= expected.grad_norm > (math.inf if max_norm is None else max_norm)
        # The factor depends on the last bit of the norm, and so on the order of its sum.
        scale = max((abs(g) for row in step for g in row if math.isfinite(g)), default=0.0)
        atol = 1e-5 * min(scale, 1e31) if is_clipped else 0.0
        for a, b in zip(*lists):
            rtol = 1e-5 if is_clipped else 0.0
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)
