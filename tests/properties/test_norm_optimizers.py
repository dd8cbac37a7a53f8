"""Properties of the optimizers that measure whole tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop.optimizers import LAMB, LARS, Adafactor, Prodigy
from tests.conftest import needs_native

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
each_optimizer = pytest.mark.parametrize("ours", [LAMB, LARS, Adafactor, Prodigy])

# What moves a bfloat16.
LARGE_STEP = {LAMB: {"lr": 0.5}, LARS: {"lr": 50.0}, Adafactor: {"lr": 0.5}, Prodigy: {"d0": 1.0}}


@needs_native
@each_optimizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_do_not_change_the_bits(ours: Any, dtype: torch.dtype) -> None:
    results = []
    for threads in (1, 2):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        params = [torch.randn(n).to(dtype).requires_grad_() for n in (100_003, 1, 0, 255, 40_000)]
        optimizer = ours(params, lr=0.1)
        for _ in range(5):
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
        results.append(params)
    for a, b in zip(*results):
        assert torch.equal(a, b)


@each_optimizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(length=st.integers(0, 67), offset=st.integers(0, 20))
def test_nothing_beyond_the_tensor_is_touched_or_measured(
    ours: Any, dtype: torch.dtype, length: int, offset: int
) -> None:
    # What was measured beyond the tensor would make its step NaN.
    memory = torch.full((length + 40,), float("nan"), dtype=dtype)
    gradient = memory.clone()
    inside = slice(offset, offset + length)
    memory[inside], gradient[inside] = 7.0, 3.0
    param = memory[inside].detach().requires_grad_()
    param.grad = gradient[inside]
    ours([param], **LARGE_STEP[ours]).step()
    is_inside = torch.zeros(length + 40, dtype=torch.bool)
    is_inside[inside] = True
    assert torch.equal(memory.isnan(), ~is_inside)
    assert torch.equal(gradient.isnan(), ~is_inside)
    assert (param != 7).all()


@pytest.mark.parametrize("ours", [LAMB, LARS])
@given(exponent=st.integers(-60, 60), seed=st.integers(0, 1000))
def test_the_scale_of_a_gradient_does_not_matter(ours: Any, exponent: int, seed: int) -> None:
    # Powers of 2 scale exactly, and squares of float64 stay far from its limits.
    generator = torch.Generator().manual_seed(seed)
    start, grad = torch.randn((2, 300), generator=generator, dtype=torch.float64)
    results = []
    for factor in (1.0, 2.0**exponent):
        param = start.clone().requires_grad_()
        param.grad = grad * factor
        ours([param], lr=1.0, eps=0.0, weight_decay=0.0).step()
        results.append(param)
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-14)
