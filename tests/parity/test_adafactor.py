"""Adafactor against torch's, with state of rows and columns, of elements, and both."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop import backend
from hotloop.optimizers import Adafactor, WeightAverage
from tests.conftest import needs_native

Options = dict[str, Any]

#: Vectors; matrices of one part; those of several strips of rows; stacks of matrices that
#: share a part, that fill several parts, and that are strips themselves; single elements.
SHAPES = [
    *[(), (1,), (7,), (256,), (5000,)],
    *[(1, 1), (1, 9), (9, 1), (5, 3), (17, 40), (130, 100)],
    *[(300, 200), (20000, 3), (33, 1100), (1200, 37)],
    *[(3, 4, 5), (40, 3, 3, 3), (2000, 6, 6), (2, 600, 70), (70, 2, 1, 1)],
]
CASES: list[Options] = [
    {},
    {"lr": 0.1, "weight_decay": 0.1, "eps": (0.5, 1e-3), "maximize": True},
    {"lr": torch.tensor(0.5), "beta2_decay": -0.5, "eps": (1e-8, 0.1), "d": 2.0},
    {"lr": 0.3, "eps": (None, 0.0), "foreach": True},
]
each_case = pytest.mark.parametrize("options", CASES, ids=str)

# Kernels sum in float64, over other parts and in another order than torch, which sums
# float32 in float32, and take a root of each row and column instead of each element: some
# roundings a step, relative to the largest element. A rate in a tensor makes torch scale
# the step in float32. bfloat16 is rounded to 8 bits by torch after each operator of 20
# steps, by kernels once a step.
PARAM_TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2.0**-4}
# torch's sum of 20,000 float32 squares is off by some 1e-6, which the kernels' is not.
STATE_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2.0**-5}
each_dtype = pytest.mark.parametrize("dtype", PARAM_TOLERANCES, ids=str)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = dataclasses.replace(backend.current(), is_strict=False)
    monkeypatch.setattr(backend, "current", lambda: allowed)


def make(dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> tuple[list[Tensor], ...]:
    mine = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    return mine, clones(mine)


def clones(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def set_grads(*lists: list[Tensor], scale: float = 1.0) -> None:
    for params in zip(*lists):
        grad = torch.randn(params[0].shape) * scale
        for param in params:
            param.grad = grad.to(param.dtype, copy=True)


def assert_close(mine: Tensor, other: Tensor, tolerance: float) -> None:
    limit = tolerance * float(other.detach().abs().max()) if other.numel() else 0.0
    torch.testing.assert_close(mine, other, rtol=0, atol=limit)


def assert_all_close(mine: list[Tensor], other: list[Tensor], tolerance: float) -> None:
    for a, b in zip(mine, other, strict=True):
        assert_close(a, b, tolerance)


@each_dtype
@each_case
def test_the_kernel_is_torchs_loop(options: Options, dtype: torch.dtype) -> None:
    mine, other = make(dtype)
    optimizer, peer = Adafactor(mine, **options), torch.optim.Adafactor(other, **options)
    tolerance = PARAM_TOLERANCES[dtype]
    if dtype == torch.float64 and isinstance(options.get("lr"), Tensor):
        tolerance = PARAM_TOLERANCES[torch.float32]
    for step in range(20):
        set_grads(mine, other, scale=10.0 ** (step % 5 - 2))
        optimizer.step()
        peer.step()
    assert_all_close(mine, other, tolerance)
    for a, b in zip(mine, other):
        assert optimizer.state[a].keys() == peer.state[b].keys()
        for key, value in peer.state[b].items():
            assert_close(optimizer.state[a][key], value, STATE_TOLERANCES[dtype])


@needs_native
@each_dtype
def test_the_kernel_runs(dtype: torch.dtype) -> None:
    mine, _ = make(dtype)
    optimizer = Adafactor(mine)
    set_grads(mine)
    optimizer.step()
    assert optimizer.fallback_reason is None


@needs_native
def test_float32_is_as_exact_as_float32_allows() -> None:
    # One step of each from equal numbers; torch's loop in float32 misses this by up to 4e-7.
    mine, _ = make(torch.float32)
    wide = [param.detach().double().requires_grad_() for param in mine]
    optimizer, peer = (
        Adafactor(mine, lr=0.5),
        torch.optim.Adafactor(wide, lr=0.5, eps=(2**-23, 1e-3)),
    )
    set_grads(mine, wide)
    for a, b in zip(mine, wide):
        b.grad = a.grad.double()
    optimizer.step()
    peer.step()
    for a, b in zip(mine, wide):
        assert_close(a.double(), b, 2.5e-7)
        for key in peer.state[b].keys() - {"step"}:
            # The mean is rounded once, and the average, which the mean replaces, once.
            torch.testing.assert_close(
                optimizer.state[a][key].double(), peer.state[b][key], rtol=2.0**-23, atol=0
            )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(40,), (7, 30), (300, 200), (6, 5, 4), (9, 1, 1)], ids=str)
@pytest.mark.parametrize("where", ["grad", "param"])
def test_what_is_not_finite_spreads_as_in_torch(
    value: float, shape: tuple[int, ...], where: str
) -> None:
    (mine,), (other,) = make(torch.float32, [shape])
    optimizer, peer = Adafactor([mine], lr=0.1), torch.optim.Adafactor([other], lr=0.1)
    for step in range(3):
        set_grads([mine], [other])
        if step == 1:
            for param in (mine, other):
                target = param.grad if where == "grad" else param.data
                target.view(-1)[5] = value
        optimizer.step()
        peer.step()
        assert torch.equal(mine.isnan(), other.isnan())
        assert torch.equal(mine.isinf(), other.isinf())


@pytest.mark.parametrize("eps1", [None, 1e-30, 0.0])
def test_rows_and_columns_of_zeros(eps1: float | None) -> None:
    # The square of 1e-30 is 0 in float32, so that torch divides 0 by 0 there.
    mine, other = make(torch.float32, [(6, 40), (300, 200), (5,), (7, 1, 1), (4, 3, 3)])
    for param in (*mine, *other):
        param.detach().view(-1)[0] = 0
    options: Options = {"lr": 0.1, "eps": (eps1, 1e-3)}
    optimizer, peer = Adafactor(mine, **options), torch.optim.Adafactor(other, **options)
    for _ in range(3):
        set_grads(mine, other)
        for param in (*mine, *other):
            if param.dim() > 1:
                param.grad[..., -1, :] = 0
            param.grad[..., -1] = 0
        optimizer.step()
        peer.step()
    for a, b in zip(mine, other):
        assert torch.equal(a.isnan(), b.isnan())
        assert_close(a.nan_to_num(), b.nan_to_num(), 2e-6)


def test_gradients_of_zero_change_nothing() -> None:
    mine, _ = make(torch.float32)
    before = clones(mine)
    optimizer = Adafactor(mine)
    for param in mine:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert_all_close(mine, before, 0.0)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (0, 3, 3), (3, 0, 2)], ids=str)
def test_parameters_without_elements_stay(shape: tuple[int, ...]) -> None:
    mine, other = make(torch.float32, [shape, (5, 3), (4,)])
    optimizer, peer = Adafactor(mine), torch.optim.Adafactor(other[1:])
    for _ in range(3):
        set_grads(mine, other)
        optimizer.step()
        assert mine[0].grad is not None
        peer.step()
    assert mine[0].shape == shape
    assert_all_close(mine[1:], other[1:], 2e-6)


@needs_native
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("eps1", [None, 1e-8])
def test_several_dtypes_in_a_group(eps1: float | None) -> None:
    # torch takes the epsilon of the first dtype for all, which a kernel does not know of.
    params = [torch.randn(4, 3).to(dtype).requires_grad_() for dtype in PARAM_TOLERANCES]
    other = clones(params)
    optimizer = Adafactor(params, lr=0.5, eps=(eps1, 1e-3))
    peer = torch.optim.Adafactor(other, lr=0.5, eps=(eps1, 1e-3))
    set_grads(params, other)
    optimizer.step()
    peer.step()
    assert (optimizer.fallback_reason is None) == (eps1 is not None)
    for a, b in zip(params, other):
        assert_close(a, b, PARAM_TOLERANCES[a.dtype] if eps1 else 0.0)


@needs_native
@pytest.mark.usefixtures("lenient")
def test_what_is_not_contiguous_runs_on_torch() -> None:
    param = torch.randn(6, 4).t().requires_grad_()
    other = param.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    optimizer, peer = Adafactor([param]), torch.optim.Adafactor([other])
    set_grads([param], [other])
    optimizer.step()
    peer.step()
    assert optimizer.fallback_reason is not None
    assert "not contiguous" in optimizer.fallback_reason
    assert torch.equal(param, other)


def test_state_that_was_moved_is_found() -> None:
    # State of one size for each tensor, and of several sizes.
    for shapes in ([(50, 30), (50, 30)], [(50, 30), (6, 7)]):
        mine, other = make(torch.float32, shapes)
        optimizer, peer = Adafactor(mine, lr=0.1), torch.optim.Adafactor(other, lr=0.1)
        for _ in range(5):
            set_grads(mine, other)
            optimizer.step()
            peer.step()
            for param in mine:
                for key in ("row_var", "col_var"):
                    state = optimizer.state[param][key]
                    state.data = state.clone()
        assert_all_close(mine, other, 2e-6)
        for a, b in zip(mine, other):
            for key in ("row_var", "col_var"):
                assert_close(optimizer.state[a][key], peer.state[b][key], 1e-5)


def test_state_moves_both_ways() -> None:
    mine, other = make(torch.float32)
    optimizer, peer = Adafactor(mine, lr=0.1), torch.optim.Adafactor(other, lr=0.1)
    for _ in range(4):
        set_grads(mine, other)
        optimizer.step()
        peer.step()
        saved = []
        for one in (optimizer, peer):
            file = io.BytesIO()
            torch.save(one.state_dict(), file)
            file.seek(0)
            saved.append(torch.load(file, weights_only=True))
        peer.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
    assert_all_close(mine, other, 2e-6)


@pytest.mark.parametrize("grad_scale", [None, 4.0])
@each_case
def test_fused_step_is_the_sequence(options: Options, grad_scale: float | None) -> None:
    models = [
        nn.Sequential(nn.Linear(300, 200), nn.Conv2d(4, 3, 3), nn.Conv2d(5, 3, 1)) for _ in range(2)
    ]
    models[1].load_state_dict(models[0].state_dict())
    mine, other = (list(model.parameters()) for model in models)
    optimizer, peer = Adafactor(mine, **options), torch.optim.Adafactor(other, **options)
    averages = [WeightAverage(model, 0.5) for model in models]
    scaler = None
    if grad_scale is not None:
        scaler = torch.amp.GradScaler("cpu", init_scale=grad_scale)
        scaler.scale(torch.zeros(()))
    for step in range(4):
        set_grads(mine, other, scale=3.0)
        if step == 2:
            # Its average follows all the same.
            mine[0].grad = other[0].grad = None
        for param in mine:
            if param.grad is not None:
                param.grad *= grad_scale or 1.0
        report = optimizer.fused_step(
            max_norm=1.0, average=averages[0], zero_grad=True, scaler=scaler
        )
        if scaler is not None:
            scaler.update()
        norm = nn.utils.clip_grad_norm_(other, 1.0)
        peer.step()
        averages[1].update()
        assert report.grad_norm == pytest.approx(float(norm), rel=1e-6)
        assert all((param.grad == 0).all() for param in mine if param.grad is not None)
    assert_all_close(mine, other, 2e-6)
    for a, b in zip(mine, other):
        assert_close(averages[0].averages[a], averages[1].averages[b], 2e-6)


@needs_native
def test_a_grad_scale_divides_once() -> None:
    mine, other = make(torch.float32)
    optimizer, peer = Adafactor(mine, lr=0.1), Adafactor(other, lr=0.1)
    optimizer.grad_scale = torch.tensor(3.0)
    for _ in range(3):
        set_grads(mine)
        for a, b in zip(mine, other):
            b.grad = a.grad / 3
        optimizer.step()
        peer.step()
        for a, b in zip(mine, other):
            assert torch.equal(a.grad, b.grad)
    assert_all_close(mine, other, 0.0)


@needs_native
def test_found_inf_skips_the_step() -> None:
    mine, other = make(torch.float32)
    optimizer = Adafactor(mine)
    optimizer.found_inf = torch.tensor(1.0)
    set_grads(mine)
    optimizer.step()
    assert_all_close(mine, other, 0.0)


def test_copies_continue() -> None:
    mine, _ = make(torch.float32)
    optimizer = Adafactor(mine, lr=0.1)
    set_grads(mine)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    others = copied.param_groups[0]["params"]
    set_grads(mine, others)
    optimizer.step()
    copied.step()
    assert_all_close(mine, others, 0.0)
