"""Updates from a device that must not be waited for, which is only asked at `compute`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.metrics import (
    BitsPerByte,
    ExplainedVariance,
    Max,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    Min,
    PearsonCorrCoef,
    Perplexity,
    Quantile,
    R2Score,
    RunningMean,
    RunningMoments,
    SpearmanCorrCoef,
    Sum,
    TokenAccuracy,
)
from tests.python.metrics.batches import FarTensor, far, torch_backend

VALUES = [Sum, Mean, Min, Max, lambda: RunningMean(4), RunningMoments, Quantile]
NUMBERS = [
    MeanSquaredError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    R2Score,
    ExplainedVariance,
    PearsonCorrCoef,
    SpearmanCorrCoef,
]
TOKENS = [Perplexity, TokenAccuracy, BitsPerByte, lambda: BitsPerByte([3, 0, 2, 1])]


def check(make: Any, batches: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Count batches here and there, and in a metric that merges both."""
    near, metric, other, merged = make(), make(), make(), make()
    for batch in batches:
        near.update(*batch)
    with torch_backend():
        for target, batch in zip((metric, metric, other), batches):
            target.update(*map(far, batch))
            merged.update(*map(far, batch))
        metric.merge(other)
        state = metric.state_dict()
        monkeypatch.setattr(FarTensor, "is_waiting_allowed", True)
        expected = near.compute()
        if isinstance(expected, dict):
            expected, found, whole = (
                list(each.values()) for each in (expected, metric.compute(), merged.compute())
            )
        else:
            found, whole = metric.compute(), merged.compute()
        assert found == pytest.approx(expected, rel=1e-12)
        assert whole == pytest.approx(expected, rel=1e-12)
        # What was counted there may go on here.
        restored = make()
        restored.load_state_dict(state)
        restored.update(*batches[0])
        near.update(*batches[0])
        if not isinstance(expected, list):
            assert restored.compute() == pytest.approx(near.compute(), rel=1e-12)


@pytest.mark.parametrize("make", VALUES)
@pytest.mark.parametrize("weight", [None, 3.0, "tensor"])
def test_values(make: Any, weight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if weight is not None and make is Quantile:
        return
    batches: list[tuple[Any, ...]] = []
    for values in (torch.randn(5), torch.randn(2, 3), torch.tensor(0.5)):
        weights = torch.rand_like(values) if weight == "tensor" else torch.tensor(3.0)
        batches.append((values,) if weight is None else (values, weights))
    check(make, batches, monkeypatch)


@pytest.mark.parametrize("make", NUMBERS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_numbers(make: Any, is_weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_weighted and make is SpearmanCorrCoef:
        return
    batches: list[tuple[Tensor, ...]] = []
    for count in (5, 1, 8):
        preds, target, weight = torch.randn(3, count).unbind()
        batches.append((preds, target, weight.abs()) if is_weighted else (preds, target))
    check(make, batches, monkeypatch)


@pytest.mark.parametrize("make", TOKENS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_tokens(make: Any, is_weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[Tensor, ...]] = []
    for count in (5, 1, 8):
        target = torch.randint(0, 4, (count,))
        target[3:4] = -100
        batch = (torch.randn(count, 4, dtype=torch.float64), target)
        batches.append((*batch, torch.rand(count)) if is_weighted else batch)
    check(make, batches, monkeypatch)


def test_sums_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Perplexity()
    with torch_backend():
        metric.update_sum(far(torch.tensor(3.0)), far(torch.tensor(2)))
        metric.update_sum(far(torch.tensor(1.0)), 2)
        monkeypatch.setattr(FarTensor, "is_waiting_allowed", True)
        assert metric.compute() == pytest.approx(torch.e)
