"""Where curves and areas of scores begin and end, and what `compute` warns of."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import backend
from hotloop.metrics import (
    AUROC,
    ROC,
    AveragePrecision,
    BrierScore,
    CalibrationError,
    LogLoss,
    PrecisionRecallCurve,
)
from tests.conftest import needs_native

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics_curves.json").read_text())
LISTED = [0.25, 0.5, 0.5, 0.75]

ONE_CLASS = "AUROC is not defined, and NaN, where only one class is present in the target"


def computed(metric: Any, preds: Any, target: Any) -> Any:
    metric.update(torch.as_tensor(preds), torch.as_tensor(target))
    return metric.compute()


@pytest.mark.parametrize("thresholds", [None, 11])
@pytest.mark.parametrize("label", [0, 1])
def test_one_label_has_no_area(thresholds: int | None, label: int) -> None:
    metric = AUROC("binary", thresholds=thresholds)
    with pytest.warns(UserWarning, match=ONE_CLASS):
        assert math.isnan(computed(metric, [0.25, 0.75], [label, label]))


@pytest.mark.parametrize("thresholds", [None, 11])
def test_a_class_that_is_absent_has_no_area(thresholds: int | None) -> None:
    preds = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    target = [0, 1, 0]
    values = {}
    for average in ("none", "macro", "weighted"):
        metric = AUROC(average=average, thresholds=thresholds)
        with pytest.warns(UserWarning, match=ONE_CLASS):
            values[average] = computed(metric, preds, target)
    assert values["none"].tolist() == pytest.approx([1.0, 1.0, math.nan], nan_ok=True)
    assert math.isnan(values["macro"])
    assert values["weighted"] == 1.0
    precisions = computed(AveragePrecision(average="none", thresholds=thresholds), preds, target)
    assert precisions.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("thresholds", [None, 3])
def test_curves_without_one_of_the_labels(thresholds: int | None) -> None:
    preds = [0.25, 0.75]
    with pytest.warns(UserWarning, match="without positives in the target"):
        curve = computed(ROC("binary", thresholds=thresholds), preds, [0, 0])
    assert curve.tpr.isnan().all()
    assert curve.fpr[-1] == 1
    with pytest.warns(UserWarning, match="without negatives in the target"):
        curve = computed(ROC("binary", thresholds=thresholds), preds, [1, 1])
    assert curve.fpr.isnan().all()
    assert curve.tpr[-1] == 1
    with pytest.warns(UserWarning, match="without positives in the target, recall is 1"):
        curve = computed(PrecisionRecallCurve("binary", thresholds=thresholds), preds, [0, 0])
    assert curve.recall[:-1].eq(1).all()
    assert (curve.precision[-1], curve.recall[-1]) == (1, 0)


def test_a_curve_is_that_of_its_definition() -> None:
    # The example of scikit-learn's documentation, reckoned by hand.
    preds, target = torch.tensor([0.1, 0.4, 0.35, 0.8], dtype=torch.float64), [0, 0, 1, 1]
    fpr, tpr, thresholds = computed(ROC("binary"), preds, target)
    assert fpr.tolist() == [0, 0, 0.5, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 0.5, 1, 1]
    assert thresholds.tolist() == [math.inf, 0.8, 0.4, 0.35, 0.1]
    precision, recall, thresholds = computed(PrecisionRecallCurve("binary"), preds, target)
    assert precision.tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1, 1])
    assert recall.tolist() == [1, 1, 0.5, 0.5, 0]
    assert thresholds.tolist() == [0.1, 0.35, 0.4, 0.8]
    assert computed(AUROC("binary"), preds, target) == 0.75


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_any_number_is_a_score(dtype: torch.dtype) -> None:
    tiny, huge = torch.finfo(dtype).smallest_normal / 2, torch.finfo(dtype).max
    ordered = [-math.inf, -huge, -1.0, -tiny, 0.0, tiny, 1.0, huge, math.inf]
    scores = torch.tensor(ordered, dtype=dtype)
    for split in range(1, len(ordered)):
        target = torch.arange(len(ordered)) >= split
        for order in (slice(None), torch.randperm(len(ordered))):
            assert computed(AUROC("binary"), scores[order], target[order]) == 1.0
            assert computed(AUROC("binary"), scores[order], ~target[order]) == 0.0
    curve = computed(ROC("binary", drop_intermediate=False), scores, [0, 1] * 4 + [0])
    assert curve.thresholds[1:].to(dtype).tolist() == scores.flip(0).tolist()
    # Zeros of both signs are one score.
    assert computed(AUROC("binary"), torch.tensor([0.0, -0.0], dtype=dtype), [0, 1]) == 0.5
    assert computed(AUROC("binary"), torch.tensor([0.0, -0.0], dtype=dtype), [1, 0]) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_last_bit_of_a_score_counts(dtype: torch.dtype) -> None:
    scores = 1 + torch.arange(64, dtype=dtype) * torch.finfo(dtype).eps
    scores = torch.cat((-scores.flip(0), scores))
    for split in (1, 63, 64, 65, 127):
        target = torch.arange(128) >= split
        order = torch.randperm(128)
        assert computed(AUROC("binary"), scores[order], target[order]) == 1.0


@pytest.mark.parametrize("wide", [False, True])
def test_thresholds_are_reached_by_themselves(wide: bool) -> None:
    for size in [*range(2, 300), 1000, 65536]:
        edges = torch.linspace(0, 1, size)
        below = torch.nextafter(edges[1:], edges.new_zeros(()))
        scores = torch.cat((edges, below)).to(torch.float64 if wide else torch.float32)
        if wide:
            scores[size:] = torch.nextafter(scores[1:size], scores.new_zeros(()))
        metric = ROC("binary", thresholds=size)
        metric.update(scores, torch.ones(len(scores), dtype=torch.int64))
        counts = metric.state_dict()["counts"][0, 1]
        assert counts.tolist() == [0, *[2] * (size - 1), 1]


def test_the_first_of_equal_classes_is_predicted() -> None:
    # In whatever part of a long row.
    for first, second in [(0, 1), (3, 300), (255, 256), (256, 512), (511, 599)]:
        preds = torch.zeros(1, 600)
        preds[0, [first, second]] = 0.5
        assert computed(CalibrationError(), preds, [first]) == 0.5
        wrong = CalibrationError(n_bins=1)
        assert computed(wrong, preds, [second]) == 0.5
        assert wrong.state_dict()["counts"].tolist() == [[1, 0], [0, 0]]


def test_binned_areas_begin_at_the_highest_threshold() -> None:
    # As in torchmetrics: negatives at 1 leave out a triangle, which the exact area has.
    preds, target = [1.0, 1.0, 0.5, 0.0], [1, 0, 1, 0]
    assert computed(AUROC("binary"), preds, target) == 0.625
    assert computed(AUROC("binary", thresholds=3), preds, target) == 0.5
    preds = [0.75, 0.75, 0.5, 0.0]
    assert computed(AUROC("binary", thresholds=5), preds, target) == 0.625


def test_partial_areas_at_thresholds() -> None:
    # The first point is right of the limit, or the last one left of it.
    preds, target = [1.0, 1.0, 0.5, 0.0], [1, 0, 1, 0]
    low = computed(AUROC("binary", thresholds=3, max_fpr=0.25), preds, target)
    exact = computed(AUROC("binary", max_fpr=0.25), preds, target)
    assert low == pytest.approx(exact, abs=1e-15)
    high = computed(AUROC("binary", thresholds=[0.75, 1.0], max_fpr=0.75), preds, target)
    assert math.isfinite(high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "mean"}, "average must be one of 'macro', 'weighted', 'micro', 'none', got"),
        ({"multi_class": "all"}, "multi_class must be one of 'ovr', 'ovo', got 'all'"),
        ({"max_fpr": 1.5}, "max_fpr must be a finite number in [0.0, 1.0], got 1.5"),
        ({"max_fpr": 0.5}, "max_fpr must be above 0, and None for task='multiclass', got 0.5"),
        ({"multi_class": "ovo", "thresholds": 5}, "multi_class='ovo' is for task='multiclass'"),
        ({"multi_class": "ovo", "average": "none"}, "multi_class='ovo' is for task='multiclass'"),
        ({"multi_class": "ovo", "task": "binary"}, "multi_class='ovo' is for task='multiclass'"),
        ({"max_fpr": 0.0, "task": "binary"}, "max_fpr must be above 0"),
    ],
)
def test_options_of_areas(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AUROC(**options)


def test_one_against_one_takes_no_weights() -> None:
    metric = AUROC(multi_class="ovo")
    with pytest.raises(ValueError, match="weight must be None with multi_class='ovo'"):
        metric.update(torch.rand(3, 3), torch.arange(3), torch.ones(3))


@pytest.mark.parametrize(
    ("dtype", "eps"),
    [
        (torch.float32, 2**-23),
        (torch.float64, 2**-52),
        (torch.bfloat16, 2**-23),
        (torch.float16, 2**-23),
    ],
)
def test_log_loss_is_clipped(dtype: torch.dtype, eps: float) -> None:
    preds = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=dtype)
    never = computed(LogLoss(), preds, [1, 1])
    assert never == pytest.approx(-math.log(eps), rel=1e-15)
    assert computed(LogLoss(), preds, [0, 0]) == pytest.approx(eps, rel=1e-6)
    assert computed(LogLoss("binary"), preds[:, 0], [0, 0]) == never
    # Logits are not.
    logits = torch.tensor([[200.0, 0.0]], dtype=dtype)
    assert computed(LogLoss(logits=True), logits, [1]) == pytest.approx(200)
    assert computed(LogLoss("binary", logits=True), logits[:, 0], [0]) == pytest.approx(200)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_bins_of_confidence(norm: str) -> None:
    # 1 has a bin of its own, and 0.5 is the lower edge of the second one.
    preds, target = [0.5, 0.75, 1.0, 1.0, 0.25], [1, 0, 1, 1, 0]
    gaps = torch.tensor([0.25, 0.125, 0.0])
    shares = torch.tensor([0.2, 0.4, 0.4])
    expected = {"l1": (gaps * shares).sum(), "l2": (gaps**2 * shares).sum() ** 0.5, "max": 0.25}
    metric = CalibrationError("binary", n_bins=2, norm=norm)
    assert computed(metric, preds, target) == pytest.approx(float(expected[norm]))


def golden(task: str) -> tuple[Tensor, Tensor]:
    scores = torch.tensor(GOLDEN[f"{task} scores"]["values"])
    target = torch.tensor(GOLDEN[f"{task} target"]["values"])
    return (scores if task == "binary" else scores.reshape(len(target), -1)), target


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if not name.endswith((" scores", " target"))]
)
def test_values_are_those_of_the_file(name: str) -> None:
    task, kind, *rest = name.split()
    options: dict[str, Any] = {}
    if kind == "CalibrationError":
        options = {"n_bins": 10, "norm": rest[0]}
    elif rest:
        options = {"thresholds": 11 if rest[0] == "uniform" else LISTED}
    kinds = {
        "AUROC": AUROC,
        "auroc": AUROC,
        "AveragePrecision": AveragePrecision,
        "average_precision": AveragePrecision,
        "LogLoss": LogLoss,
        "BrierScore": BrierScore,
        "CalibrationError": CalibrationError,
    }
    (expected,) = GOLDEN[name]["values"]
    # What was made in float32 is as good as that.
    tolerance = 1e-12 if kind in ("AUROC", "AveragePrecision", "BrierScore") else 1e-6
    value = computed(kinds[kind](task, **options), *golden(task))
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)


FUNCTIONS = [
    ("area_under_roc", 2),
    ("average_precision", 2),
    ("bin_scores", 13),
    ("check_scores", 10),
    ("count_at_thresholds", 5),
    ("count_confidences", 12),
    ("rank_scores", 11),
    ("sum_brier_scores", 8),
    ("sum_log_losses", 9),
]


@needs_native
@pytest.mark.parametrize(("name", "count"), FUNCTIONS)
def test_kernels_check_their_arguments(name: str, count: int) -> None:
    function = getattr(backend.current().kernels, name)
    for wrong in (count - 1, count + 1):
        with pytest.raises(TypeError, match=rf"{name}\(\) takes {count} arguments"):
            function(*([0] * wrong))
    with pytest.raises(TypeError, match="str"):
        function(*(["x"] * count))
    assert function.__doc__.endswith(".")
    assert function.__text_signature__.count(",") == count
