"""Curves, areas and calibration against scikit-learn and torchmetrics."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from torch import Tensor
from torchmetrics.functional import classification as torchmetrics

from hotloop import EmptyMetricError
from hotloop.metrics import (
    AUROC,
    ROC,
    AveragePrecision,
    BrierScore,
    CalibrationError,
    LogLoss,
    Metric,
    PrecisionRecallCurve,
)

pytestmark = pytest.mark.filterwarnings("ignore:AUROC is not", "ignore:without", "ignore:No pos")

# The same sums in another order; float32 peers compute in float32.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
IGNORED = 99


class Batch(NamedTuple):
    preds: Tensor
    target: Tensor
    weight: Tensor | None


@st.composite
def batches(draw: st.DrawFn, task: str, floats: Iterable[torch.dtype] = FLOATS) -> Batch:
    """Scores in [0, 1] with ties, zeros and ones, and labels of few or many classes."""
    rows, columns = draw(st.integers(1, 67)), draw(st.integers(2, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    grid = draw(st.sampled_from([1, 2, 4, 10, 200, 2**20]))
    shape = (rows,) if task == "binary" else (rows, columns)
    preds = torch.randint(0, grid + 1, shape, generator=generator).double() / grid
    classes = columns if task == "multiclass" else 2
    shape = (rows,) if task == "multiclass" else shape
    # Often one class alone.
    present = draw(st.integers(1, classes))
    target = torch.randint(0, present, shape, generator=generator)
    if draw(st.booleans()):
        target = classes - 1 - target
    weight = None
    if draw(st.booleans()):
        weight = torch.randint(0, 4, (rows,), generator=generator).double() / 2
    dtype = draw(st.sampled_from(list(floats)))
    return Batch(preds.to(dtype), target.to(draw(st.sampled_from(INTEGERS))), weight)


def strided(tensor: Tensor) -> Tensor:
    """Return equal values in every second element of memory."""
    wide = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


def counted(make: Callable[[], Metric], batch: Batch, cuts: Iterable[int], order: int) -> Metric:
    """Return a metric that has counted a batch in parts, each a metric that is merged."""
    rows = len(batch.preds)
    bounds = sorted({0, rows, *(min(cut, rows) for cut in cuts)})
    parts = []
    for start, end in itertools.pairwise(bounds):
        metric = make()
        preds, target, weight = (x if x is None else x[start:end] for x in batch)
        metric.update(strided(preds), strided(target), weight)
        parts.append(metric)
    while len(parts) > 1:
        first = parts.pop(order % len(parts))
        other = parts.pop(order % len(parts))
        first.merge(other)
        parts.append(first)
    return parts[0]


cuts = st.lists(st.integers(0, 67), max_size=4)
orders = st.integers(0, 5)


def assert_near(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    ours, theirs = (torch.as_tensor(x, dtype=torch.float64) for x in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def of_peer(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def one_hot(batch: Batch) -> np.ndarray:
    """Return the labels that scikit-learn's metrics of labels take."""
    if batch.target.shape == batch.preds.shape:
        return batch.target.long().numpy()
    return torch.nn.functional.one_hot(batch.target.long(), batch.preds.shape[1]).numpy()


def arrays(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    weight = None if batch.weight is None else batch.weight.numpy()
    return one_hot(batch), batch.preds.double().numpy(), weight


def per_column(batch: Batch, score: Callable[..., float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the value and the weight of the positives of each class."""
    labels, scores, weight = arrays(batch)
    labels, scores = labels.reshape(len(labels), -1), scores.reshape(len(scores), -1)
    values = [
        of_peer(lambda c=c: score(labels[:, c], scores[:, c], sample_weight=weight))
        for c in range(labels.shape[1])
    ]
    weights = np.ones(len(labels)) if weight is None else weight
    return np.array(values), (labels * weights[:, None]).sum(0)


def average_of(values: np.ndarray, supports: np.ndarray, average: str) -> Any:
    if average == "none":
        return values
    if average == "macro":
        return values.mean()
    if supports.sum() == 0:
        return 0.0
    return np.average(np.where(supports == 0, 0, values), weights=supports)


def has_weight(batch: Batch) -> bool:
    return batch.weight is None or bool(batch.weight.any())


AREAS = [(AUROC, sklearn.roc_auc_score), (AveragePrecision, sklearn.average_precision_score)]


@pytest.mark.parametrize(("kind", "score"), AREAS)
@given(batch=batches("binary"), cuts=cuts, order=orders)
def test_binary_areas(kind: Any, score: Any, batch: Batch, cuts: list[int], order: int) -> None:
    if not has_weight(batch):
        return
    metric = counted(lambda: kind("binary"), batch, cuts, order)
    labels, scores, weight = arrays(batch)
    assert_near(metric.compute(), of_peer(lambda: score(labels, scores, sample_weight=weight)))


@pytest.mark.parametrize(("kind", "score"), AREAS)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("average", ["macro", "weighted", "none", "micro"])
@given(data=st.data(), cuts=cuts, order=orders)
def test_areas_of_classes(
    kind: Any, score: Any, task: str, average: str, data: st.DataObject, cuts: list[int], order: int
) -> None:
    batch = data.draw(batches(task))
    if not has_weight(batch):
        return
    metric = counted(lambda: kind(task, average=average), batch, cuts, order)
    if average == "micro":
        labels, scores, weight = arrays(batch)
        if weight is not None:
            weight = weight.repeat(labels.shape[1])
        flat = (labels.reshape(-1), scores.reshape(-1))
        expected = of_peer(lambda: score(*flat, sample_weight=weight))
    else:
        values, supports = per_column(batch, score)
        expected = average_of(values, supports, average)
    assert_near(metric.compute(), expected)


@given(batch=batches("multilabel"), max_fpr=st.sampled_from([0.01, 0.1, 0.5, 0.99, 1.0]))
def test_partial_areas(batch: Batch, max_fpr: float) -> None:
    metric = AUROC("multilabel", average="none", max_fpr=max_fpr)
    metric.update(*batch)
    if not has_weight(batch):
        return
    labels = arrays(batch)[0]
    values, _ = per_column(
        batch,
        # scikit-learn fails where the weight of one label is 0.
        lambda y, x, sample_weight: (
            sklearn.roc_auc_score(y, x, sample_weight=sample_weight, max_fpr=max_fpr)
            if sample_weight is None or len(set(y[sample_weight > 0])) == 2
            else math.nan
        ),
    )
    assert len(labels)
    assert_near(metric.compute(), values, 1e-11)


@given(batch=batches("multiclass"), average=st.sampled_from(["macro", "weighted"]))
def test_one_against_one(batch: Batch, average: str) -> None:
    metric = AUROC(average=average, multi_class="ovo")
    metric.update(batch.preds, batch.target)
    present = batch.target.unique().tolist()
    if len(present) == 1:
        assert math.isnan(metric.compute())
        return
    # Scores that add up to 1, which scikit-learn asks for, in the same order within a class.
    scores = batch.preds.double().numpy() / batch.preds.shape[1]
    scores = np.column_stack((scores, 1 - scores.sum(1)))
    expected = sklearn.roc_auc_score(
        batch.target.numpy(),
        scores,
        multi_class="ovo",
        average=average,
        labels=np.arange(scores.shape[1]),
    )
    assert_near(metric.compute(), expected)


CURVES = [(ROC, sklearn.roc_curve), (PrecisionRecallCurve, sklearn.precision_recall_curve)]


@pytest.mark.parametrize(("kind", "curve"), CURVES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@given(data=st.data(), cuts=cuts, order=orders, dropped=st.booleans())
def test_curves(
    kind: Any,
    curve: Any,
    task: str,
    data: st.DataObject,
    cuts: list[int],
    order: int,
    dropped: bool,
) -> None:
    batch = data.draw(batches(task))
    if not has_weight(batch):
        return
    metric = counted(lambda: kind(task, drop_intermediate=dropped), batch, cuts, order)
    ours = metric.compute()
    labels, scores, weight = arrays(batch)
    for column in range(1 if task == "binary" else scores.shape[1]):
        own = (labels, scores) if task == "binary" else (labels[:, column], scores[:, column])
        theirs = of_peer(
            lambda own=own: curve(
                *own, sample_weight=weight, drop_intermediate=dropped, pos_label=1
            )
        )
        for mine, expected in zip(ours, theirs):
            assert_near(mine if task == "binary" else mine[column], expected.copy())


THRESHOLDS: list[Any] = [
    2,
    3,
    11,
    200,
    257,
    65536,
    [0.0, 0.3, 0.3, 0.7, 1.0],
    [0.5],
    torch.tensor([0.1, 0.2, 0.9], dtype=torch.float64),
]


def at_thresholds(batch: Batch, thresholds: Any, column: int | None) -> tuple[Tensor, Tensor]:
    """Return the counts at thresholds, (T,) each: true and false positives, one by one."""
    scores = batch.preds if column is None else batch.preds[:, column]
    labels = torch.from_numpy(one_hot(batch))
    labels = labels if column is None else labels[:, column]
    weight = torch.ones(len(scores)) if batch.weight is None else batch.weight
    edges = torch.linspace(0, 1, thresholds) if isinstance(thresholds, int) else thresholds
    edges = torch.as_tensor(edges)
    reached = scores.double()[:, None] >= edges.double()
    sums = [(reached * (labels == y)[:, None] * weight[:, None]).sum(0) for y in (1, 0)]
    return sums[0].double(), sums[1].double()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@given(data=st.data(), thresholds=st.sampled_from(THRESHOLDS), cuts=cuts, order=orders)
def test_binned_curves_count_each_score(
    task: str, data: st.DataObject, thresholds: Any, cuts: list[int], order: int
) -> None:
    batch = data.draw(batches(task))
    if not has_weight(batch):
        return
    metric = counted(lambda: ROC(task, thresholds=thresholds), batch, cuts, order)
    columns = metric._column_list()
    for column, own in enumerate(columns):
        points = own.points()
        tps, fps = at_thresholds(batch, thresholds, None if task == "binary" else column)
        assert torch.equal(points.tps.flip(0), tps)
        assert torch.equal(points.fps.flip(0), fps)


def plain(batch: Batch) -> Batch:
    return Batch(batch.preds, batch.target.long(), None)


def with_options(task: str, batch: Batch) -> dict[str, Any]:
    names = {"multiclass": "num_classes", "multilabel": "num_labels"}
    return {names[task]: batch.preds.shape[1]} if task in names else {}


def has_both_labels(batch: Batch) -> bool:
    labels = one_hot(batch)
    return bool((labels.any(0) & ~labels.all(0)).all())


@pytest.mark.parametrize("name", ["auroc", "average_precision", "roc", "precision_recall_curve"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@settings(max_examples=100)
@given(data=st.data(), thresholds=st.sampled_from(THRESHOLDS))
def test_binned_values_are_those_of_torchmetrics(
    name: str, task: str, data: st.DataObject, thresholds: Any
) -> None:
    batch = plain(data.draw(batches(task, [torch.float32, torch.float64])))
    kinds = {
        "auroc": AUROC,
        "average_precision": AveragePrecision,
        "roc": ROC,
        "precision_recall_curve": PrecisionRecallCurve,
    }
    # Without both labels ours follows scikit-learn.
    if name != "average_precision" and not has_both_labels(batch):
        return
    options: dict[str, Any] = {}
    if name in ("auroc", "average_precision") and task != "binary":
        options["average"] = data.draw(st.sampled_from(["macro", "weighted", "none"]))
    metric = kinds[name](task, thresholds=thresholds, **options)
    metric.update(batch.preds, batch.target)
    peer = getattr(torchmetrics, f"{task}_{name}")
    theirs = of_peer(
        lambda: peer(
            batch.preds,
            batch.target,
            thresholds=thresholds,
            **with_options(task, batch),
            **options,
        )
    )
    ours = metric.compute()
    if not isinstance(ours, tuple):
        ours, theirs = (ours,), (theirs,)
    for mine, expected in zip(ours, theirs):
        assert_near(mine, expected, 1e-6)


@given(batch=batches("binary"), cuts=cuts, order=orders)
def test_log_loss_of_binary_probabilities(batch: Batch, cuts: list[int], order: int) -> None:
    check_log_loss("binary", batch, cuts, order)


@given(batch=batches("multiclass"), cuts=cuts, order=orders)
def test_log_loss_of_probabilities(batch: Batch, cuts: list[int], order: int) -> None:
    check_log_loss("multiclass", batch, cuts, order)


def check_log_loss(task: str, batch: Batch, cuts: list[int], order: int) -> None:
    if not has_weight(batch):
        return
    metric = counted(lambda: LogLoss(task), batch, cuts, order)
    wide = torch.promote_types(batch.preds.dtype, torch.float32)
    classes = 2 if task == "binary" else batch.preds.shape[1]
    expected = of_peer(
        lambda: sklearn.log_loss(
            batch.target.numpy(),
            batch.preds.to(wide).numpy(),
            sample_weight=arrays(batch)[2],
            labels=np.arange(classes),
        )
    )
    assert_near(metric.compute(), expected, TOLERANCE[wide])


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@given(data=st.data(), cuts=cuts, order=orders, scale=st.sampled_from([True, False, "auto"]))
def test_brier_scores(
    task: str, data: st.DataObject, cuts: list[int], order: int, scale: Any
) -> None:
    batch = data.draw(batches(task))
    if not has_weight(batch):
        return
    metric = counted(lambda: BrierScore(task, scale_by_half=scale), batch, cuts, order)
    if task == "binary":
        options: dict[str, Any] = {"pos_label": 1}
    else:
        options = {"labels": np.arange(batch.preds.shape[1])}
    expected = of_peer(
        lambda: sklearn.brier_score_loss(
            batch.target.numpy(),
            batch.preds.double().numpy(),
            sample_weight=arrays(batch)[2],
            scale_by_half=scale,
            **options,
        )
    )
    assert_near(metric.compute(), expected)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@given(data=st.data(), cuts=cuts, order=orders, bins=st.sampled_from([1, 2, 10, 15, 100]))
def test_calibration_errors(
    task: str, norm: str, data: st.DataObject, cuts: list[int], order: int, bins: int
) -> None:
    batch = data.draw(batches(task, [torch.float32, torch.float64]))
    unweighted = plain(batch)
    make = partial(CalibrationError, task, n_bins=bins, norm=norm)
    metric = counted(make, unweighted, cuts, order)
    peer = getattr(torchmetrics, f"{task}_calibration_error")
    options = with_options(task, batch)

    def theirs(batch: Batch) -> Tensor:
        return peer(batch.preds.float(), batch.target, n_bins=bins, norm=norm, **options)

    assert_near(metric.compute(), theirs(unweighted), 1e-5)
    if batch.weight is None or not has_weight(batch):
        return
    # A weight is a number of equal rows.
    metric = counted(make, batch, cuts, order)
    times = (2 * batch.weight).long()
    repeated = (x.repeat_interleave(times, 0) for x in unweighted[:2])
    assert_near(metric.compute(), theirs(Batch(*repeated, None)), 1e-5)


def logits_of(batch: Batch) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 4 * torch.randn(batch.preds.shape, generator=generator).to(batch.preds.dtype)


LOGITS: list[tuple[Callable[..., Metric], list[str]]] = [
    (AUROC, ["binary", "multiclass", "multilabel"]),
    (AveragePrecision, ["binary", "multiclass", "multilabel"]),
    (LogLoss, ["binary", "multiclass"]),
    (BrierScore, ["binary", "multiclass"]),
    (CalibrationError, ["binary", "multiclass"]),
]


@pytest.mark.parametrize(("kind", "task"), [(k, t) for k, ts in LOGITS for t in ts])
@given(data=st.data())
def test_logits_are_made_probabilities(kind: Any, task: str, data: st.DataObject) -> None:
    batch = data.draw(batches(task))
    if not has_weight(batch):
        return
    logits = logits_of(batch)
    # In float32 little is left of 1 - p where p is near 1.
    least = torch.float64 if kind is LogLoss else torch.float32
    wide = logits.to(torch.promote_types(logits.dtype, least))
    probabilities = wide.softmax(1) if task == "multiclass" else wide.sigmoid()
    ours, expected = kind(task, logits=True), kind(task)
    ours.update(logits, batch.target, batch.weight)
    expected.update(probabilities, batch.target, batch.weight)
    assert_near(ours.compute(), expected.compute(), 1e-6)


KINDS: list[tuple[Callable[..., Metric], str, dict[str, Any]]] = [
    *(
        (kind, task, options)
        for kind in (AUROC, AveragePrecision)
        for task in ("binary", "multiclass", "multilabel")
        for options in ({}, {"thresholds": 11}, {"average": "micro"})
    ),
    (AUROC, "multiclass", {"multi_class": "ovo"}),
    *(
        (kind, task, {})
        for kind in (LogLoss, BrierScore, CalibrationError)
        for task in ("binary", "multiclass")
    ),
    (LogLoss, "multiclass", {"logits": True}),
    (LogLoss, "binary", {"logits": True}),
]


@pytest.mark.parametrize(("kind", "task", "options"), KINDS)
@given(data=st.data(), cuts=cuts, order=orders)
def test_ignored_labels_do_not_count(
    kind: Any, task: str, options: dict[str, Any], data: st.DataObject, cuts: list[int], order: int
) -> None:
    batch = data.draw(batches(task))
    if not has_weight(batch):
        return
    if options.get("multi_class") == "ovo":
        batch = batch._replace(weight=None)
    # Rows of anything between the others.
    rows = len(batch.preds)
    preds = torch.full((2 * rows, *batch.preds.shape[1:]), torch.nan, dtype=batch.preds.dtype)
    target = torch.full((2 * rows, *batch.target.shape[1:]), IGNORED, dtype=batch.target.dtype)
    preds[::2], target[::2] = batch.preds, batch.target
    weight = None if batch.weight is None else batch.weight.repeat_interleave(2)
    more = Batch(preds, target, weight)
    ours = counted(lambda: kind(task, ignore_index=IGNORED, **options), more, cuts, order)
    expected = kind(task, **options)
    expected.update(*batch)
    assert_near(ours.compute(), expected.compute())


@given(batch=batches("multilabel"), cuts=cuts, order=orders)
def test_ignored_labels_of_some_classes(batch: Batch, cuts: list[int], order: int) -> None:
    if not has_weight(batch):
        return
    is_ignored = torch.rand(batch.target.shape) < 0.3
    target = batch.target.masked_fill(is_ignored, IGNORED)
    for options in ({}, {"thresholds": 2**16}):
        metric = counted(
            lambda options=options: AUROC(
                "multilabel", average="none", ignore_index=IGNORED, **options
            ),
            batch._replace(target=target),
            cuts,
            order,
        )
        try:
            ours = metric.compute()
        except EmptyMetricError:
            assert not (~is_ignored * (1 if batch.weight is None else batch.weight[:, None])).any()
            continue
        for column, value in enumerate(ours):
            kept = ~is_ignored[:, column]
            own = [x[kept] for x in (batch.preds[:, column], target[:, column])]
            expected = AUROC("binary", **options)
            expected.update(*own, None if batch.weight is None else batch.weight[kept])
            try:
                assert_near(value, expected.compute())
            except EmptyMetricError:
                assert math.isnan(value)
