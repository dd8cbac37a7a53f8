"""Metrics against a plain count, under any split."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import EmptyMetricError
from hotloop.metrics import Accuracy, Mean
from hotloop.testing import assert_state_roundtrip


@given(
    count=st.integers(1, 67),
    cuts=st.lists(st.integers(0, 67), max_size=4),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8]),
)
def test_accuracy_under_any_split(count: int, cuts: list[int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    preds = torch.randint(0, 3, (count, 4), generator=generator).float()
    target = torch.randint(0, 4, (count,), generator=generator).to(dtype)
    metric = Accuracy()
    bounds = sorted({0, count, *(min(cut, count) for cut in cuts)})
    for start, end in itertools.pairwise(bounds):
        metric.update(preds[start:end], target[start:end])
    correct = sum(row.index(max(row)) == t for row, t in zip(preds.tolist(), target.tolist()))
    assert metric.compute() == correct / count
    metric.reset()
    with pytest.raises(EmptyMetricError, match="Accuracy has counted no sample"):
        metric.compute()


@pytest.mark.parametrize(
    ("preds", "target"), [((3,), (3,)), ((3, 4), (2,)), ((3, 4), (3, 1)), ((3, 4, 5), (3, 5))]
)
def test_accuracy_refuses_shapes(preds: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, C\) and target shape \(N,\), got \(3"):
        Accuracy().update(torch.zeros(preds), torch.zeros(target, dtype=torch.int64))


def test_mean_is_weighted_in_float64() -> None:
    metric = Mean()
    metric.update(torch.tensor(1e8), 2)
    metric.update(torch.tensor(1.0), 1)
    assert metric.compute() == (2e8 + 1) / 3


def test_mean_needs_a_value() -> None:
    with pytest.raises(EmptyMetricError, match="Mean has counted no value"):
        Mean().compute()


def counted(metric: Any, *batches: int) -> Any:
    """Return a metric that has counted batches, which are alike for both."""
    for seed in batches:
        generator = torch.Generator().manual_seed(seed)
        preds = torch.rand(5, 3, generator=generator)
        if isinstance(metric, Mean):
            metric.update(preds.sum(), seed)
        else:
            metric.update(preds, torch.randint(0, 3, (5,), generator=generator))
    return metric


@pytest.mark.parametrize("kind", [Accuracy, Mean])
@pytest.mark.parametrize("had", [(), (1,), (1, 2, 3)])
def test_a_metric_goes_on_from_its_state(kind: Any, had: tuple[int, ...]) -> None:
    first, second = counted(kind(), *had), counted(kind(), 7)
    assert_state_roundtrip(first, second)
    for metric in (first, second):
        counted(metric, 4, 5)
    whole = counted(kind(), *had, 4, 5)
    assert first.compute() == second.compute() == whole.compute()


def test_the_states_hold_numbers() -> None:
    accuracy = Accuracy()
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert accuracy.state_dict() == {"correct": 2, "count": 3}
    assert type(accuracy.state_dict()["correct"]) is int
    mean = Mean()
    mean.update(torch.tensor(0.5), 3)
    assert mean.state_dict() == {"sum": 1.5, "weight": 3}
    assert type(mean.state_dict()["sum"]) is float
