"""Properties of the kernels that keep a second moment of rows and of columns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop.optimizers import Adafactor
from tests.conftest import needs_native

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# From vectors to stacks of stacks; 200 rows of 200 are more than one part.
SIZES = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 200])
SHAPES = st.one_of(
    st.tuples(SIZES),
    st.tuples(SIZES, SIZES),
    st.tuples(st.just(1), st.integers(1, 2000)),
    st.tuples(st.integers(1, 2000), st.just(1)),
    st.tuples(st.integers(1, 40), SIZES, SIZES).filter(lambda shape: math.prod(shape) < 200_000),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5)),
    st.lists(st.integers(0, 3), max_size=4).map(tuple),
)
OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(0.0, 0.5),
        "beta2_decay": st.floats(-1.0, 0.0),
        "eps": st.tuples(st.one_of(st.none(), st.floats(1e-10, 0.1)), st.floats(1e-3, 0.1)),
        "d": st.floats(1.0, 3.0),
        "weight_decay": st.floats(0.0, 0.1),
        "maximize": st.booleans(),
    }
)


def make(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((4, *shape), generator=generator, dtype=torch.float64).to(dtype)
    return values[0], [*values[1:]]


def train(optimizer: torch.optim.Optimizer, param: Tensor, grads: list[Tensor]) -> list[Tensor]:
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return [param, *(value for _, value in sorted(optimizer.state[param].items()))]


@given(shape=SHAPES, seed=st.integers(0, 1000), options=OPTIONS)
def test_any_shape_is_torchs_in_float64(
    shape: tuple[int, ...], seed: int, options: dict[str, object]
) -> None:
    start, grads = make(shape, seed, torch.float64)
    mine, other = (start.clone().requires_grad_() for _ in range(2))
    ours = train(Adafactor([mine], **options), mine, grads)
    if not start.numel():
        return  # torch divides by the number of elements.
    theirs = train(torch.optim.Adafactor([other], **options), other, grads)
    for a, b in zip(ours, theirs, strict=True):
        # Sums in another order, of up to 200,000 numbers; the largest parameters are near 4.
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@needs_native
@each_dtype
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_threads_do_not_change_the_bits(
    dtype: torch.dtype, shape: tuple[int, ...], seed: int
) -> None:
    start, grads = make(shape, seed, dtype)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        param = start.clone().requires_grad_()
        results.append(train(Adafactor([param], lr=0.5), param, grads))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@needs_native
@each_dtype
def test_threads_do_not_change_the_bits_of_many_tensors(dtype: torch.dtype) -> None:
    shapes = [(300, 500), (3, 3), (70, 70, 9), (0, 4), (1, 90_000), (4001, 33), (64, 64), (9,)]
    results = []
    for threads in (1, 2):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        params = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
        optimizer = Adafactor(params, lr=0.5)
        for _ in range(4):
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
        states = [optimizer.state[param].values() for param in params]
        results.append([*params, *(value for state in states for value in state)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@each_dtype
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 35)),
    offset=st.integers(0, 20),
)
def test_nothing_beyond_the_tensor_is_touched_or_measured(
    dtype: torch.dtype, shape: tuple[int, ...], offset: int
) -> None:
    # What was measured beyond the tensor would make its step NaN.
    numel = math.prod(shape)
    memory = torch.full((numel + 40,), float("nan"), dtype=dtype)
    gradient = memory.clone()
    inside = slice(offset, offset + numel)
    memory[inside], gradient[inside] = 7.0, 3.0
    param = memory[inside].view(shape).detach().requires_grad_()
    param.grad = gradient[inside].view(shape)
    Adafactor([param], lr=0.5).step()
    is_inside = torch.zeros(numel + 40, dtype=torch.bool)
    is_inside[inside] = True
    assert torch.equal(memory.isnan(), ~is_inside)
    assert torch.equal(gradient.isnan(), ~is_inside)
    assert (param != 7).all()


@given(shape=SHAPES, seed=st.integers(0, 1000), exponent=st.integers(-40, 40))
def test_the_scale_of_a_gradient_does_not_matter(
    shape: tuple[int, ...], seed: int, exponent: int
) -> None:
    # Powers of 2 scale exactly, and eps is far below every moment.
    start, grads = make(shape, seed, torch.float64)
    results = []
    for factor in (1.0, 2.0**exponent):
        param = start.clone().requires_grad_()
        optimizer = Adafactor([param], lr=0.5, eps=(1e-60, 1e-3))
        train(optimizer, param, [grad * factor for grad in grads])
        results.append(param)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
