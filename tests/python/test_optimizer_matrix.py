"""What every optimizer does, whatever its rule: one test per behaviour, all optimizers.

The optimizers are those that `hotloop.optimizers` exports; a new one is tested as soon as
it is exported, and needs an entry in `OPTIONS` only if its defaults do not fit.
"""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotloop.optimizers
from hotloop import backend
from hotloop.optimizers import FusedStep, NativeStep
from hotloop.optimizers.reference import Reference

Make = Callable[..., Any]


def find_optimizers() -> Iterator[type]:
    for name in hotloop.optimizers.__all__:
        value = getattr(hotloop.optimizers, name)
        if isinstance(value, type) and issubclass(value, NativeStep) and value is not NativeStep:
            yield value


OPTIMIZERS = sorted(find_optimizers(), key=lambda ours: ours.__name__)

#: Constructor options that reach the minima below; by default only a rate of 0.05.
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "ADOPT": {"lr": 0.2},
    "ASGD": {"lr": 3e-3},
    "ScheduleFreeSGD": {"lr": 4e-3},
    "Adadelta": {"lr": 1.0},
    "Adagrad": {"lr": 1.0},
    "Adamax": {"lr": 0.1},
    "LARS": {"lr": 3.0},
    "Prodigy": {"lr": 1.0, "d0": 0.01},
    "RAdam": {"lr": 0.005, "betas": (0.9, 0.95)},
}
#: Those whose constructor makes the state.
STATE_AT_ONCE = {"Adagrad"}
#: Those that count steps for all parameters of a group together.
GROUP_COUNTS = {"ScheduleFreeAdamW", "ScheduleFreeSGD"}
#: Those without float64 kernels.
NO_FLOAT64 = {"AdamW8bit", "Lion8bit"}
#: Those that take no parameters with one dimension.
MATRICES_ONLY = {"Muon"}

each_optimizer = pytest.mark.parametrize("ours", OPTIMIZERS, ids=lambda ours: ours.__name__)
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str
)


def options_of(ours: type) -> dict[str, Any]:
    return dict(OPTIONS.get(ours.__name__, {"lr": 0.05}))


def oracle_of(ours: type) -> Make:
    """Return the torch implementation that an optimizer replaces."""
    return next(
        base
        for base in ours.__mro__
        if base.__module__.startswith("torch.optim") or issubclass(base, Reference)
        if not issubclass(base, NativeStep)
    )


def make_params(ours: type, *sizes: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    if ours.__name__ in NO_FLOAT64 and dtype == torch.float64 and backend.current().is_strict:
        pytest.skip(f"{ours.__name__} has no float64 kernel, and nothing else may run")
    shapes = [(size, 2) if ours.__name__ in MATRICES_ONLY else (size,) for size in sizes]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def clones(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def give_grads(params: list[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def steps(optimizer: Any, params: list[Tensor], seeds: range) -> None:
    for seed in seeds:
        give_grads(params, seed)
        optimizer.step()


def assert_bits(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


def tensors_of(optimizer: Any) -> list[Tensor]:
    """Return copies of the parameters and of all state, in a fixed order."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    found = [param.detach().clone() for param in params]
    for param in params:
        for _, value in sorted(optimizer.state.get(param, {}).items()):
            if isinstance(value, Tensor):
                found.append(value.clone())
    return found


def test_the_matrix_is_not_empty() -> None:
    assert {ours.__name__ for ours in OPTIMIZERS} >= {"SGD", "Adam", "AdamW"}
    assert OPTIONS.keys() <= {ours.__name__ for ours in OPTIMIZERS}


def quadratic(x: Tensor) -> Tensor:
    scales = torch.logspace(0, 1, x.numel()).reshape(x.shape)
    return (scales * (x - 1).square()).sum() / 2


def rosenbrock(x: Tensor) -> Tensor:
    first, second = x.flatten()
    return (1 - first) ** 2 + 100 * (second - first**2) ** 2


@each_optimizer
@pytest.mark.parametrize(
    ("loss", "start", "goal"),
    [(quadratic, [3.0, -2.0, 0.5, -1.0], 1e-3), (rosenbrock, [-1.2, 1.0], 0.02)],
    ids=["quadratic", "rosenbrock"],
)
def test_converges(ours: type, loss: Any, start: list[float], goal: float) -> None:
    shape = (-1, 2) if ours.__name__ in MATRICES_ONLY else (-1,)
    param = torch.tensor(start).reshape(shape).requires_grad_()
    optimizer = ours([param], **options_of(ours))
    # A rate that falls to 0 lets rules settle whose steps do not shrink with the gradient.
    total = 2000
    is_schedule_free = ours.__name__ in GROUP_COUNTS
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 1.0 if is_schedule_free else 1 - t / total
    )
    before = float(loss(param.detach()))
    for _ in range(total):
        optimizer.zero_grad()
        loss(param).backward()
        optimizer.step()
        schedule.step()
    if is_schedule_free:
        optimizer.eval()
    assert float(loss(param.detach())) < goal * before


@each_optimizer
@each_dtype
def test_threads_do_not_change_the_bits(ours: type, dtype: torch.dtype) -> None:
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        params = make_params(ours, 30_011, 1, 255, 40_000, dtype=dtype)
        optimizer = ours(params, **options_of(ours))
        steps(optimizer, params, range(4))
        results.append(tensors_of(optimizer))
    assert_bits(*results)


@each_optimizer
@each_dtype
def test_dtype_is_kept(ours: type, dtype: torch.dtype) -> None:
    params = make_params(ours, 5, 300, dtype=dtype)
    optimizer = ours(params, **options_of(ours))
    before = clones(params)
    steps(optimizer, params, range(2))
    for param in params:
        assert param.dtype == dtype
        assert param.isfinite().all()
    # In bfloat16 few of the smaller tensor's elements need move.
    assert not torch.equal(params[1], before[1])


@each_optimizer
@each_dtype
def test_resuming_is_not_noticed(ours: type, dtype: torch.dtype) -> None:
    params = make_params(ours, 70, 1000, dtype=dtype)
    resumed = clones(params)
    optimizer = ours(params, **options_of(ours))
    steps(optimizer, params, range(9))
    first = ours(resumed, **options_of(ours))
    steps(first, resumed, range(4))
    file = io.BytesIO()
    torch.save({"params": resumed, "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = clones(saved["params"])
    second = ours(resumed, **options_of(ours))
    second.load_state_dict(saved["optimizer"])
    steps(second, resumed, range(4, 9))
    assert_bits(tensors_of(second), tensors_of(optimizer))


@each_optimizer
def test_tensors_without_elements(ours: type) -> None:
    params = make_params(ours, 0, 3, 0)
    expected = clones(params[1:2])
    optimizer = ours(params, **options_of(ours))
    steps(optimizer, params, range(3))
    assert params[0].shape == params[2].shape
    assert params[1].isfinite().all()
    only = ours(expected, **options_of(ours))
    for seed in range(3):
        give_grads(params, seed)
        expected[0].grad = params[1].grad
        only.step()
    assert_bits(params[1:2], expected)


@each_optimizer
def test_a_nan_gradient_does_what_it_does_on_torch(ours: type) -> None:
    params = make_params(ours, 40)
    other = clones(params)
    optimizer = ours(params, **options_of(ours))
    reference = oracle_of(ours)(other, **options_of(ours))
    for one, values in ((optimizer, params), (reference, other)):
        steps(one, values, range(2))
        give_grads(values, 2)
        values[0].grad.view(-1)[7] = math.nan
        one.step()
    assert torch.equal(params[0].isnan(), other[0].isnan())


@each_optimizer
@each_dtype
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fused_step_refuses_a_nonfinite_gradient(
    ours: type, dtype: torch.dtype, value: float
) -> None:
    params = make_params(ours, 40, 300, dtype=dtype)
    twins = clones(params)
    optimizer, twin = (ours(p, **options_of(ours)) for p in (params, twins))
    for one, values in ((optimizer, params), (twin, twins)):
        steps(one, values, range(2))
    before = tensors_of(optimizer)
    give_grads(params, 2)
    params[1].grad.view(-1)[123] = value
    report = optimizer.fused_step(max_norm=math.inf)
    assert not report.is_applied
    assert report.grad_norm is not None
    assert not math.isfinite(report.grad_norm)
    assert_bits(tensors_of(optimizer), before)
    # And what follows is as if it had not been.
    for one, values in ((optimizer, params), (twin, twins)):
        steps(one, values, range(3, 6))
    assert_bits(tensors_of(optimizer), tensors_of(twin))


@each_optimizer
@each_dtype
def test_fused_step_that_only_measures_is_step(ours: type, dtype: torch.dtype) -> None:
    params = make_params(ours, 40, 300, dtype=dtype)
    twins = clones(params)
    optimizer, twin = (ours(p, **options_of(ours)) for p in (params, twins))
    for seed in range(5):
        give_grads(params, seed)
        give_grads(twins, seed)
        norm = math.hypot(*(float(param.grad.double().norm()) for param in params))
        twin.step()
        report = optimizer.fused_step(max_norm=math.inf)
        assert report == FusedStep(pytest.approx(norm, rel=1e-12), True)
    assert_bits(tensors_of(optimizer), tensors_of(twin))


@each_optimizer
def test_parameters_without_gradient_stay(ours: type) -> None:
    params = make_params(ours, 5, 6, 7)
    params[2].requires_grad_(False)
    before = clones(params)
    optimizer = ours(params, **options_of(ours))
    steps(optimizer, params[:1], range(3))
    assert_bits(params[1:], before[1:])
    assert not torch.equal(params[0], before[0])
    if ours.__name__ not in STATE_AT_ONCE:
        assert all(not optimizer.state.get(param) for param in params[1:])
    if ours.__name__ in GROUP_COUNTS:
        return
    # A gradient that comes later starts from the beginning.
    late, fresh = [params[1]], clones(before[1:2])
    params[0].grad = None
    other = ours(fresh, **options_of(ours))
    for one, values in ((optimizer, late), (other, fresh)):
        steps(one, values, range(3))
    assert_bits(late, fresh)


@each_optimizer
def test_maximize_is_a_step_on_negated_gradients(ours: type) -> None:
    params = make_params(ours, 50)
    up = clones(params)
    try:
        optimizer = ours(up, maximize=True, **options_of(ours))
    except TypeError:
        pytest.skip(f"{ours.__name__} has no maximize")
    down = ours(params, **options_of(ours))
    for seed in range(4):
        give_grads(params, seed)
        give_grads(up, seed)
        up[0].grad.neg_()
        down.step()
        optimizer.step()
    assert_bits(params, up)


@each_optimizer
def test_closure(ours: type) -> None:
    params = make_params(ours, 4)
    optimizer = ours(params, **options_of(ours))
    steps(optimizer, params, range(1))  # ADOPT's first one moves nothing.
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    expected = float(params[0].detach().square().sum())
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == 1
    assert float(loss.detach()) == pytest.approx(expected)
    assert float(params[0].detach().square().sum()) < expected


@each_optimizer
@pytest.mark.parametrize("step", ["step", "fused_step"])
def test_hooks_run_once_around_the_update(ours: type, step: str) -> None:
    params = make_params(ours, 4)
    optimizer = ours(params, **options_of(ours))
    steps(optimizer, params, range(1))  # ADOPT's first one moves nothing.
    before = clones(params)
    events: list[tuple[str, bool]] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda *_: events.append((name, torch.equal(params[0], before[0])))

    optimizer.register_step_pre_hook(hook("pre"))
    optimizer.register_step_post_hook(hook("post"))
    give_grads(params, 0)
    getattr(optimizer, step)()
    assert events == [("pre", True), ("post", False)]


@each_optimizer
def test_lr_as_tensor(ours: type) -> None:
    params = make_params(ours, 30)
    other = clones(params)
    options = options_of(ours)
    # A rate that float32 represents.
    options["lr"] = 2.0**-5
    plain = ours(params, **options)
    options["lr"] = torch.tensor(2.0**-5)
    with_tensor = ours(other, **options)
    for seed in range(4):
        steps(plain, params, range(seed, seed + 1))
        steps(with_tensor, other, range(seed, seed + 1))
        plain.param_groups[0]["lr"] *= 0.5
        with_tensor.param_groups[0]["lr"].mul_(0.5)
    if ours.__name__ in ("ASGD", "Adafactor"):
        # torch's loop derives its next rate, or Adafactor's of this step, in float32.
        torch.testing.assert_close(params, other)
    else:
        assert_bits(params, other)


@each_optimizer
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal_and_independent(ours: type, copier: Any) -> None:
    params = make_params(ours, 60, 3)
    optimizer = ours(params, **options_of(ours))
    steps(optimizer, params, range(3))
    copied_params, copied = copier((params, optimizer))
    before = tensors_of(optimizer)
    assert type(copied) is ours
    steps(copied, copied_params, range(3, 6))
    assert_bits(tensors_of(optimizer), before)
    steps(optimizer, params, range(3, 6))
    assert_bits(tensors_of(optimizer), tensors_of(copied))


def rss() -> int:
    """Return this process's memory in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@each_optimizer
@pytest.mark.parametrize(
    "count", [3000, pytest.param(100_000, marks=pytest.mark.soak)], ids=["short", "soak"]
)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_flat(ours: type, count: int) -> None:
    if ours.__name__ == "Prodigy":
        pytest.skip("gradients that ignore the parameters let its distance grow until it overflows")
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(16, 32, bias=False), nn.Linear(32, 8, bias=False))
    average = hotloop.optimizers.WeightAverage(model, 0.9)
    optimizer = ours(model.parameters(), **options_of(ours))
    params = list(model.parameters())
    grads = [[torch.randn_like(param) * 1e-3 for param in params] for _ in range(7)]

    def train(total: int) -> None:
        for step in range(total):
            for param, grad in zip(params, grads[step % 7]):
                # New tensors, old tensors, and none at all take turns.
                param.grad = grad.clone() if step % 3 else grad
            if step % 11 == 0:
                params[1].grad = None
            if step % 100 == 0:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if step % 2:
                optimizer.fused_step(max_norm=1.0, average=average)
            else:
                optimizer.step()

    train(1000)
    before = rss()
    train(count)
    # 3000 steps that leak one float32 tensor of this model each would take 6 MB.
    assert rss() - before < 2_000_000
