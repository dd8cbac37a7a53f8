"""What all metrics of classification have in common, and where their values end."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import EmptyMetricError, metrics
from hotloop.metrics import (
    F1,
    Accuracy,
    BalancedAccuracy,
    CohenKappa,
    ConfusionMatrix,
    FBeta,
    MatthewsCorrCoef,
    Metric,
    Precision,
    Recall,
    TopKAccuracy,
)
from hotloop.metrics.classification.class_metric import ClassMetric
from hotloop.rows import scan_rows
from hotloop.testing import assert_state_roundtrip

KINDS = sorted(
    (
        kind
        for kind in vars(metrics).values()
        if isinstance(kind, type) and issubclass(kind, ClassMetric)
    ),
    key=lambda kind: kind.__name__,
)


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
    with pytest.raises(EmptyMetricError, match="Accuracy has counted nothing; call update first"):
        metric.compute()


@pytest.mark.parametrize(
    ("preds", "target"), [((3,), (3,)), ((3, 4), (2,)), ((3, 4), (3, 1)), ((3, 4, 5), (3, 4))]
)
def test_accuracy_refuses_shapes(preds: tuple[int, ...], target: tuple[int, ...]) -> None:
    message = r"\(N, C, ...\) and target shape \(N, ...\), got \(3"
    with pytest.raises(ValueError, match=message):
        Accuracy().update(torch.zeros(preds), torch.zeros(target, dtype=torch.int64))


def counted(metric: Metric, *batches: int) -> Any:
    """Return a metric that has counted batches, which are alike for all."""
    for seed in batches:
        generator = torch.Generator().manual_seed(seed)
        preds = torch.rand(9, 6, generator=generator)
        metric.update(preds, torch.randint(0, 6, (9,), generator=generator))
    return metric


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("had", [(), (1,), (1, 2, 3)])
def test_a_metric_goes_on_from_its_state(kind: type[Metric], had: tuple[int, ...]) -> None:
    first, second = counted(kind(), *had), counted(kind(), 7)
    assert_state_roundtrip(first, second)
    first_state = first.state_dict()
    for metric in (first, second):
        counted(metric, 4, 5)
    whole = counted(kind(), *had, 4, 5).compute()
    assert first.compute() == pytest.approx(whole)
    assert second.compute() == pytest.approx(whole)
    # The state is a copy.
    assert str(first_state) == str(counted(kind(), *had).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_merge_in_any_order(kind: type[Metric]) -> None:
    whole = counted(kind(), 1, 2, 3).compute()
    for order in itertools.permutations(((1,), (2, 3), ())):
        parts = [counted(kind(), *batches) for batches in order]
        before = [part.state_dict() for part in parts[1:]]
        for part in parts[1:]:
            parts[0].merge(part)
        assert parts[0].compute() == pytest.approx(whole)
        for part, state in zip(parts[1:], before):
            assert str(part.state_dict()) == str(state)


def test_only_metrics_alike_are_merged() -> None:
    first = counted(F1(), 1)
    for other in (Precision(), F1(average="micro"), F1(ignore_index=0), F1("binary")):
        with pytest.raises(ValueError, match=r"only a metric like F1\(task='multiclass', "):
            first.merge(other)
    other = F1()
    other.update(torch.rand(4, 5), torch.randint(0, 5, (4,)))
    before = first.compute()
    with pytest.raises(ValueError, match=r"as many classes can be merged, got shape \(3, 5\) for"):
        first.merge(other)
    assert first.compute() == before
    # NaN is not equal to itself.
    F1(zero_division=math.nan).merge(F1(zero_division=float("nan")))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ignored_is_not_counted(kind: type[Metric]) -> None:
    metric = kind(ignore_index=-1)
    metric.update(torch.rand(5, 6), torch.full((5,), -1))
    name = kind.__name__
    with pytest.raises(EmptyMetricError, match=f"{name} has counted nothing; call update first"):
        metric.compute()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_count_as_their_scores(kind: type[Metric]) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(9, 6, generator=generator)
    target = torch.randint(0, 6, (9,), generator=generator)
    metric, other = kind(), counted(kind(), 3)
    metric.update_rows(scan_rows(scores, target))
    assert metric.compute() == pytest.approx(other.compute())
    if "binary" in kind.tasks:
        with pytest.raises(ValueError, match="for the task 'multiclass', not 'binary'"):
            kind("binary").update_rows(scan_rows(scores, target))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_counts_on_its_own(kind: type[Metric]) -> None:
    metric = counted(kind(), 1)
    before = str(metric.compute())
    for copied in (copy.copy, copy.deepcopy):
        other = copied(metric)
        counted(other, 2)
        assert str(metric.compute()) == before
        assert str(other.state_dict()) == str(counted(kind(), 1, 2).state_dict())
        other.reset()
        assert str(metric.compute()) == before


def test_the_first_scores_tell_the_number_of_classes() -> None:
    metric = Recall(average=None)
    metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    metric.update(torch.tensor([2]), torch.tensor([2], dtype=torch.int8))
    assert metric.compute().tolist() == [0.5, 1, 1]
    with pytest.raises(ValueError, match="preds must be scores of 3 classes, got 4"):
        metric.update(torch.eye(4), torch.arange(4))
    metric.reset()
    metric.update(torch.eye(4), torch.arange(4))
    assert metric.compute().tolist() == [1, 1, 1, 1]


def test_weights_make_counters_floats() -> None:
    metric = ConfusionMatrix(num_classes=2)
    labels = torch.tensor([0, 1])
    metric.update(labels, labels)
    assert metric.compute().dtype == torch.int64
    metric.update(labels, labels.flip(0), torch.tensor([0.5, 0.25]))
    metric.update(labels, labels)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().tolist() == [[2, 0.25], [0.5, 2]]


def test_a_value_is_not_the_state() -> None:
    metric = ConfusionMatrix(num_classes=2)
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    metric.compute().zero_()
    assert metric.compute().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: Precision("binary"), 0.0),
        (lambda: Precision("binary", zero_division=1), 1.0),
        (lambda: Recall("binary"), 0.0),
        (lambda: F1("binary", zero_division=1), 1.0),
        (lambda: Accuracy("binary"), 1.0),
        (lambda: BalancedAccuracy("binary"), 1.0),
        (lambda: BalancedAccuracy("binary", adjusted=True), math.nan),
        (lambda: MatthewsCorrCoef("binary"), 0.0),
        (lambda: CohenKappa("binary"), math.nan),
        (lambda: CohenKappa("binary", weights="linear"), math.nan),
    ],
)
def test_without_positives(make: Any, value: float) -> None:
    metric = make()
    metric.update(torch.tensor([False, False]), torch.tensor([0, 0]))
    assert metric.compute() == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: F1("multi"),
            "unknown task 'multi'.* binary, multiclass, multilabel$",
        ),
        (lambda: CohenKappa("multilabel"), "it is one of binary, multiclass$"),
        (lambda: F1(average="mean"), "unknown average 'mean'.*; it is one of macro, micro, none,"),
        (lambda: F1(num_classes=1), "num_classes must be an int of at least 2, or None, got 1"),
        (lambda: F1("binary", num_classes=2), "num_classes is for the task 'multiclass', not 'bin"),
        (lambda: F1(num_labels=2), "num_labels is for the task 'multilabel', not 'multiclass'"),
        (
            lambda: F1("binary", threshold=1.5),
            r"threshold must be a finite number in \[0, 1\]",
        ),
        (lambda: F1(zero_division=0.5), "zero_division must be 0, 1 or NaN, got 0.5"),
        (lambda: FBeta(beta=-1), "beta must be a finite number of at least 0, got -1"),
        (lambda: Accuracy(top_k=0), "top_k must be a positive int, got 0"),
        (lambda: Accuracy("binary", top_k=2), "top_k is for the task 'multiclass', not 'binary'"),
        (lambda: CohenKappa(weights="cubic"), "unknown weights 'cubic'.* linear, quadratic"),
        (lambda: ConfusionMatrix(normalize="rows"), "unknown normalize 'rows'.* all, pred, true"),
    ],
)
def test_options_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_options_are_shown() -> None:
    text = (
        "TopKAccuracy(average='micro', top_k=3, task='multiclass', num_classes=None, "
        "num_labels=None, threshold=0.5, logits=False, ignore_index=None)"
    )
    assert repr(TopKAccuracy(3)) == text
    assert "average='none'" in repr(F1(average=None))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_does_not_fit_is_refused(kind: type[Metric]) -> None:
    metric = counted(kind(), 1)
    before = str(metric.compute())
    with pytest.raises(
        ValueError, match=r"must have the keys \['counts', 'invalid'\], got \['a'\]"
    ):
        metric.load_state_dict({"a": 1})
    with pytest.raises(ValueError, match=r"counts of shape \(7,\) do not fit"):
        metric.load_state_dict({"counts": torch.zeros(7, dtype=torch.int64), "invalid": 0})
    assert str(metric.compute()) == before


def test_whether_higher_is_better() -> None:
    for kind in KINDS:
        assert kind.higher_is_better is (None if kind is ConfusionMatrix else True)
        assert kind.unit == ""
