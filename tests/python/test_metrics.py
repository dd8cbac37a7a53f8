"""Metrics against a plain count, under any split."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import EmptyMetricError
from hotloop.metrics import Accuracy, Mean


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
