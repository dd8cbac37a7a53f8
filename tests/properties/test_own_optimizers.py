"""The optimizers that torch lacks: kernel and twin agree on every length, value and option."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import optimizers
from tests.conftest import needs_native
from tests.parity.test_own_optimizers import twin_of
from tests.properties.test_optimizers import DTYPES, assert_same, problems, train

# At 0 the sign of a zero in a moment depends on the width of vectors.
BETA = st.floats(0.01, 0.9999)
EPS = st.sampled_from([1e-30, 1e-8, 1e-3])
SCHEDULE_FREE: dict[str, st.SearchStrategy[Any]] = {
    "warmup_steps": st.integers(0, 3),
    "r": st.floats(0, 3),
    "weight_lr_power": st.floats(0, 3),
}
RULES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "Lion": {"betas": st.tuples(BETA, BETA)},
    "Adan": {"betas": st.tuples(BETA, BETA, BETA), "eps": st.just(0.0) | EPS},
    "ADOPT": {"betas": st.tuples(BETA, BETA), "eps": EPS, "clip": st.booleans()},
    "SophiaG": {"betas": st.tuples(BETA, BETA), "eps": EPS, "rho": st.floats(0, 1)},
    "ScheduleFreeSGD": {**SCHEDULE_FREE, "momentum": st.floats(0.01, 0.99)},
    "ScheduleFreeAdamW": {
        **SCHEDULE_FREE,
        "betas": st.tuples(st.floats(0.01, 0.99), BETA),
        "eps": st.just(0.0) | EPS,
    },
}


def draw_options(data: st.DataObject, name: str) -> dict[str, Any]:
    strategies = {
        "lr": st.floats(0, 1),
        "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
        "maximize": st.booleans(),
        **RULES[name],
    }
    return data.draw(st.fixed_dictionaries(strategies), label="options")


class WithHessian:
    """Sophia, whose Hessian moves before each step, by the gradients of that step."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.state = optimizer, optimizer.state

    def step(self) -> None:
        self.optimizer.update_hessian(samples=2)
        self.optimizer.step()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.usefixtures("rounded_roots")
@given(data=st.data(), problem=problems(), threads=st.sampled_from([1, 2]))
def test_kernel_has_the_bits_of_its_twin(
    name: str, dtype: torch.dtype, data: st.DataObject, problem: Any, threads: int
) -> None:
    options = draw_options(data, name)
    wrap = WithHessian if name == "SophiaG" else lambda optimizer: optimizer
    ours = train(lambda p: wrap(getattr(optimizers, name)(p, **options)), problem, dtype, threads)
    twins = train(lambda p: wrap(twin_of(name)(p, **options)), problem, dtype, 1)
    # At weight 1, which is each first step's, the sign of a zero from torch's lerp depends on
    # the width of its vectors.
    assert_same(ours, twins, with_zero_signs=not name.startswith("ScheduleFree"))


@needs_native
def test_a_bias_correction_is_rounded_once() -> None:
    """With this beta the C library's pow(x, 0.5) is not the square root of x."""
    options = {"lr": 1.0, "betas": (0.5, 0.5, 0.05020956514218239), "eps": 0.0}
    problem = ([[0.0]], [[[1e-45]]])
    ours = train(lambda p: optimizers.Adan(p, **options), problem, torch.float64, 1)
    twins = train(lambda p: twin_of("Adan")(p, **options), problem, torch.float64, 1)
    assert_same(ours, twins)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
@given(length=st.integers(0, 67), offset=st.integers(0, 20))
def test_nothing_beyond_the_tensor_is_touched(
    name: str, dtype: torch.dtype, length: int, offset: int
) -> None:
    memory = torch.full((length + 40,), 7.0, dtype=dtype)
    param = memory[offset : offset + length].detach().requires_grad_()
    gradient = torch.full((length + 40,), 3.0, dtype=dtype)
    param.grad = gradient[offset : offset + length]
    optimizer = getattr(optimizers, name)([param], lr=0.5)
    for _ in range(2):  # ADOPT's first one moves nothing.
        optimizer.step()
    assert (gradient == 3).all()
    assert (memory[:offset] == 7).all()
    assert (memory[offset + length :] == 7).all()
    assert (memory[offset : offset + length] != 7).all()
