"""Properties that hold for every optimizer, length, dtype and number of threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import optimizers
from hotloop.optimizers import SGD, Adam, AdamW

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
    return params


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
        # The signs of zeros, too.
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


TORCH_RULES = ["RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TORCH_RULES)
@pytest.mark.usefixtures("rounded_roots")
@given(
    problem=problems(),
    lr=st.floats(0, 1),
    maximize=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_rule_is_torch(
    name: str, dtype: torch.dtype, problem: Any, lr: float, maximize: bool, threads: int
) -> None:
    options = {"lr": lr, "maximize": maximize}
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
