"""What follows the backward pass: clipping, the update, clearing."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hotloop.loops import (
    optimizer_step,
)
from hotloop.loops.optimizer_step import clear_gradients
from hotloop.optimizers import SGD, AdamW, WeightAverage
from hotloop.optimizers.fused_step import FusedStep
from hotloop.testing import differences

META = torch.device("meta")


MAKERS = [
    pytest.param(lambda params: AdamW(params, lr=0.05), id="AdamW"),
    pytest.param(lambda params: SGD(params, lr=0.05, momentum=0.9), id="SGD"),
    pytest.param(lambda params: torch.optim.AdamW(params, lr=0.05), id="torch.AdamW"),
    pytest.param(lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9), id="torch.SGD"),
]


def model_with_gradients(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    add_gradients(model, scale)
    return model


def add_gradients(model: nn.Module, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(3)
    for param in model.parameters():
        grad = torch.randn(param.shape, generator=generator) * scale
        param.grad = grad if param.grad is None else param.grad + grad


def norm_of(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))


@pytest.mark.parametrize("make", MAKERS)
def test_a_plain_step_is_the_optimizers_own(make: Any) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    for _ in range(3):
        assert optimizer_step(optimizer) == FusedStep(None, is_applied=True)
        assert all(param.grad is None for param in model.parameters())
        reference.step()
        reference.zero_grad()
        for each in (model, other):
            add_gradients(each)
    assert differences(model.state_dict(), other.state_dict()) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_values_are_cut_as_torch_cuts_them(make: Any, max_norm: float | None) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    for _ in range(3):
        nn.utils.clip_grad_value_(other.parameters(), 0.5)
        assert max(float(param.grad.abs().max()) for param in other.parameters()) == 0.5
        expected = norm_of(other)
        report = optimizer_step(optimizer, max_value=0.5, max_norm=max_norm)
        assert report == (pytest.approx(expected, rel=1e-6), True)
        if max_norm is not None:
            assert expected > max_norm
            nn.utils.clip_grad_norm_(other.parameters(), max_norm)
        reference.step()
        reference.zero_grad()
        for each in (model, other):
            add_gradients(each)
    tolerance = 0 if max_norm is None else 1e-6
    torch.testing.assert_close(
        model.state_dict(), other.state_dict(), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("make", MAKERS)
def test_the_norm_is_cut_as_torch_cuts_it(make: Any) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    for scale, max_norm in ((1.0, 2.0), (1.0, 1e9), (3.0, 0.1), (1.0, math.inf)):
        expected = float(nn.utils.clip_grad_norm_(other.parameters(), max_norm))
        report = optimizer_step(optimizer, max_norm=max_norm)
        assert report == (pytest.approx(expected, rel=1e-6), True)
        reference.step()
        reference.zero_grad()
        for each in (model, other):
            add_gradients(each, scale)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_what_need_not_be_cut_keeps_its_bits(make: Any) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer_step(make(other.parameters()))
    report = optimizer_step(make(model.parameters()), max_norm=1e6, max_value=1e6)
    assert report.grad_norm == pytest.approx(norm_of(model_with_gradients()), rel=1e-6)
    assert differences(model.state_dict(), other.state_dict()) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"max_value": 0.3}, {"average": 1}])
def test_a_factor_multiplies_the_gradients_first(make: Any, options: dict[str, Any]) -> None:
    results = []
    for scale, factor in ((0.25, 1.0), (1.0, 0.25), (1.0, torch.tensor(0.25))):
        model = model_with_gradients(scale)
        has_average = "average" in options
        average = WeightAverage(model, 0.5) if has_average else None
        report = optimizer_step(
            make(model.parameters()), **(options | {"average": average}), grad_factor=factor
        )
        assert all(param.grad is None for param in model.parameters())
        results.append((report, model.state_dict(), average.state_dict() if average else None))
    first, *others = results
    for report, state, averages in others:
        assert report == (
            None if first[0].grad_norm is None else pytest.approx(first[0].grad_norm, rel=1e-12),
            True,
        )
        # A power of two costs no bit, but for those of the norm.
        torch.testing.assert_close(state, first[1], rtol=1e-6, atol=1e-7)
        if averages is not None:
            torch.testing.assert_close(averages["averages"], first[2]["averages"])


def test_a_factor_elsewhere_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    original = torch._foreach_mul_

    def recorded(grads: list[Tensor], factor: Any) -> None:
        calls.append((len(grads), factor))
        original(grads, factor)

    monkeypatch.setattr(torch, "_foreach_mul_", recorded)
    model = nn.Linear(3, 2, device=META)
    model(torch.ones(4, 3, device=META)).sum().backward()
    factor = torch.tensor(0.5, device=META)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert optimizer_step(optimizer, grad_factor=factor) == (None, True)
    assert calls == [(2, factor)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("way", ["max_norm", "max_value", "scaler"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_changes_nothing(make: Any, way: str, bad: float) -> None:
    model = model_with_gradients()
    model[2].bias.grad[1] = bad
    before = copy.deepcopy(model.state_dict())
    optimizer = make(model.parameters())
    average = WeightAverage(model, 0.9)
    options: dict[str, Any] = {way: 0.5}
    if way == "scaler":
        scaler = GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.tensor(1.0))
        options = {way: scaler}
    report = optimizer_step(optimizer, average=average, **options)
    assert report.is_applied is False
    assert report.grad_norm is not None
    assert not math.isfinite(report.grad_norm)
    assert differences(model.state_dict(), before) == []
    assert average.updates == 0
    assert len(optimizer.state) == 0 or all(
        float(state.get("step", 0)) == 0 for state in optimizer.state.values()
    )
    assert all(param.grad is None for param in model.parameters())
    if way == "scaler":
        assert scaler.get_scale() == 4


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "options", [{}, {"max_norm": 1.0}, {"max_value": 0.3}, {"max_value": 0.3, "max_norm": 1.0}]
)
def test_a_scaler_scales_and_takes_it_back(make: Any, options: dict[str, Any]) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for _ in range(3):
        scale = scaler.scale(torch.tensor(1.0)).item()
        for param in model.parameters():
            param.grad *= scale
        report = optimizer_step(optimizer, scaler=scaler, **options)
        expected = optimizer_step(reference, **({"max_norm": math.inf} | options))
        assert report == (pytest.approx(expected.grad_norm, rel=1e-6), True)
        for each in (model, other):
            add_gradients(each)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-7)
    assert scaler.get_scale() == 16


@pytest.mark.parametrize("make", MAKERS)
def test_a_scaler_that_is_off_does_nothing(make: Any) -> None:
    optimizer = make(model_with_gradients().parameters())
    scaler = GradScaler("cpu", enabled=False)
    assert optimizer_step(optimizer, scaler=scaler) == FusedStep(None, is_applied=True)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_an_average_follows(make: Any, max_norm: float | None) -> None:
    model = model_with_gradients()
    optimizer, average = make(model.parameters()), WeightAverage(model, 0.9)
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        report = optimizer_step(optimizer, average=average, max_norm=max_norm)
        assert (report.grad_norm is None) == (max_norm is None)
        expected.update_parameters(model)
        add_gradients(model)
    assert average.updates == 3
    for ours, theirs in zip(average.averages.values(), expected.module.parameters()):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.1}, {"average": True}])
def test_parameters_without_a_gradient_stay(make: Any, options: dict[str, Any]) -> None:
    used, idle = nn.Linear(2, 1), nn.Linear(2, 1)
    model = nn.ModuleList([used, idle])
    optimizer = make(model.parameters())
    if options.get("average"):
        options = {"average": WeightAverage(model, 0.9)}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer_step(optimizer, **options)
    before = copy.deepcopy(idle.state_dict())
    for _ in range(2):
        used(torch.ones(1, 2)).sum().backward()
        assert optimizer_step(optimizer, **options).is_applied
    # Neither momentum nor decay moves what the loss does not depend on.
    assert differences(idle.state_dict(), before) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "options",
    [{"max_norm": 1.0}, {"max_norm": 0.0}, {"max_value": 1.0}, {"grad_factor": 0.5}],
)
def test_a_step_without_any_gradient(make: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    report = optimizer_step(make(model.parameters()), **options)
    assert report == (None if "grad_factor" in options else 0.0, True)
    assert differences(model.state_dict(), before) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"max_value": 1.0}])
def test_a_scaled_step_without_any_gradient(make: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(2, 1)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.tensor(1.0))
    optimizer = make(model.parameters())
    for _ in range(2):
        assert optimizer_step(optimizer, scaler=scaler, **options) == (0.0, True)
    # Nothing has overflowed.
    assert scaler.get_scale() == 16


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": -1.0}, "max_norm must be at least 0 .* got -1.0"),
        ({"max_norm": math.nan}, "max_norm must be at least 0 .* got nan"),
        ({"max_value": 0.0}, "max_value must be above 0, or None; got 0.0"),
        ({"max_value": math.nan}, "max_value must be above 0, or None; got nan"),
        ({"grad_factor": -0.5}, "grad_factor must be above 0 and finite, got -0.5"),
        ({"grad_factor": torch.tensor(0.0)}, "grad_factor must be above 0 and finite, got 0.0"),
        ({"grad_factor": math.inf, "max_value": 1.0}, "grad_factor must be above 0 and .* got inf"),
    ],
)
def test_what_would_turn_the_step_around_is_refused(
    make: Any, options: dict[str, Any], message: str
) -> None:
    model = model_with_gradients()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer_step(make(model.parameters()), **options)
    assert differences(model.state_dict(), before) == []


def test_a_class_clears_gradients_its_own_way() -> None:
    calls: list[str] = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            calls.append("own")
            super().zero_grad(set_to_none)

    model = model_with_gradients()
    clear_gradients(Own(model.parameters(), lr=0.1))
    assert calls == ["own"]
    assert all(param.grad is None for param in model.parameters())
