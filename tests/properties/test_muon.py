"""Properties of Muon: torch's bits, whatever the shape, the values and the options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop.optimizers import Muon
from tests.properties.test_optimizers import VALUES, assert_same

OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 1),
        "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
        # At 0 the sign of a zero in the buffer depends on the width of vectors.
        "momentum": st.floats(0.01, 1, exclude_max=True),
        "nesterov": st.booleans(),
        "adjust_lr_fn": st.sampled_from([None, "original", "match_rms_adamw"]),
        "ns_steps": st.integers(0, 6),
    }
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Any, Any]:
    # No columns are too few for the ratio of rows to columns.
    shape = st.tuples(st.integers(0, 9), st.integers(1, 9))
    shapes = draw(st.lists(shape, min_size=1, max_size=3))
    values = [st.lists(VALUES, min_size=a * b, max_size=a * b) for a, b in shapes]

    def matrices() -> list[Tensor]:
        return [torch.tensor(draw(v)).reshape(shape) for v, shape in zip(values, shapes)]

    return matrices(), [matrices() for _ in range(draw(st.integers(1, 4)))]


def train(make: Any, problem: Any, dtype: torch.dtype) -> list[Tensor]:
    start, grads = problem
    params = [param.to(dtype, copy=True).requires_grad_() for param in start]
    optimizer = make(params)
    for step in grads:
        for param, grad in zip(params, step):
            param.grad = grad.to(dtype, copy=True)
        optimizer.step()
    return [*params, *(optimizer.state[param]["momentum_buffer"] for param in params)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(problem=problems(), options=OPTIONS)
def test_muon_is_torch(dtype: torch.dtype, problem: Any, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    ours = train(lambda p: Muon(p, **options), problem, dtype)
    assert_same(ours, train(lambda p: torch.optim.Muon(p, **options), problem, dtype))
