"""`fused_step` against the sequence of torch's operations that it stands for."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hotloop import backend
from hotloop.optimizers import SGD, Adam, AdamW, FusedStep, WeightAverage, torch_fused_step
from hotloop.optimizers import optimizer as optimizer_module

OURS: dict[str, tuple[Any, Callable[..., Any], dict[str, Any]]] = {
    "AdamW": (AdamW, lambda p, **k: torch.optim.AdamW(p, fused=True, **k), {"lr": 0.01}),
    "Adam": (
        Adam,
        lambda p, **k: torch.optim.Adam(p, fused=True, **k),
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    ),
    "SGD": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SIZES = (300, 0, 1, 67, 40_000)

each_rule = pytest.mark.parametrize("rule", OURS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what switches this process to the torch backend until the test ends."""
    torch_backend = backend.Backend("torch", "a test")
    return lambda: monkeypatch.setattr(optimizer_module.backend, "current", lambda: torch_backend)


def make_params(*sizes: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(size).to(dtype).requires_grad_() for size in sizes]


def clones(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def give_grads(*param_lists: list[Tensor], scale: float = 1.0) -> None:
    for params in zip(*param_lists):
        grad = (torch.randn(params[0].shape) * scale).to(params[0].dtype)
        for param in params:
            param.grad = grad.clone()


def norm_of(params: list[Tensor]) -> float:
    """Return the norm of all gradients, summed exactly from float64 squares."""
    grads = [param.grad for param in params if param.grad is not None]
    squares = (grad.double().square().flatten().tolist() for grad in grads)
    return math.sqrt(math.fsum(itertools.chain(*squares)))


def torch_sequence(
    optimizer: torch.optim.Optimizer,
    *,
    max_norm: float | None = None,
    averages: list[Tensor] | None = None,
    weight: float = 0.0,
    zero_grad: bool = False,
) -> FusedStep:
    """Clip by the exact norm, step, average and zero with torch's operators."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    norm = None
    if max_norm is not None:
        norm = norm_of(params)
    is_applied = norm is None or math.isfinite(norm)
    if is_applied:
        if norm is not None and max_norm is not None and (f := max_norm / (norm + 1e-6)) < 1:
            for param in params:
                if param.grad is not None:
                    param.grad.mul_(f)
        optimizer.step()
        for average, param in zip(averages or [], params):
            average.lerp_(param.detach(), weight)
    if zero_grad:
        optimizer.zero_grad(set_to_none=False)
    return FusedStep(norm, is_applied)


def assert_bits(mine: list[Tensor], other: list[Tensor], **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    for a, b in zip(mine, other):
        torch.testing.assert_close(a, b, **tolerance, equal_nan=True)


def snapshot(optimizer: Any) -> Any:
    params = [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]
    return params, copy.deepcopy(optimizer.state_dict())


def assert_unchanged(optimizer: Any, before: Any) -> None:
    params, state = snapshot(optimizer)
    assert_bits(params, before[0])
    for index, kept in before[1]["state"].items():
        for key, value in kept.items():
            torch.testing.assert_close(state["state"][index][key], value, rtol=0, atol=0)
    # A plan may have created the state that the first step starts from.
    for index in state["state"].keys() - before[1]["state"].keys():
        for key, value in state["state"][index].items():
            assert not torch.as_tensor(value).any(), key


@each_rule
@each_dtype
@pytest.mark.parametrize("max_norm", [None, math.inf, 1e9])
@pytest.mark.parametrize("zero_grad", [False, True])
def test_without_clipping_it_has_the_bits_of_the_sequence(
    rule: str, dtype: torch.dtype, max_norm: float | None, zero_grad: bool
) -> None:
    if rule == "SGD" and dtype == torch.bfloat16:
        pytest.skip("torch's SGD rounds bfloat16 after each operator; ours rounds once")
    ours, theirs, options = OURS[rule]
    mine = make_params(*SIZES, dtype=dtype)
    other = clones(mine)
    optimizer, reference = ours(mine, **options), theirs(other, **options)
    for _ in range(5):
        give_grads(mine, other)
        before = [param.grad.clone() for param in mine]
        report = optimizer.fused_step(max_norm=max_norm, zero_grad=zero_grad)
        expected = torch_sequence(reference, max_norm=max_norm, zero_grad=zero_grad)
        assert report.is_applied
        if max_norm is None:
            assert report.grad_norm is None
        else:
            assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
        assert_bits(mine, other)
        for param, grad in zip(mine, before):
            assert torch.equal(param.grad, torch.zeros_like(grad) if zero_grad else grad)


# The gradient is scaled in the compute dtype by a factor whose last bit depends on the
# order of the norm's sum; bfloat16 is not rounded between scaling and update.
CLIPPED = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.bfloat16: {"rtol": 2.0**-6, "atol": 2.0**-6},
}


@each_rule
@each_dtype
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 100.0])
def test_clipping_is_that_of_the_sequence(rule: str, dtype: torch.dtype, max_norm: float) -> None:
    ours, theirs, options = OURS[rule]
    mine = make_params(*SIZES, dtype=dtype)
    other = clones(mine)
    optimizer, reference = ours(mine, **options), theirs(other, **options)
    for step in range(5):
        give_grads(mine, other, scale=10.0 ** (step % 3))
        before = [param.grad.clone() for param in mine]
        report = optimizer.fused_step(max_norm=max_norm)
        expected = torch_sequence(reference, max_norm=max_norm)
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
        assert_bits(mine, other, **CLIPPED[dtype])
        assert_bits([param.grad for param in mine], before)


@pytest.mark.parametrize("max_norm", [-1.0, -math.inf, math.nan, -1e-30])
def test_a_negative_or_nan_max_norm_raises(max_norm: float) -> None:
    (param,) = make_params(3)
    param.grad = torch.ones(3)
    optimizer = SGD([param], lr=1.0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="max_norm must be at least 0"):
        optimizer.fused_step(max_norm=max_norm)
    assert_unchanged(optimizer, before)


def test_float32_squares_that_overflow_are_measured() -> None:
    (param,) = make_params(3)
    param.grad = torch.full((3,), 3e38)
    report = SGD([param], lr=0.0).fused_step(max_norm=1.0)
    assert report.is_applied
    assert report.grad_norm == pytest.approx(math.sqrt(3) * float(torch.tensor(3e38)), rel=1e-12)


@each_rule
@each_dtype
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [(0, 0), (0, 299), (2, 0), (3, 66), (4, 0), (4, 39_999)])
@pytest.mark.parametrize("zero_grad", [False, True])
def test_one_nonfinite_gradient_changes_nothing(
    rule: str, dtype: torch.dtype, value: float, position: tuple[int, int], zero_grad: bool
) -> None:
    ours, _, options = OURS[rule]
    params = make_params(*SIZES, dtype=dtype)
    model = nn.ParameterList(params)
    optimizer = ours(model.parameters(), **options)
    params = list(model)
    average = WeightAverage(model, 0.5)
    for _ in range(2):
        give_grads(params)
        optimizer.fused_step(max_norm=1.0, average=average)
    before = snapshot(optimizer)
    averages = copy.deepcopy(average.state_dict())
    give_grads(params)
    params[position[0]].grad[position[1]] = value
    grads = [param.grad.clone() for param in params]
    report = optimizer.fused_step(max_norm=math.inf, average=average, zero_grad=zero_grad)
    assert not report.is_applied
    assert report.grad_norm is not None
    assert not math.isfinite(report.grad_norm)
    assert_unchanged(optimizer, before)
    assert average.updates == averages["updates"] == 2
    assert_bits(
        list(average.state_dict()["averages"].values()), list(averages["averages"].values())
    )
    for param, grad in zip(params, grads):
        expected = torch.zeros_like(grad) if zero_grad else grad
        torch.testing.assert_close(param.grad, expected, rtol=0, atol=0, equal_nan=True)
    # The next step is as if the bad one had not been.
    give_grads(params)
    assert optimizer.fused_step(max_norm=math.inf, average=average).is_applied


def test_without_a_norm_a_nan_passes_as_in_torch() -> None:
    mine, other = make_params(5), make_params(5)
    for params, make in ((mine, SGD), (other, torch.optim.SGD)):
        optimizer = make(params, lr=1.0)
        params[0].grad = torch.tensor([1.0, math.nan, math.inf, 0.0, 1.0])
        assert optimizer.fused_step().is_applied if make is SGD else not optimizer.step()
        assert params[0].isnan().tolist() == [False, True, False, False, False]


@each_rule
def test_groups_and_dtypes_share_one_norm(rule: str) -> None:
    ours, theirs, options = OURS[rule]
    mine = [p for dtype in DTYPES for p in make_params(50, 300, dtype=dtype)]
    if rule == "SGD":
        mine = mine[:4]
    other = clones(mine)

    def groups(params: list[Tensor]) -> list[dict[str, Any]]:
        return [
            {"params": params[::2], "lr": 0.05},
            {"params": params[1::2], "weight_decay": 0.3, "maximize": True},
        ]

    optimizer, reference = ours(groups(mine), **options), theirs(groups(other), **options)
    for max_norm in (math.inf, 1.0, 1e6):
        give_grads(mine, other)
        norm = norm_of(mine)
        report = optimizer.fused_step(max_norm=max_norm)
        torch_sequence(reference, max_norm=max_norm)
        assert report.grad_norm == pytest.approx(norm, rel=1e-12)
        for a, b in zip(mine, other):
            assert_bits([a], [b], **CLIPPED[a.dtype])


@each_rule
def test_params_without_a_gradient_stay_but_their_averages_move(rule: str) -> None:
    ours, theirs, options = OURS[rule]
    model = nn.ParameterList(make_params(20, 30, 40))
    model.append(nn.Parameter(torch.randn(5), requires_grad=False))
    mine, other = list(model), clones(list(model))
    optimizer = ours(mine[:3], **options)
    reference = theirs(other[:3], **options)
    average = WeightAverage(model, 0.25)
    averages = [param.detach().clone() for param in other]
    for step, without in enumerate([(1,), (0, 1), (), (2,), (0, 1, 2)]):
        give_grads(mine[:3], other[:3])
        for index in without:
            mine[index].grad = other[index].grad = None
        with torch.no_grad():
            for param in (mine[1], mine[3], other[1], other[3]):
                param.add_(1)
        report = optimizer.fused_step(max_norm=math.inf, average=average)
        weight = 1.0 if step == 0 else 0.75
        expected = torch_sequence(
            reference, max_norm=math.inf, averages=averages[:3], weight=weight
        )
        averages[3].lerp_(other[3].detach(), weight)
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
        assert_bits(mine, other)
        assert_bits([average.averages[param] for param in mine], averages)
    assert average.updates == 5


def test_nothing_to_do_is_a_norm_of_zero() -> None:
    params = make_params(3, 0)
    assert AdamW(params).fused_step(max_norm=1.0, zero_grad=True) == FusedStep(0.0, True)
    params[1].grad = torch.zeros(0)
    assert AdamW(params).fused_step(max_norm=1.0) == FusedStep(0.0, True)


@each_rule
@each_dtype
@pytest.mark.parametrize("decay", [0.0, 0.4, 0.75, 0.999, None])
def test_average_has_torchs_bits(rule: str, dtype: torch.dtype, decay: float | None) -> None:
    ours, _, options = OURS[rule]
    model = nn.ParameterList(make_params(300, 1, 5000, dtype=dtype))
    optimizer = ours(model.parameters(), **options)
    average = WeightAverage(model, decay)
    averages = [param.detach().clone() for param in model]
    for step in range(8):
        give_grads(list(model))
        optimizer.fused_step(average=average)
        weight = 1.0 if step == 0 else 1 / (step + 1) if decay is None else 1 - decay
        for expected, param in zip(averages, model):
            expected.lerp_(param.detach(), weight)
        assert_bits([average.averages[param] for param in model], averages)


@each_rule
@each_dtype
@pytest.mark.parametrize("max_norm", [None, math.inf, 1.0])
def test_both_backends_agree(
    rule: str, dtype: torch.dtype, max_norm: float | None, on_torch: Callable[[], None]
) -> None:
    if rule == "SGD" and dtype == torch.bfloat16:
        pytest.skip("torch's SGD rounds bfloat16 after each operator; ours rounds once")
    ours, _, options = OURS[rule]
    models = [nn.ParameterList(make_params(*SIZES, dtype=dtype))]
    models.append(copy.deepcopy(models[0]))
    reports: list[list[FusedStep]] = [[], []]
    averages = [WeightAverage(model, 0.9) for model in models]
    for index, (model, average) in enumerate(zip(models, averages)):
        if index:
            on_torch()
        torch.manual_seed(1)
        optimizer = ours(model.parameters(), **options)
        for _ in range(4):
            give_grads(list(model))
            reports[index].append(
                optimizer.fused_step(max_norm=max_norm, average=average, zero_grad=True)
            )
        assert (optimizer.fallback_reason is None) == (backend.current().name == "native")
    tolerance = CLIPPED[dtype] if max_norm == 1.0 else {}
    assert_bits(list(models[0]), list(models[1]), **tolerance)
    assert_bits(*(list(average.averages.values()) for average in averages), **tolerance)
    for a, b in zip(*reports):
        assert a.is_applied
        assert b.is_applied
        assert a.grad_norm == (None if b.grad_norm is None else pytest.approx(b.grad_norm, 1e-12))


class Scaled:
    """A model under a GradScaler, trained by torch's calls or by `fused_step`."""

    def __init__(self, make: Any, dtype: torch.dtype, **scaler: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(6, 5).to(dtype)
        self.optimizer = make(self.model.parameters(), lr=0.1)
        options = {"init_scale": 2.0**10, "growth_interval": 3, **scaler}
        self.scaler = torch.amp.GradScaler("cpu", **options)

    def backward(self, step: int, bad: float | None) -> None:
        torch.manual_seed(step)
        x = torch.randn(7, 6, dtype=self.model.weight.dtype)
        loss = self.model(x).square().mean()
        self.scaler.scale(loss if bad is None else loss * bad).backward()


@each_rule
@each_dtype
@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_grad_scaler_over_overflow_and_growth(
    rule: str, dtype: torch.dtype, max_norm: float | None
) -> None:
    if rule == "SGD" and dtype == torch.bfloat16:
        pytest.skip("torch's SGD rounds bfloat16 after each operator; ours rounds once")
    ours, theirs, _ = OURS[rule]
    a, b = Scaled(ours, dtype), Scaled(theirs, dtype)
    for step in range(14):
        bad = {4: math.inf, 5: math.nan, 11: -math.inf}.get(step)
        a.backward(step, bad)
        b.backward(step, bad)
        norm = norm_of(list(a.model.parameters())) / a.scaler.get_scale()
        report = a.optimizer.fused_step(max_norm=max_norm, scaler=a.scaler, zero_grad=True)
        a.scaler.update()
        b.scaler.unscale_(b.optimizer)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(b.model.parameters(), max_norm)
        b.scaler.step(b.optimizer)
        b.scaler.update()
        b.optimizer.zero_grad(set_to_none=False)
        assert report.is_applied == (bad is None)
        if bad is None:
            assert report.grad_norm == pytest.approx(norm, rel=1e-12)
        # Growth, back-off, and the count of steps since.
        assert a.scaler.state_dict() == b.scaler.state_dict()
        tolerance = {} if max_norm is None else CLIPPED[dtype]
        assert_bits(list(a.model.parameters()), list(b.model.parameters()), **tolerance)
        for param in a.model.parameters():
            assert not param.grad.any()


@pytest.mark.parametrize("scale", [1000.0, 3.7, 65536.0 * 3])
def test_a_scale_that_is_no_power_of_two(scale: float) -> None:
    a, b = (Scaled(m, torch.float32, init_scale=scale) for m in (SGD, torch.optim.SGD))
    for step in range(4):
        for run in (a, b):
            run.backward(step, None)
        a.optimizer.fused_step(scaler=a.scaler)
        b.scaler.step(b.optimizer)
        for run in (a, b):
            run.scaler.update()
            run.optimizer.zero_grad()
        assert_bits(list(a.model.parameters()), list(b.model.parameters()))


def test_a_scaler_that_has_unscaled_is_not_applied_twice() -> None:
    a, b = (Scaled(m, torch.float32) for m in (SGD, torch.optim.SGD))
    for run in (a, b):
        run.backward(0, None)
        run.scaler.unscale_(run.optimizer)
    report = a.optimizer.fused_step(scaler=a.scaler)
    assert report.grad_norm == pytest.approx(norm_of(list(b.model.parameters())), rel=1e-12)
    b.scaler.step(b.optimizer)
    assert_bits(list(a.model.parameters()), list(b.model.parameters()))


def test_a_scaler_steps_once_between_updates() -> None:
    run = Scaled(SGD, torch.float32)
    run.backward(0, None)
    run.optimizer.fused_step(scaler=run.scaler)
    with pytest.raises(RuntimeError, match=r"twice since scaler\.update"):
        run.optimizer.fused_step(scaler=run.scaler)
    with pytest.raises(RuntimeError, match="already been called"):
        run.scaler.step(run.optimizer)
    run.scaler.update()
    run.backward(1, None)
    run.optimizer.fused_step(scaler=run.scaler)


def test_two_optimizers_share_a_scaler() -> None:
    run = Scaled(SGD, torch.float32)
    second = AdamW([nn.Parameter(torch.ones(3))])
    run.backward(0, None)
    second.param_groups[0]["params"][0].grad = torch.tensor([1.0, math.inf, 0.0])
    assert run.optimizer.fused_step(scaler=run.scaler).is_applied
    assert not second.fused_step(scaler=run.scaler).is_applied
    scale = run.scaler.get_scale()
    run.scaler.update()
    assert run.scaler.get_scale() == scale / 2


def test_a_disabled_scaler_is_none() -> None:
    run = Scaled(SGD, torch.float32, enabled=False)
    run.backward(0, None)
    assert run.optimizer.fused_step(scaler=run.scaler) == FusedStep(None, True)


@each_rule
def test_hooks_see_one_step(rule: str) -> None:
    ours, _, options = OURS[rule]
    params = make_params(4)
    optimizer = ours(params, **options)
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("pre"))
    optimizer.register_step_post_hook(lambda *_: events.append("post"))
    handle = register_optimizer_step_pre_hook(lambda *_: events.append("global"))
    try:
        give_grads(params)
        before = params[0].detach().clone()
        report = optimizer.fused_step(max_norm=math.inf)
    finally:
        handle.remove()
    assert events == ["global", "pre", "post"]
    assert report.is_applied
    assert not torch.equal(params[0], before)


def test_a_pre_hook_that_changes_gradients_is_heard() -> None:
    (param,) = make_params(4)
    param.grad = torch.full((4,), math.nan)
    optimizer = SGD([param], lr=1.0)

    def repair(*_: object) -> None:
        param.grad.nan_to_num_(1.0)

    optimizer.register_step_pre_hook(repair)
    assert optimizer.fused_step(max_norm=math.inf) == FusedStep(2.0, True)


@each_rule
def test_schedulers_of_torch_drive_it_silently(rule: str) -> None:
    ours, theirs, options = OURS[rule]
    mine = make_params(10)
    other = clones(mine)
    optimizers = [ours(mine, **options), theirs(other, **options)]
    schedules = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in optimizers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            give_grads(mine, other)
            optimizers[0].fused_step(max_norm=math.inf)
            optimizers[1].step()
            for schedule in schedules:
                schedule.step()
    assert_bits(mine, other)


@each_rule
def test_copies_are_independent(rule: str) -> None:
    ours, _, options = OURS[rule]
    model = nn.ParameterList(make_params(40))
    optimizer = ours(model.parameters(), **options)
    average = WeightAverage(model, 0.5)
    give_grads(list(model))
    optimizer.fused_step(max_norm=1.0, average=average)
    together = (model, optimizer, average)
    copied = copy.deepcopy(together), pickle.loads(pickle.dumps(together))
    torch.manual_seed(2)
    grad = torch.randn(40)
    before = model[0].detach().clone()
    for its_model, its_optimizer, its_average in (*copied, together):
        assert_bits([model[0]], [before])
        its_model[0].grad = grad.clone()
        its_optimizer.fused_step(max_norm=1.0, average=its_average)
    for its_model, _, its_average in copied:
        assert its_average.updates == 2
        assert_bits([its_model[0]], [model[0]])
        assert_bits([its_average.averages[its_model[0]]], [average.averages[model[0]]])


def test_averages_of_two_models_take_turns() -> None:
    model = nn.ParameterList(make_params(40))
    optimizer = SGD(model.parameters(), lr=0.1)
    first, second = WeightAverage(model, 0.5), WeightAverage(model, None)
    expected = [[model[0].detach().clone(), 0] for _ in range(2)]
    for step in range(6):
        give_grads(list(model))
        index = step % 2
        optimizer.fused_step(average=(first, second)[index])
        expected[index][1] += 1
        count = expected[index][1]
        weight = 1.0 if count == 1 else 1 / count if index else 0.5
        expected[index][0].lerp_(model[0].detach(), weight)
        for average, (values, _) in zip((first, second), expected):
            assert_bits([average.averages[model[0]]], [values])
    # And a step without one moves none.
    give_grads(list(model))
    optimizer.fused_step()
    assert_bits([first.averages[model[0]]], [expected[0][0]])


def test_average_moves_where_it_lies_now() -> None:
    model = nn.ParameterList(make_params(40))
    optimizer = SGD(model.parameters(), lr=0.1)
    average = WeightAverage(model, 0.5)
    give_grads(list(model))
    optimizer.fused_step(average=average)
    old = average.averages[model[0]].data
    kept = old.clone()
    average.averages[model[0]].data = torch.zeros(40)
    give_grads(list(model))
    optimizer.fused_step(average=average)
    assert_bits([old], [kept])
    assert_bits([average.averages[model[0]]], [model[0].detach() * 0.5])


@pytest.mark.usefixtures("lenient")
def test_what_has_no_kernel_clips_and_averages_on_torch() -> None:
    mine = [torch.randn(6, 4).t().requires_grad_(), *make_params(5)]
    other = clones(mine)
    model = nn.ParameterList([nn.Parameter(param) for param in mine])
    mine = list(model)
    optimizer, reference = SGD(mine, lr=0.1), torch.optim.SGD(other, lr=0.1)
    average = WeightAverage(model, 0.5)
    averages = [param.detach().clone() for param in other]
    for step in range(3):
        give_grads(mine, other)
        optimizer.fused_step(max_norm=0.5, average=average)
        torch_sequence(reference, max_norm=0.5, averages=averages, weight=1.0 if step == 0 else 0.5)
        assert_bits(mine, other, **CLIPPED[torch.float32])
        assert_bits([average.averages[param] for param in mine], averages, **CLIPPED[torch.float32])
    assert optimizer.fallback_reason is not None


@pytest.mark.usefixtures("lenient")
def test_sparse_and_complex_gradients_are_measured() -> None:
    table = torch.zeros(5, 2, requires_grad=True)
    wave = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    # Uncoalesced: row 1 is (3, 0) + (0, 4).
    values = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    table.grad = torch.sparse_coo_tensor([[1, 1]], values, (5, 2), check_invariants=True)
    wave.grad = torch.tensor([12j, 0.0])
    report = SGD([table, wave], lr=1.0).fused_step(max_norm=6.5)
    assert report == FusedStep(13.0, True)
    torch.testing.assert_close(table[1], torch.tensor([-1.5, -2.0]))
    torch.testing.assert_close(wave[0], torch.tensor(-6j))


# torch warns of the cycle between a parameter and its gradient's graph.
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@each_rule
def test_gradients_with_a_graph(rule: str, on_torch: Callable[[], None]) -> None:
    ours, _, options = OURS[rule]
    results = []
    for is_native in (True, False):
        if not is_native:
            on_torch()
        param = torch.linspace(-1, 1, 9, requires_grad=True)
        optimizer = ours([param], **options)
        for _ in range(3):
            param.grad = None
            param.pow(3).sum().backward(create_graph=True)
            assert param.grad.requires_grad
            report = optimizer.fused_step(max_norm=0.5)
        results.append(([param.detach()], report))
    assert_bits(results[0][0], results[1][0], **CLIPPED[torch.float32])
    assert results[0][1].grad_norm == pytest.approx(results[1][1].grad_norm, rel=1e-5)


def test_an_update_that_fails_leaves_the_gradients() -> None:
    (param,) = make_params(3)
    param.grad = torch.full((3,), 4.0)
    grad = param.grad

    def fail() -> None:
        assert float(param.grad[0]) < 1
        raise RuntimeError("no")

    optimizer = torch.optim.SGD([param], lr=1.0)
    with pytest.raises(RuntimeError, match="no"):
        torch_fused_step(optimizer, fail, max_norm=1.0, grad_factor=1.0, zero_grad=True)
    assert param.grad is grad
    assert grad.tolist() == [4.0, 4.0, 4.0]


@each_rule
def test_autograd_notices_the_update(rule: str) -> None:
    ours, _, options = OURS[rule]
    (param,) = make_params(3)
    optimizer = ours([param], **options)
    (param * param).sum().backward()
    optimizer.step()
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    optimizer.fused_step(max_norm=math.inf)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_threads_do_not_change_the_bits() -> None:
    results = []
    for threads in (1, 2):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        model = nn.ParameterList(make_params(100_003, 1, 0, 255, 40_000))
        optimizer = AdamW(model.parameters())
        average = WeightAverage(model, 0.9)
        norms = []
        for _ in range(4):
            give_grads(list(model))
            norms.append(optimizer.fused_step(max_norm=1.0, average=average).grad_norm)
        results.append((norms, [*model, *average.averages.values()]))
    (norms_1, tensors_1), (norms_2, tensors_2) = results
    assert norms_1 == norms_2
    assert_bits(tensors_1, tensors_2)
