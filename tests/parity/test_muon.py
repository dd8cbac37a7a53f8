"""Muon against torch's, whose Newton-Schulz iteration and whose moves it shares."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz

from hotloop import backend
from hotloop.errors import BackendError
from hotloop.optimizers import Muon, WeightAverage
from hotloop.optimizers import muon as muon_module
from hotloop.optimizers import optimizer as optimizer_module
from tests.conftest import needs_native

STEPS = 10
SHAPES = [
    *itertools.product(range(1, 6), repeat=2),
    *[(0, 3), (1, 300), (300, 1), (17, 40), (64, 32), (31, 257)],
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"nesterov": False},
    {"momentum": 0.4},
    {"momentum": 0.4, "nesterov": False, "weight_decay": 0.0},
    {"adjust_lr_fn": "original", "weight_decay": 0.3, "lr": 0.1},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"adjust_lr_fn": "match_rms_adamw", "nesterov": False, "lr": torch.tensor([0.02])},
    {"lr": torch.tensor(0.02), "ns_steps": 2, "ns_coefficients": (3.0, -4.0, 2.0), "eps": 1.0},
]
each_exact_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def make(
    shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor]]:
    ours = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    return ours, [param.detach().clone().requires_grad_() for param in ours]


def give_grads(mine: list[Tensor], other: list[Tensor], step: int = 0) -> None:
    for a, b in zip(mine, other):
        grad = (torch.randn(a.shape) * 10.0 ** (step % 7 - 3)).to(a.dtype)
        a.grad, b.grad = grad.clone(), grad


def run(ours: Any, theirs: Any, mine: list[Tensor], other: list[Tensor]) -> None:
    for step in range(STEPS):
        give_grads(mine, other, step)
        ours.step(), theirs.step()


def assert_same_bits(ours: Any, theirs: Any, mine: list[Tensor], other: list[Tensor]) -> None:
    assert ours.state.keys() == set(mine)
    for a, b in zip(mine, other):
        assert torch.equal(a, b)
        assert ours.state[a].keys() == theirs.state[b].keys()
        for key, value in theirs.state[b].items():
            assert torch.equal(ours.state[a][key], value)
            assert ours.state[a][key].grad is None


@pytest.fixture(autouse=True)
def _one_thread(_two_threads: None) -> None:
    # Threads change the order of torch's sums in large matrices, and small ones wait for them.
    torch.set_num_threads(1)


@pytest.fixture
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = backend.current()
    allowed = backend.Backend(**{**vars(chosen), "is_strict": False})
    monkeypatch.setattr(optimizer_module.backend, "current", lambda: allowed)


@each_exact_dtype
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_bits_of_torch(options: dict[str, Any], dtype: torch.dtype) -> None:
    mine, other = make(SHAPES, dtype)
    ours = Muon(mine, **copy.deepcopy(options))
    theirs = torch.optim.Muon(other, **copy.deepcopy(options))
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)
    if backend.current().name == "native":
        assert ours.fallback_reason is None


@each_exact_dtype
def test_groups_whose_options_change(dtype: torch.dtype) -> None:
    mine, other = make([(3, 4), (40, 7), (5, 5)], dtype)
    optimizers = []
    for kind, params in ((Muon, mine), (torch.optim.Muon, other)):
        groups = [{"params": params[:2]}, {"params": params[2:], "nesterov": False, "lr": 0.1}]
        optimizers.append(kind(groups, lr=torch.tensor(0.05), momentum=0.8))
    for step in range(STEPS):
        give_grads(mine, other, step)
        for optimizer, params in zip(optimizers, (mine, other)):
            first, second = optimizer.param_groups
            first["lr"].mul_(0.7)
            first["momentum"] = 0.9 - 0.05 * step
            second["nesterov"] = step % 3 == 1
            second["weight_decay"] = 0.1 * step
            # Comes late, and goes again.
            if step < 3 or step == 6:
                params[1].grad = None
            optimizer.step()
    assert_same_bits(*optimizers, mine, other)


def test_state_that_is_replaced() -> None:
    mine, other = make([(3, 4), (40, 7)])
    ours, theirs = Muon(mine, lr=0.1), torch.optim.Muon(other, lr=0.1)
    for step in range(STEPS):
        give_grads(mine, other, step)
        for optimizer, params in ((ours, mine), (theirs, other)):
            if step == 3:
                optimizer.state[params[0]]["momentum_buffer"] = torch.ones(3, 4)
            elif step == 5:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            elif step == 7:
                del optimizer.state[params[1]]
            optimizer.step()
    assert_same_bits(ours, theirs, mine, other)


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_bfloat16_without_nesterov_has_the_bits_of_torch(adjust_lr_fn: str) -> None:
    # torch divides the buffer itself by its norm then, and so do we.
    options: dict[str, Any] = {"nesterov": False, "adjust_lr_fn": adjust_lr_fn, "lr": 0.1}
    mine, other = make(SHAPES, torch.bfloat16)
    ours, theirs = Muon(mine, **options), torch.optim.Muon(other, **options)
    run(ours, theirs, mine, other)
    assert_same_bits(ours, theirs, mine, other)


@needs_native
def test_bfloat16_nesterov_rounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def record(update: Tensor, *options: Any) -> Tensor:
        seen.append(update.double())
        return _zeropower_via_newtonschulz(update, *options)

    monkeypatch.setattr(muon_module, "_zeropower_via_newtonschulz", record)
    (param,), _ = make([(50, 31)], torch.bfloat16)
    optimizer = Muon([param], momentum=0.9)
    buffer = torch.zeros(50, 31)
    for _ in range(STEPS):
        param.grad = torch.randn(50, 31).bfloat16()
        exact = buffer.double().lerp(param.grad.double(), 1 - 0.9)
        optimizer.step()
        update = param.grad.double().lerp(exact, 0.9)
        # Half the distance between neighbours is at most 2^-8 of the value; the float32
        # arithmetic before the rounding may add a little.
        assert ((seen.pop() - update).abs() <= 2.0**-8 * update.abs() + 1e-6).all()
        buffer = optimizer.state[param]["momentum_buffer"]
        assert ((buffer - exact).abs() <= 2.0**-8 * exact.abs() + 1e-6).all()


@each_exact_dtype
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("max_norm", [None, math.inf, 1.0])
def test_fused_step(dtype: torch.dtype, nesterov: bool, max_norm: float | None) -> None:
    options: dict[str, Any] = {"nesterov": nesterov, "lr": 0.1}
    models = [
        nn.Sequential(nn.Linear(9, 20, bias=False), nn.Linear(20, 4, bias=False)).to(dtype)
        for _ in range(2)
    ]
    models[1].load_state_dict(models[0].state_dict())
    mine, other = (list(model.parameters()) for model in models)
    averages = [WeightAverage(model, 0.9) for model in models]
    ours, theirs = Muon(mine, **options), torch.optim.Muon(other, **options)
    for step in range(STEPS):
        give_grads(mine, other, step)
        norm = math.hypot(*(float(param.grad.double().norm()) for param in other))
        report = ours.fused_step(max_norm=max_norm, average=averages[0], zero_grad=step % 2 == 0)
        assert report.is_applied
        if max_norm is None:
            assert report.grad_norm is None
        else:
            assert report.grad_norm == pytest.approx(norm, rel=1e-12)
            # Of the reported norm, whose last bit depends on the order of its sum.
            factor = min(1.0, max_norm / (report.grad_norm + 1e-6))
            for param in other:
                param.grad = param.grad * factor if factor < 1 else param.grad
        theirs.step()
        averages[1].update()
        assert all(param.grad.any() == (step % 2 == 1) for param in mine)
    assert_same_bits(ours, theirs, mine, other)
    for name, average in averages[0].state_dict()["averages"].items():
        assert torch.equal(average, averages[1].state_dict()["averages"][name])


def test_fused_step_with_a_scaler() -> None:
    mine, other = make([(5, 4), (4, 5)])
    ours, theirs = Muon(mine, lr=0.1), torch.optim.Muon(other, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(STEPS):
        give_grads(mine, other)
        scale = float(scaler.scale(torch.ones(())))
        for param in mine:
            param.grad = param.grad * scale
        before = [param.detach().clone() for param in mine]
        if step == 4:
            mine[1].grad[2, 3] = math.inf
        report = ours.fused_step(scaler=scaler, zero_grad=True)
        scaler.update()
        assert not any(param.grad.any() for param in mine)
        if step == 4:
            assert not report.is_applied
            assert all(torch.equal(a, b) for a, b in zip(before, mine))
            assert scaler.get_scale() == scale / 2
        else:
            assert report.is_applied
            theirs.step()
    assert_same_bits(ours, theirs, mine, other)


def test_a_grad_scaler_steps_it() -> None:
    mine, other = make([(5, 4), (4, 5)])
    ours, theirs = Muon(mine, lr=0.1), torch.optim.Muon(other, lr=0.1)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in range(2)]
    for step in range(STEPS):
        give_grads(mine, other)
        for optimizer, params, scaler in zip((ours, theirs), (mine, other), scalers):
            scaler.scale(torch.ones(()))
            if step in (0, 4):
                params[1].grad[2, 3] = math.nan
            scaler.step(optimizer)
            scaler.update()
    assert_same_bits(ours, theirs, mine, other)


@needs_native
def test_a_scaler_that_found_an_overflow() -> None:
    mine, other = make([(5, 4), (4, 5)])
    ours, theirs = Muon(mine, lr=0.1), torch.optim.Muon(other, lr=0.1)
    for step in range(STEPS):
        give_grads(mine, other)
        # What torch tells optimizers that unscale by themselves.
        ours.grad_scale, ours.found_inf = torch.tensor(4.0), torch.tensor(float(step in (0, 4)))
        for param in mine:
            param.grad = param.grad * 4
        ours.step()
        if not ours.found_inf:
            theirs.step()
    assert_same_bits(ours, theirs, mine, other)


def test_grad_norm_moves_nothing() -> None:
    mine, _ = make([(5, 4), (4, 5)])
    before = [param.detach().clone() for param in mine]
    optimizer = Muon(mine)
    give_grads(mine, mine)
    norm = math.hypot(*(float(param.grad.double().norm()) for param in mine))
    assert optimizer.grad_norm() == pytest.approx(norm, rel=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, mine))
    assert not any(entry["momentum_buffer"].any() for entry in optimizer.state.values())


def half(mine: list[Tensor], optimizer: Any) -> None:
    optimizer.state.pop(mine[0], None)
    mine[0] = mine[0].detach().half().requires_grad_()
    mine[0].grad = torch.ones(3, 4).half()
    optimizer.param_groups[0]["params"][0] = mine[0]


def transposed(mine: list[Tensor], optimizer: Any) -> None:
    mine[0].grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).T


def twice(mine: list[Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].append(mine[0])


def other_buffer(mine: list[Tensor], optimizer: Any) -> None:
    optimizer.state[mine[0]]["momentum_buffer"] = torch.ones(4)


def sparse(mine: list[Tensor], optimizer: Any) -> None:
    mine[0].grad = mine[0].grad.to_sparse()


def three_dimensions(mine: list[Tensor], optimizer: Any) -> None:
    param = torch.ones(2, 2, 2, requires_grad=True)
    param.grad = torch.ones(2, 2, 2)
    optimizer.add_param_group({"params": [param]})


def outcome(step: Any) -> Any:
    try:
        return step()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (half, "dtype torch.float16"),
        (transposed, "not contiguous"),
        (twice, "share memory"),
        (other_buffer, "not like its gradient"),
        (sparse, "layout torch.sparse_coo"),
        (three_dimensions, "3 dimensions"),
    ],
)
@pytest.mark.usefixtures("_lenient")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:optimizer contains")
def test_torch_takes_what_has_no_kernel(change: Any, reason: str, fresh: bool) -> None:
    mine, other = make([(3, 4), (5, 5)])
    ours, theirs = Muon(mine, lr=0.1), torch.optim.Muon(other, lr=0.1)
    give_grads(mine, other)
    if not fresh:
        ours.step(), theirs.step()
        give_grads(mine, other)
    change(mine, ours), change(other, theirs)
    results = [outcome(ours.step), outcome(theirs.step)]
    assert results[0] == results[1]
    if backend.current().name == "native":
        assert reason in ours.fallback_reason
    states = [
        [o.state.get(p, {}).keys() for p in params] for o, params in ((ours, mine), (theirs, other))
    ]
    assert states[0] == states[1]
    if results[1] is None:
        assert_same_bits(ours, theirs, mine, other)


@needs_native
def test_the_native_backend_says_what_has_no_kernel() -> None:
    (param,), _ = make([(3, 4)])
    param.grad = torch.ones(4, 3).T
    with pytest.raises(BackendError, match=r"Muon has no kernel for this step: .*not contiguous"):
        Muon([param]).step()


def test_a_ratio_that_does_not_exist() -> None:
    for kind in (Muon, torch.optim.Muon):
        param = torch.ones(3, 0, requires_grad=True)
        param.grad = torch.ones(3, 0)
        with pytest.raises(ZeroDivisionError):
            kind([param]).step()
        kind([param], adjust_lr_fn="match_rms_adamw").step()


@needs_native
def test_what_it_keeps_beside_the_state() -> None:
    mine, other = make([(30, 40)])
    optimizer = Muon(mine)
    give_grads(mine, other)
    optimizer.step()
    (entry,) = optimizer._momentum.state.values()
    assert (entry["update"].shape, entry["update"].dtype) == ((30, 40), torch.bfloat16)
    assert "update" not in str(optimizer.state_dict())
