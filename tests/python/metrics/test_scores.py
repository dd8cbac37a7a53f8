"""What all metrics of scores have in common: what they take, refuse, keep and forget."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

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
from hotloop.testing import assert_state_roundtrip
from tests.conftest import needs_native
from tests.python.metrics.batches import LAYOUTS, laid_out, torch_backend

CURVES = (AUROC, AveragePrecision, ROC, PrecisionRecallCurve)
MEANS = (LogLoss, BrierScore, CalibrationError)

#: Each metric with options of each of its ways to count.
KINDS: list[tuple[type[Metric], str, dict[str, Any]]] = [
    *(
        (kind, task, options)
        for kind in CURVES
        for task in ("binary", "multiclass", "multilabel")
        for options in ({}, {"thresholds": 11}, {"thresholds": [0.2, 0.5, 0.9]})
    ),
    *((kind, task, {}) for kind in MEANS for task in ("binary", "multiclass")),
    (LogLoss, "binary", {"logits": True}),
    (LogLoss, "multiclass", {"logits": True}),
]
each_kind = pytest.mark.parametrize(("kind", "task", "options"), KINDS)


def batch(task: str, seed: int = 0, rows: int = 23, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return probabilities with all classes among the labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows,) if task == "binary" else (rows, classes)
    preds = torch.rand(shape, generator=generator)
    if task == "multiclass":
        return preds.softmax(1), torch.arange(rows) % classes
    return preds, torch.randint(0, 2, shape, generator=generator)


def values(metric: Metric) -> list[float]:
    """Return all numbers of a value."""
    value = metric.compute()
    parts = value if isinstance(value, tuple) else (value,)
    flat = [x for part in parts for x in (part if isinstance(part, list) else [part])]
    return torch.cat([torch.as_tensor(x, dtype=torch.float64).reshape(-1) for x in flat]).tolist()


def assert_same(first: Metric, second: Metric) -> None:
    assert values(first) == pytest.approx(values(second), rel=1e-12, abs=1e-12, nan_ok=True)


@each_kind
def test_state_merging_and_copies(kind: Any, task: str, options: dict[str, Any]) -> None:
    def counted(*seeds: int) -> Any:
        metric = kind(task, **options)
        for seed in seeds:
            metric.update(*batch(task, seed))
        return metric

    first, second = counted(1, 2), counted(3)
    assert_state_roundtrip(first, second)
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        copied.update(*batch(task, 4))
        first.update(*batch(task, 5))
        assert_same(copied, counted(1, 2, 4))
        assert_same(first, counted(1, 2, 5))
        first = counted(1, 2)
    merged = counted()
    merged.merge(first)
    merged.merge(counted())
    merged.update(*batch(task, 6))
    assert_same(merged, counted(1, 2, 6))
    assert_same(first, counted(1, 2))
    first.reset()
    first.update(*batch(task, 7))
    assert_same(first, counted(7))


@each_kind
def test_nothing_counted_has_no_value(kind: Any, task: str, options: dict[str, Any]) -> None:
    metric = kind(task, **options, ignore_index=99)
    message = f"{kind.__name__} has counted nothing; call update first"
    preds, target = batch(task)
    for part, labels in [(preds[:0], target[:0]), (preds, torch.full_like(target, 99))]:
        with pytest.raises(EmptyMetricError, match=message):
            metric.compute()
        metric.update(part, labels)
    with pytest.raises(EmptyMetricError, match=message):
        metric.compute()
    metric.update(preds, target, torch.zeros(len(preds)))
    with pytest.raises(EmptyMetricError, match=message):
        metric.compute()


def refusals(task: str, takes_all: bool) -> list[tuple[str, Callable[[Tensor, Tensor], Any], str]]:
    """Return names, what spoils a batch, and what is said of it."""
    at = "[17]" if task == "binary" else "[17, 2]"
    label = "[17]" if task != "multilabel" else "[17, 2]"
    place = (17,) if task == "binary" else (17, 2)
    own = (17,) if task != "multilabel" else (17, 2)
    allowed = "in [0, 4)" if task == "multiclass" else "0 or 1"

    def score(value: float) -> Callable[[Tensor, Tensor], Any]:
        return lambda preds, target: preds.__setitem__(place, value)

    def named(value: int) -> Callable[[Tensor, Tensor], Any]:
        return lambda preds, target: target.__setitem__(own, value)

    said = "must be a number" if takes_all else "must be in [0, 1]; logits need logits=True"
    made = [
        ("nan", score(math.nan), f"preds{at} is nan, {said}"),
        ("label", named(12), f"target{label} is 12, must be {allowed}"),
        ("negative label", named(-1), f"target{label} is -1, must be {allowed}"),
    ]
    if not takes_all:
        made += [
            ("above", score(1.5), f"preds{at} is 1.5, {said}"),
            ("below", score(-0.25), f"preds{at} is -0.25, {said}"),
            ("infinite", score(math.inf), f"preds{at} is inf, {said}"),
        ]
    return made


@each_kind
@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_bad_batch_is_refused_whole(
    kind: Any, task: str, options: dict[str, Any], is_weighted: bool
) -> None:
    is_uniform = isinstance(options.get("thresholds"), int)
    takes_all = (kind in CURVES and not is_uniform) or "logits" in options
    metric, expected = kind(task, **options), kind(task, **options)
    weight = torch.ones(23) if is_weighted else None
    for each in (metric, expected):
        each.update(*batch(task), weight)
    for _, spoil, message in refusals(task, takes_all):
        preds, target = (x.clone() for x in batch(task, 1))
        # Of several ones the first is named.
        preds.reshape(-1)[-1] = math.nan
        spoil(preds, target)
        with pytest.raises(ValueError, match=re.escape(message)):
            metric.update(preds, target, weight)
        assert_same(metric, expected)
    for bad in (-1.0, math.nan, math.inf):
        weights = torch.ones(23)
        weights[5] = bad
        with pytest.raises(
            ValueError, match=rf"weight\[5\] is {bad}, must be finite and at least 0"
        ):
            metric.update(*batch(task, 1), weights)
        assert_same(metric, expected)
    with pytest.raises(ValueError, match=r"weight must have shape \(23,\), got \(22,\)"):
        metric.update(*batch(task, 1), torch.ones(22))
    assert_same(metric, expected)
    # Refused scores of what is ignored are not looked at.
    kept = kind(task, **options, ignore_index=7)
    preds, target = (x.clone() for x in batch(task))
    preds[3], target[3] = math.nan, 7
    kept.update(preds, target, weight)
    assert all(math.isfinite(x) or kind in (ROC, PrecisionRecallCurve) for x in values(kept))


def test_the_label_to_ignore_is_named() -> None:
    metric = AUROC(ignore_index=-100)
    preds, target = batch("multiclass")
    target[3] = 4
    with pytest.raises(
        ValueError, match=r"target\[3\] is 4, must be in \[0, 4\) or ignore_index=-100"
    ):
        metric.update(preds, target)


@each_kind
def test_shapes_and_dtypes_are_refused(kind: Any, task: str, options: dict[str, Any]) -> None:
    metric = kind(task, **options)
    wanted = {
        "binary": "the same shape for",
        "multiclass": r"the shapes \(N, C, ...\) and \(N, ...\) for",
        "multilabel": r"the same shape \(N, L, ...\) for",
    }[task]
    preds, target = batch(task)
    shapes = {
        "binary": [(3,), (3, 1)],
        "multiclass": [(3,), (3, 4), (3, 1)],
        "multilabel": [(3,), (3,)],
    }[task]
    for scores, labels in [
        (preds[:3], target[:4]),
        (preds[:3, None], target[:3]),
        (torch.rand(shapes[0]), torch.zeros(shapes[1], dtype=torch.int64)),
        (torch.rand(3, 0), torch.zeros(3, dtype=torch.int64)),
    ]:
        message = rf"preds and target must have {wanted} task='{task}', got \(3"
        with pytest.raises(ValueError, match=message):
            metric.update(scores, labels)
    message = "preds must be scores of dtype float32, float64, bfloat16 or float16, got torch.int64"
    with pytest.raises(ValueError, match=message):
        metric.update(target, target)
    with pytest.raises(ValueError, match="target must be of an integer dtype or bool, got tor"):
        metric.update(preds, target.float())


@each_kind
@settings(max_examples=8)
@given(
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.int32, torch.uint8, torch.uint16, torch.int8]),
    rows=st.integers(1, 67),
)
def test_layouts_and_dtypes_of_labels(
    kind: Any, task: str, options: dict[str, Any], layout: str, dtype: torch.dtype, rows: int
) -> None:
    metric, expected = kind(task, **options), kind(task, **options)
    preds, target = batch(task, rows=rows)
    expected.update(preds, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        layouts = layout if preds.ndim > 1 or layout != "transposed" else "strided"
        metric.update(laid_out(preds, layouts), laid_out(target.to(dtype), "strided"))
        assert_same(metric, expected)


@each_kind
def test_more_dimensions_are_more_rows(kind: Any, task: str, options: dict[str, Any]) -> None:
    preds, target = batch(task, rows=24)
    metric, expected = kind(task, **options), kind(task, **options)
    weight = torch.rand(24)
    expected.update(preds, target, weight)
    if task == "binary":
        shaped = preds.reshape(2, 3, 4), target.reshape(2, 3, 4)
    else:
        shaped = (
            preds.reshape(2, 3, 4, 4).movedim(-1, 1),
            target.reshape(2, 3, 4, -1).movedim(-1, 1),
        )
        if task == "multiclass":
            shaped = shaped[0], target.reshape(2, 3, 4)
    metric.update(*shaped, weight.reshape(2, 3, 4))
    assert_same(metric, expected)
    shaped = shaped[0].clone(), shaped[1].clone()
    place = (1, 2, 3) if task != "multilabel" else (1, 0, 2, 3)
    shaped[1][place] = 9
    with pytest.raises(ValueError, match=rf"target\[{', '.join(map(str, place))}\] is 9, must be"):
        metric.update(*shaped)
    shaped[1][place] = 0
    place = (1, 2, 3) if task == "binary" else (1, 2, 0, 3)
    shaped[0][place] = math.nan
    with pytest.raises(ValueError, match=rf"preds\[{', '.join(map(str, place))}\] is nan, must be"):
        metric.update(*shaped)
    assert_same(metric, expected)


@each_kind
def test_what_is_kept_belongs_to_the_metric(kind: Any, task: str, options: dict[str, Any]) -> None:
    metric, expected = kind(task, **options), kind(task, **options)
    preds, target = (x.clone() for x in batch(task))
    preds.requires_grad_()
    metric.update(preds, target)
    expected.update(*batch(task))
    with torch.no_grad():
        preds.zero_()
    target.zero_()
    assert_same(metric, expected)
    for part in metric.state_dict().values():
        for tensor in part if isinstance(part, list) else [part]:
            assert not isinstance(tensor, Tensor) or not tensor.requires_grad


@needs_native
@each_kind
@pytest.mark.parametrize(
    ("classes", "dtype"),
    [(2, torch.float32), (5, torch.float64), (300, torch.bfloat16), (3, torch.float16)],
)
def test_kernels_and_torch_agree(
    kind: Any, task: str, options: dict[str, Any], classes: int, dtype: torch.dtype
) -> None:
    ours, theirs = kind(task, **options), kind(task, **options)
    for seed, rows in enumerate((1, 64, 700)):
        preds, target = batch(task, seed, rows, classes)
        generator = torch.Generator().manual_seed(seed)
        target = target[torch.randperm(rows, generator=generator)]
        # Some scores that are thresholds, and the ends of the range.
        preds = (preds * 40).round() / 40 if classes == 2 else preds
        ours.update(preds.to(dtype), target)
        with torch_backend():
            theirs.update(preds.to(dtype), target)
    # Likelihoods of logits are float32, but for those of float64.
    tolerance = 1e-6 if "logits" in options and dtype != torch.float64 else 1e-11
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        expected = values(ours)
        with torch_backend():
            assert values(theirs) == pytest.approx(expected, rel=tolerance, abs=1e-12, nan_ok=True)


@each_kind
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.usefixtures("lenient")
def test_an_update_on_another_device_waits_for_nothing(
    kind: Any, task: str, options: dict[str, Any], is_weighted: bool
) -> None:
    # A tensor of this device has no values: it raises where they are asked for.
    preds, target = (x.to("meta") for x in batch(task))
    weight = torch.ones(23, device="meta") if is_weighted else None
    metric = kind(task, **options, ignore_index=3)
    for _ in range(2):
        metric.update(preds, target, weight)
    kept = [x for part in metric._state.values() for x in (part if type(part) is list else [part])]
    assert {x.device.type for x in kept if isinstance(x, Tensor)} == {"meta"}


class Elsewhere(Tensor):
    """A tensor whose memory is nobody's business."""

    def data_ptr(self) -> int:
        raise RuntimeError("no memory here")


@each_kind
@pytest.mark.usefixtures("lenient")
def test_other_tensors_go_by_torch(kind: Any, task: str, options: dict[str, Any]) -> None:
    metric, expected = kind(task, **options), kind(task, **options)
    preds, target = batch(task)
    preds = preds.double()
    metric.update(preds.as_subclass(Elsewhere), target.as_subclass(Elsewhere))
    expected.update(preds, target)
    with torch_backend():
        assert_same(metric, expected)


@pytest.mark.parametrize("kind", [*CURVES, *MEANS])
def test_options_are_checked(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"task must be one of 'binary', 'multiclass'.*, got 'x"):
        kind("x")
    with pytest.raises(ValueError, match="num_classes must be a positive int, or None, got 0"):
        kind(num_classes=0)
    with pytest.raises(
        ValueError, match="num_classes is for task='multiclass', got 3 with task='b"
    ):
        kind("binary", num_classes=3)
    with pytest.raises(ValueError, match="ignore_index must be an int or None, got 'no'"):
        kind(ignore_index="no")
    metric = kind(num_classes=3)
    with pytest.raises(ValueError, match=r"the shapes \(N, 3, ...\) and \(N, ...\)"):
        metric.update(*batch("multiclass"))
    if kind in CURVES:
        with pytest.raises(ValueError, match="num_labels is for task='multilabel', got 3"):
            kind(num_labels=3)
    else:
        with pytest.raises(ValueError, match="task must be one of 'binary', 'multiclass', got"):
            kind("multilabel")


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize(
    "thresholds", [1, 0, True, 65537, [], [0.5, 0.25], [0.1, math.nan], [[0.1]], torch.rand(2, 2)]
)
def test_thresholds_are_checked(kind: Any, thresholds: Any) -> None:
    with pytest.raises(ValueError, match="thresholds must be"):
        kind("binary", thresholds=thresholds)


def test_thresholds_of_a_list_are_rounded_to_float32() -> None:
    # As scores are, most of which are float32: 0.7 is at the threshold 0.7.
    metric = ROC("binary", thresholds=[0.7])
    metric.update(torch.tensor([0.7, 0.1]), torch.tensor([1, 0]))
    assert metric.compute().tpr.tolist() == [1.0]
    assert metric.thresholds == [pytest.approx(0.7, abs=1e-7)]
    wide = ROC("binary", thresholds=torch.tensor([0.7], dtype=torch.float64))
    wide.update(torch.tensor([0.7, 0.1]), torch.tensor([1, 0]))
    assert wide.compute().tpr.tolist() == [0.0]


@pytest.mark.parametrize("options", [{}, {"thresholds": 11}])
def test_numbers_of_classes_do_not_mix(options: dict[str, Any]) -> None:
    metric = AUROC(**options)
    metric.update(*batch("multiclass"))
    other = AUROC(**options)
    other.update(*batch("multiclass", classes=5))
    value = metric.compute()
    with pytest.raises(ValueError, match="preds must have 4 classes, as in the first batch, got 5"):
        metric.update(*batch("multiclass", classes=5))
    with pytest.raises(ValueError, match="of as many classes can be merged: 4 and 5 do not fit"):
        metric.merge(other)
    with pytest.raises(ValueError, match="must have 4 classes, got 5"):
        AUROC(num_classes=4, **options).load_state_dict(other.state_dict())
    assert metric.compute() == value
    metric.reset()
    metric.update(*batch("multiclass", classes=5))
    assert metric.compute() == other.compute()


def test_states_that_kernels_must_not_see_are_refused() -> None:
    binned = AUROC(thresholds=11)
    binned.update(*batch("multiclass"))
    state = binned.state_dict()
    for other in (AUROC(thresholds=12), AUROC(thresholds=11, num_classes=3)):
        with pytest.raises(ValueError, match=r"must have 3 classes|must be int64 or float64 of s"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="must be int64 or float64 of shape"):
        binned.load_state_dict({**state, "counts": state["counts"].int()})
    binned.load_state_dict({**state, "counts": state["counts"].mT.contiguous().mT})
    assert binned._state["counts"].is_contiguous()
    exact = AUROC()
    exact.update(*batch("multiclass"))
    state = exact.state_dict()
    for name, bad in (("target", [state["target"][0][:3]]), ("preds", [state["preds"][0][:, :2]])):
        spoiled = {**state, name: bad if name == "target" else [*state["preds"], *bad]}
        if name == "preds":
            spoiled["target"] = state["target"] * 2
        with pytest.raises(ValueError, match="has scores and labels that do not fit"):
            exact.load_state_dict(spoiled)
    with pytest.raises(ValueError, match="must have the keys"):
        exact.load_state_dict(binned.state_dict())
    error = CalibrationError(n_bins=4)
    with pytest.raises(ValueError, match=r"counts of .* must have shape \(2, 5\), got \(2, 6\)"):
        error.load_state_dict(CalibrationError(n_bins=5).state_dict())


@pytest.mark.parametrize("thresholds", [None, 11])
def test_weights_may_come_and_go(thresholds: int | None) -> None:
    # With a weight of 2 a row counts as two.
    twice = torch.full((23,), 2.0)
    first, second, expected = (AUROC(thresholds=thresholds) for _ in range(3))
    for metric, weight in ((first, None), (first, twice), (first, None), (second, None)):
        metric.update(*batch("multiclass", 1 if weight is None else 2), weight)
    for merged in (copy.deepcopy(first), second):
        merged.merge(second if merged is not second else first)
    for seed in (1, 2, 2, 1):
        expected.update(*batch("multiclass", seed))
    assert_same(first, expected)


def test_an_error_of_another_device_is_raised_in_the_end() -> None:
    for kind in (LogLoss, BrierScore, CalibrationError):
        metric = kind()
        metric.update(*batch("multiclass"))
        state = metric.state_dict()
        metric.load_state_dict({**state, "invalid": 3})
        with pytest.raises(
            ValueError, match="3 values of preds, target or weight were not allowed"
        ):
            metric.compute()


def test_metrics_show_their_options() -> None:
    assert "task='binary'" in repr(AUROC("binary"))
    assert "thresholds=11" in repr(AUROC(thresholds=11))
    with pytest.raises(ValueError, match="only a metric like AUROC"):
        AUROC(thresholds=11).merge(AUROC(thresholds=12))
