"""The optimizers that torch lacks: kernels against their torch twins, twins against peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import schedulefree
import torch
from torch import Tensor

from hotloop import optimizers
from hotloop.optimizers import (
    ADOPT,
    Adan,
    Lion,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SophiaG,
)
from hotloop.optimizers.reference import Reference
from tests.conftest import needs_native
from tests.parity.test_optimizers import LENGTHS, assert_same_bits, make, run

CASES: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {"lr": 0.01}),
    ("Lion", {"weight_decay": 0.3, "betas": (0.3, 0.5), "maximize": True}),
    ("Adan", {}),
    ("Adan", {"weight_decay": 0.3, "betas": (0.3, 0.6, 0.9), "maximize": True}),
    ("ADOPT", {}),
    ("ADOPT", {"weight_decay": 0.3, "betas": (0.3, 0.5), "clip": False, "maximize": True}),
    ("SophiaG", {}),
    ("SophiaG", {"weight_decay": 0.0, "betas": (0.3, 0.5), "rho": 0.5, "maximize": True}),
    ("ScheduleFreeSGD", {"lr": 0.1}),
    ("ScheduleFreeSGD", {"warmup_steps": 7, "weight_decay": 0.1, "r": 0.5, "maximize": True}),
    ("ScheduleFreeAdamW", {}),
    ("ScheduleFreeAdamW", {"warmup_steps": 7, "weight_decay": 0.1, "betas": (0.5, 0.9)}),
    ("ScheduleFreeAdamW", {"maximize": True, "weight_lr_power": 0.0}),
]


def twin_of(name: str) -> Any:
    """Return the class without kernels."""
    bases = getattr(optimizers, name).__mro__
    return next(base for base in bases if base.__name__ == f"Torch{name}")


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n} {o}" for n, o in CASES])
@pytest.mark.usefixtures("rounded_roots")
def test_kernel_has_the_bits_of_its_twin(
    name: str, options: dict[str, Any], dtype: torch.dtype, threads: int
) -> None:
    mine, other = make(LENGTHS, dtype)
    ours, twin = getattr(optimizers, name)(mine, **options), twin_of(name)(other, **options)
    assert isinstance(twin, Reference)
    run(ours, twin, mine, other, threads)
    assert ours.fallback_reason is None
    assert_same_bits(ours, twin, mine, other)
    for a, b in zip(ours.param_groups, twin.param_groups):
        assert {k: v for k, v in a.items() if k != "params"} == {
            k: v for k, v in b.items() if k != "params"
        }


@needs_native
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n} {o}" for n, o in CASES])
def test_bfloat16_is_rounded_once(name: str, options: dict[str, Any]) -> None:
    (mine,), (other,) = make([5003], torch.bfloat16)
    exact = mine.detach().double().requires_grad_()
    ours = getattr(optimizers, name)([mine], **options)
    twin, wide = twin_of(name)([other], **options), twin_of(name)([exact], **options)
    for _ in range(3):
        mine.grad = torch.randn(5003).bfloat16()
        other.grad, exact.grad = mine.grad.clone(), mine.grad.double()
        ours.step(), twin.step(), wide.step()
    with torch.no_grad():
        ours_off, twin_off = (float((p.double() - exact).abs().mean()) for p in (mine, other))
    assert ours.fallback_reason is None
    assert ours_off <= twin_off * 1.01


@pytest.mark.parametrize("clip", [False, True])
def test_adopts_first_step_is_the_papers(clip: bool) -> None:
    param = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = ADOPT([param], lr=0.1, clip=clip)
    param.grad = torch.tensor([0.5, -4.0])
    optimizer.step()
    assert param.tolist() == [1.0, -2.0]
    assert optimizer.state[param]["exp_avg_sq"].tolist() == [0.25, 16.0]
    param.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    # u = (1 / 0.5, -2 / 4), the first one limited to 1 if clipped; m = 0.1 u.
    expected = [1 - 0.1 * 0.1 * (1 if clip else 2), -2 + 0.1 * 0.1 * 0.5]
    torch.testing.assert_close(param.detach(), torch.tensor(expected))


PEERS: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    (
        "Lion",
        lambda p: Lion(p, lr=0.01, weight_decay=0.1),
        lambda p: pytorch_optimizer.Lion(p, lr=0.01, weight_decay=0.1),
    ),
    (
        "Adan",
        lambda p: Adan(p, lr=0.01, eps=1e-8),
        lambda p: pytorch_optimizer.Adan(p, lr=0.01, eps=1e-8),
    ),
    (
        # The peer limits by t^0.25 where the authors' code has (t - 1)^0.25.
        "ADOPT",
        lambda p: ADOPT(p, lr=0.01, clip=False),
        lambda p: pytorch_optimizer.ADOPT(p, lr=0.01, clip_lambda=lambda step: math.inf),
    ),
    (
        "ScheduleFreeSGD",
        lambda p: ScheduleFreeSGD(p, lr=0.1, warmup_steps=5, weight_decay=0.1, r=0.5),
        lambda p: schedulefree.SGDScheduleFree(
            p, lr=0.1, warmup_steps=5, weight_decay=0.1, r=0.5, foreach=False
        ),
    ),
    (
        "ScheduleFreeAdamW",
        lambda p: ScheduleFreeAdamW(p, lr=0.01, warmup_steps=5, weight_decay=0.1),
        lambda p: schedulefree.AdamWScheduleFree(
            p, lr=0.01, warmup_steps=5, weight_decay=0.1, foreach=False
        ),
    ),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), PEERS, ids=[name for name, *_ in PEERS])
def test_rule_is_that_of_a_peer(name: str, ours: Any, theirs: Any) -> None:
    mine, other = make([5, 300], torch.float64)
    first, second = ours(mine), theirs(other)
    getattr(second, "train", lambda: None)()
    for _ in range(50):
        for a, b in zip(mine, other):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        first.step(), second.step()
    # Other orders of the same operations: some 50 roundings of 1e-16.
    for a, b in zip(mine, other):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    if name.startswith("ScheduleFree"):
        first.eval(), second.eval()
        for a, b in zip(mine, other):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_sophia_clips_by_the_hessian() -> None:
    param = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    optimizer = SophiaG([param], lr=0.1, betas=(0.5, 0.5), rho=0.5, weight_decay=0.0)
    param.grad = torch.tensor([1.0, -2.0, 0.0])
    optimizer.update_hessian(samples=4)
    assert optimizer.state[param]["hessian"].tolist() == [2.0, 8.0, 0.0]
    param.grad = torch.tensor([1.0, -16.0, 0.0])
    optimizer.step()
    # m = (0.5, -8, 0), rho h = (1, 4, 0): ratios 0.5, -2 and 0, of which -2 is clipped.
    torch.testing.assert_close(param.detach(), torch.tensor([0.95, 1.1, 1.0]))
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        optimizer.update_hessian(samples=0)


@pytest.mark.parametrize("make_optimizer", [ScheduleFreeSGD, ScheduleFreeAdamW])
def test_schedule_free_modes(make_optimizer: Any) -> None:
    (param,), _ = make([40], torch.float64)
    optimizer = make_optimizer([param], lr=0.1)

    def step() -> None:
        param.grad = torch.randn_like(param)
        optimizer.step()

    step(), step()
    y = param.detach().clone()
    optimizer.eval()
    x = param.detach().clone()
    assert not torch.equal(x, y)
    optimizer.eval()
    assert torch.equal(param, x)
    with pytest.raises(RuntimeError, match=r"needs train mode; call optimizer.train\(\)"):
        step()
    assert optimizer.param_groups[0]["k"] == 2
    saved = optimizer.state_dict()
    optimizer.train()
    torch.testing.assert_close(param.detach(), y)
    other = param.detach().clone().requires_grad_()
    copy = make_optimizer([other], lr=0.1)
    copy.load_state_dict(saved)
    assert copy.param_groups[0]["train_mode"] is False
    assert copy.param_groups[0]["weight_sum"] == optimizer.param_groups[0]["weight_sum"]


@pytest.mark.parametrize("make_optimizer", [ScheduleFreeSGD, ScheduleFreeAdamW])
def test_a_skipped_step_is_not_counted(make_optimizer: Any) -> None:
    (param,), _ = make([4], torch.float32)
    optimizer = make_optimizer([param])
    param.grad = torch.full_like(param, math.nan)
    assert not optimizer.fused_step(max_norm=1.0).is_applied
    assert optimizer.param_groups[0]["k"] == 0
    param.grad = torch.ones_like(param)
    assert optimizer.fused_step(max_norm=1.0).is_applied
    assert optimizer.param_groups[0]["k"] == 1


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (Lion, {"lr": -1.0}, "lr must be at least 0 and finite, got -1.0"),
    (Lion, {"betas": (0.9, 1.0)}, r"betas must be 2 numbers in \[0, 1\), got \(0.9, 1.0\)"),
    (Adan, {"betas": (0.9, 0.9)}, "betas must be 3 numbers"),
    (Adan, {"eps": math.nan}, "eps must be at least 0 and finite, got nan"),
    (ADOPT, {"eps": 0.0}, "eps must be above 0 and finite, got 0.0"),
    (SophiaG, {"rho": -0.1}, "rho must be at least 0"),
    (SophiaG, {"eps": 0.0}, "eps must be above 0"),
    (ScheduleFreeSGD, {"momentum": 1.0}, r"momentum must be in \(0, 1\), got 1.0"),
    (ScheduleFreeSGD, {"warmup_steps": -1}, "warmup_steps must be at least 0"),
    (ScheduleFreeAdamW, {"betas": (0.0, 0.9)}, r"betas\[0\] must be above 0"),
    (ScheduleFreeAdamW, {"weight_decay": math.inf}, "weight_decay must be at least 0"),
]


@pytest.mark.parametrize(("kind", "options", "message"), BAD)
def test_bad_hyperparameters_raise(kind: Any, options: dict[str, Any], message: str) -> None:
    params: list[Tensor] = [torch.zeros(3, requires_grad=True)]
    with pytest.raises(ValueError, match=message):
        kind(params, **options)
