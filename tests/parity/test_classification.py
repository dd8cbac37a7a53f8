"""The metrics of classification against scikit-learn, and torchmetrics where it has more."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from torchmetrics import classification

from hotloop import EmptyMetricError, metrics
from hotloop.metrics import (
    F1,
    Accuracy,
    BalancedAccuracy,
    CohenKappa,
    ConfusionMatrix,
    FBeta,
    Jaccard,
    MatthewsCorrCoef,
    Metric,
    MetricCollection,
    Precision,
    Recall,
    Specificity,
    TopKAccuracy,
)
from hotloop.metrics.classification.class_metric import ClassMetric
from tests.golden import generate_metrics_counts

AVERAGES = ["micro", "macro", "weighted", "none"]
Make = Callable[..., Metric]
Peer = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # scikit-learn warns of what is degenerate, which is what these tests want.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def specificity(
    y_true: Any,
    y_pred: Any,
    average: Any,
    labels: Any = None,
    sample_weight: Any = None,
    zero_division: float = 0.0,
) -> Any:
    """Return what scikit-learn would, if it had it: the recall of what is not of a class."""
    if average == "binary":
        average, labels = "micro", [1]
    elif np.ndim(y_true) == 1 and labels is None:
        labels = np.union1d(y_true, y_pred)
    parts = sklearn.multilabel_confusion_matrix(
        y_true, y_pred, sample_weight=sample_weight, labels=labels
    ).astype(float)
    weights = parts[:, 1].sum(1)
    if average == "micro":
        parts = parts.sum(0, keepdims=True)
    negatives = parts[:, 0].sum(1)
    # Differences of sums of weights, which leave a rounding.
    is_zero = negatives < 1e-9
    values = np.where(is_zero, zero_division, parts[:, 0, 0] / np.where(is_zero, 1, negatives))
    known = ~np.isnan(values)
    if average is None or not known.any():
        return values if average is None else math.nan
    if average == "weighted" and weights[known].any():
        return np.average(values[known], weights=weights[known])
    return np.mean(values[known])


RATIOS: dict[str, tuple[Make, Peer]] = {
    "precision": (Precision, sklearn.precision_score),
    "recall": (Recall, sklearn.recall_score),
    "f1": (F1, sklearn.f1_score),
    "fbeta": (partial(FBeta, beta=0.5), partial(sklearn.fbeta_score, beta=0.5)),
    "fbeta of 0": (partial(FBeta, beta=0), partial(sklearn.fbeta_score, beta=0)),
    "specificity": (Specificity, specificity),
    "jaccard": (Jaccard, sklearn.jaccard_score),
}


def matthews(y_true: Any, y_pred: Any, **options: Any) -> float:
    return float(sklearn.matthews_corrcoef(y_true, y_pred, **options))


#: Those of pairs of classes: `labels` are all classes where a peer takes them.
OTHERS: dict[str, tuple[Make, Peer, bool]] = {
    "accuracy": (Accuracy, sklearn.accuracy_score, False),
    "balanced": (BalancedAccuracy, sklearn.balanced_accuracy_score, False),
    "adjusted": (
        partial(BalancedAccuracy, adjusted=True),
        partial(sklearn.balanced_accuracy_score, adjusted=True),
        False,
    ),
    "matthews": (MatthewsCorrCoef, matthews, False),
    "kappa": (CohenKappa, sklearn.cohen_kappa_score, True),
    "linear kappa": (
        partial(CohenKappa, weights="linear"),
        partial(sklearn.cohen_kappa_score, weights="linear"),
        True,
    ),
    "quadratic kappa": (
        partial(CohenKappa, weights="quadratic"),
        partial(sklearn.cohen_kappa_score, weights="quadratic"),
        True,
    ),
    "confusion": (ConfusionMatrix, sklearn.confusion_matrix, True),
    "confusion true": (
        partial(ConfusionMatrix, normalize="true"),
        partial(sklearn.confusion_matrix, normalize="true"),
        True,
    ),
    "confusion pred": (
        partial(ConfusionMatrix, normalize="pred"),
        partial(sklearn.confusion_matrix, normalize="pred"),
        True,
    ),
    "confusion all": (
        partial(ConfusionMatrix, normalize="all"),
        partial(sklearn.confusion_matrix, normalize="all"),
        True,
    ),
}


@st.composite
def batches(draw: st.DrawFn, least: int = 2, most: int = 8) -> dict[str, Any]:
    """Draw labels of some classes, with weights or without, and where to split them."""
    count, classes = draw(st.integers(1, 67)), draw(st.integers(least, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    # Often only some of the classes, as degenerate as one.
    present = [draw(st.integers(1, classes)) for _ in range(2)]
    target, preds = (
        torch.randperm(classes, generator=generator)[
            torch.randint(0, n, (count,), generator=generator)
        ]
        for n in present
    )
    ignored = draw(st.sampled_from([None, None, -1, 0]))
    if ignored == -1:
        target[torch.rand(count, generator=generator) < 0.3] = -1
    weight = None
    if draw(st.booleans()):
        weight = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    cuts = draw(st.lists(st.integers(0, count), max_size=3))
    return {
        "classes": classes,
        "target": target,
        "preds": preds,
        "weight": weight,
        "ignored": ignored,
        "bounds": sorted({0, count, *cuts}),
        "seed": draw(st.integers(0, 99)),
    }


def counted(make: Callable[[], Metric], batch: dict[str, Any]) -> Metric:
    """Return a metric that has counted a batch in parts, which were merged in any order."""
    bounds = batch["bounds"]
    parts = []
    for start, end in itertools.pairwise(bounds):
        metric = make()
        middle = (start + end) // 2
        for part in (slice(start, middle), slice(middle, end)):
            weight = None if batch["weight"] is None else batch["weight"][part]
            metric.update(batch["preds"][part], batch["target"][part], weight)
        parts.append(metric)
    while len(parts) > 1:
        other = parts.pop(batch["seed"] % len(parts))
        parts[batch["seed"] % len(parts)].merge(other)
    return parts[0]


def known(batch: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return target, predictions and options for scikit-learn, without what is ignored."""
    keep = torch.ones(len(batch["target"]), dtype=torch.bool)
    if batch["ignored"] is not None:
        keep = batch["target"] != batch["ignored"]
    weight = batch["weight"]
    options = {} if weight is None else {"sample_weight": weight[keep].numpy()}
    return batch["target"][keep].numpy(), batch["preds"][keep].numpy(), options


def named(average: str) -> str | None:
    return None if average == "none" else average


def assert_equal(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RATIOS)
@given(
    batch=batches(),
    average=st.sampled_from(AVERAGES),
    zero_division=st.sampled_from([0.0, 1.0, math.nan]),
)
def test_ratios_of_classes(
    name: str, batch: dict[str, Any], average: str, zero_division: float
) -> None:
    make, peer = RATIOS[name]
    if name == "jaccard" and math.isnan(zero_division):
        # scikit-learn's has none.
        zero_division = 1.0
    metric = counted(
        partial(
            make,
            num_classes=batch["classes"],
            average=average,
            ignore_index=batch["ignored"],
            zero_division=zero_division,
        ),
        batch,
    )
    target, preds, options = known(batch)
    if not len(target):
        with pytest.raises(EmptyMetricError):
            metric.compute()
        return
    if average == "none" or (name, average) == ("specificity", "micro"):
        options["labels"] = list(range(batch["classes"]))
    theirs = peer(target, preds, average=named(average), zero_division=zero_division, **options)
    assert_equal(metric.compute(), theirs)


@pytest.mark.parametrize("name", OTHERS)
@given(batch=batches())
def test_values_of_classes(name: str, batch: dict[str, Any]) -> None:
    make, peer, takes_labels = OTHERS[name]
    metric = counted(
        partial(make, num_classes=batch["classes"], ignore_index=batch["ignored"]), batch
    )
    target, preds, options = known(batch)
    if not len(target):
        with pytest.raises(EmptyMetricError):
            metric.compute()
        return
    if takes_labels:
        options["labels"] = list(range(batch["classes"]))
    assert_equal(metric.compute(), peer(target, preds, **options))


@given(batch=batches(), average=st.sampled_from(AVERAGES))
def test_accuracy_of_classes_is_recall(batch: dict[str, Any], average: str) -> None:
    metric = counted(
        partial(
            Accuracy,
            num_classes=batch["classes"],
            average=average,
            ignore_index=batch["ignored"],
        ),
        batch,
    )
    target, preds, options = known(batch)
    if not len(target):
        return
    if average == "none":
        options["labels"] = list(range(batch["classes"]))
    theirs = sklearn.recall_score(
        target, preds, average=named(average), zero_division=0.0, **options
    )
    assert_equal(metric.compute(), theirs)


@given(
    batch=batches(3), top_k=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float64])
)
def test_top_k(batch: dict[str, Any], top_k: int, dtype: torch.dtype) -> None:
    # Without ties, of which scikit-learn takes the last.
    generator = torch.Generator().manual_seed(batch["seed"])
    scores = torch.rand(len(batch["target"]), batch["classes"], generator=generator, dtype=dtype)
    ours = counted(
        partial(TopKAccuracy, top_k, ignore_index=batch["ignored"]), {**batch, "preds": scores}
    )
    same = counted(
        partial(Accuracy, top_k=top_k, ignore_index=batch["ignored"]), {**batch, "preds": scores}
    )
    target, scores, options = known({**batch, "preds": scores})
    if not len(target):
        return
    theirs = sklearn.top_k_accuracy_score(
        target, scores, k=top_k, labels=list(range(batch["classes"])), **options
    )
    assert_equal(ours.compute(), theirs)
    assert ours.compute() == same.compute()


@pytest.mark.parametrize("average", ["macro", "weighted", "none"])
@given(batch=batches(3), top_k=st.integers(2, 3))
def test_top_k_of_classes(average: str, batch: dict[str, Any], top_k: int) -> None:
    generator = torch.Generator().manual_seed(batch["seed"])
    scores = torch.rand(len(batch["target"]), batch["classes"], generator=generator)
    options = {"average": average, "top_k": top_k, "ignore_index": batch["ignored"]}
    theirs = classification.MulticlassAccuracy(batch["classes"], **options)
    if not len(known(batch)[0]):
        return
    theirs.update(scores, batch["target"])
    ours = counted(partial(Accuracy, **options), {**batch, "preds": scores, "weight": None})
    np.testing.assert_allclose(np.asarray(ours.compute()), theirs.compute().numpy(), rtol=1e-6)


BINARY: dict[str, tuple[Make, Peer]] = {
    name: (make, partial(peer, average="binary", zero_division=0.0))
    for name, (make, peer) in RATIOS.items()
} | {
    name: (make, partial(peer, labels=[0, 1]) if takes_labels else peer)
    for name, (make, peer, takes_labels) in OTHERS.items()
}


@pytest.mark.parametrize("name", BINARY)
@given(batch=batches(2, 2), kind=st.sampled_from(["labels", "probabilities", "logits"]))
def test_binary(name: str, batch: dict[str, Any], kind: str) -> None:
    make, peer = BINARY[name]
    target, preds, options = known(batch)
    given_preds = batch["preds"]
    if kind != "labels":
        generator = torch.Generator().manual_seed(batch["seed"])
        given_preds = torch.rand(len(given_preds), generator=generator) / 2 + given_preds / 2
        given_preds = given_preds.logit() if kind == "logits" else given_preds
    metric = counted(
        partial(make, task="binary", ignore_index=batch["ignored"], logits=kind == "logits"),
        {**batch, "preds": given_preds},
    )
    if not len(target):
        return
    assert_equal(metric.compute(), peer(target, preds, **options))


@st.composite
def label_batches(draw: st.DrawFn) -> dict[str, Any]:
    count, labels = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    rates = torch.tensor(
        draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=labels, max_size=labels))
    )
    target, preds = (
        (torch.rand(count, labels, generator=generator) < each).long()
        for each in (rates, rates.flip(0))
    )
    weight = None
    if draw(st.booleans()):
        weight = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    cuts = draw(st.lists(st.integers(0, count), max_size=3))
    return {
        "labels": labels,
        "target": target,
        "preds": preds,
        "weight": weight,
        "ignored": None,
        "bounds": sorted({0, count, *cuts}),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.parametrize("name", RATIOS)
@given(
    batch=label_batches(),
    average=st.sampled_from(AVERAGES),
    zero_division=st.sampled_from([0.0, 1.0]),
)
def test_ratios_of_labels(
    name: str, batch: dict[str, Any], average: str, zero_division: float
) -> None:
    make, peer = RATIOS[name]
    metric = counted(
        partial(make, task="multilabel", average=average, zero_division=zero_division), batch
    )
    weight = batch["weight"]
    if name == "specificity" and average == "weighted" and not batch["target"].any():
        return
    theirs = peer(
        batch["target"].numpy(),
        batch["preds"].numpy(),
        average=named(average),
        zero_division=zero_division,
        **({} if weight is None else {"sample_weight": weight.numpy()}),
    )
    assert_equal(metric.compute(), theirs)


PEERS: dict[str, tuple[Make, Peer]] = {
    "accuracy": (Accuracy, classification.MultilabelAccuracy),
    "precision": (Precision, classification.MultilabelPrecision),
    "recall": (Recall, classification.MultilabelRecall),
    "f1": (F1, classification.MultilabelF1Score),
    "specificity": (Specificity, classification.MultilabelSpecificity),
    "jaccard": (Jaccard, classification.MultilabelJaccardIndex),
}


@pytest.mark.parametrize("name", PEERS)
@given(batch=label_batches(), average=st.sampled_from(AVERAGES), ignored=st.booleans())
def test_labels_against_torchmetrics(
    name: str, batch: dict[str, Any], average: str, ignored: bool
) -> None:
    make, peer = PEERS[name]
    if name == "specificity" and average == "weighted":
        return
    if ignored:
        generator = torch.Generator().manual_seed(batch["seed"])
        batch["target"][torch.rand(batch["target"].shape, generator=generator) < 0.2] = -1
        batch["ignored"] = -1
    if not (batch["target"] >= 0).any() or (
        average == "weighted" and not (batch["target"] > 0).any()
    ):
        return
    metric = counted(
        partial(make, task="multilabel", average=average, ignore_index=batch["ignored"]),
        {**batch, "weight": None},
    )
    theirs = peer(batch["labels"], average=average, ignore_index=batch["ignored"])
    theirs.update(batch["preds"], batch["target"])
    np.testing.assert_allclose(
        np.asarray(metric.compute()), theirs.compute().numpy(), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
@given(batch=label_batches())
def test_confusion_matrices_of_labels(normalize: str | None, batch: dict[str, Any]) -> None:
    metric = counted(partial(ConfusionMatrix, task="multilabel", normalize=normalize), batch)
    if normalize is None:
        weight = batch["weight"]
        theirs = sklearn.multilabel_confusion_matrix(
            batch["target"].numpy(),
            batch["preds"].numpy(),
            sample_weight=None if weight is None else weight.numpy(),
        )
        assert_equal(metric.compute(), theirs)
        return
    batch["weight"] = None
    metric = counted(partial(ConfusionMatrix, task="multilabel", normalize=normalize), batch)
    peer = classification.MultilabelConfusionMatrix(batch["labels"], normalize=normalize)
    peer.update(batch["preds"], batch["target"])
    np.testing.assert_allclose(metric.compute().numpy(), peer.compute().numpy(), rtol=1e-6)


@given(batch=label_batches())
def test_matthews_of_labels_counts_them_as_one(batch: dict[str, Any]) -> None:
    metric = counted(partial(MatthewsCorrCoef, task="multilabel"), {**batch, "weight": None})
    theirs = sklearn.matthews_corrcoef(batch["target"].flatten(), batch["preds"].flatten())
    assert_equal(metric.compute(), theirs)


CLASSES = {
    "accuracy": (Accuracy(average="macro"), classification.MulticlassAccuracy),
    "precision": (Precision(), classification.MulticlassPrecision),
    "recall": (Recall(), classification.MulticlassRecall),
    "f1": (F1(), classification.MulticlassF1Score),
    "specificity": (Specificity(), classification.MulticlassSpecificity),
    "jaccard": (Jaccard(), classification.MulticlassJaccardIndex),
    "matthews": (MatthewsCorrCoef(), classification.MulticlassMatthewsCorrCoef),
    "kappa": (
        CohenKappa(weights="quadratic"),
        partial(classification.MulticlassCohenKappa, weights="quadratic"),
    ),
    "confusion": (ConfusionMatrix(), classification.MulticlassConfusionMatrix),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(33, 7), (2000, 7), (5, 7, 3), (0, 7)])
def test_a_collection_of_all_on_scores(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    collection = MetricCollection({name: ours for name, (ours, _) in CLASSES.items()}).clone()
    peers = {name: peer(7) for name, (_, peer) in CLASSES.items()}
    for seed in range(3 if shape[0] else 0):
        generator = torch.Generator().manual_seed(seed)
        # Multiples that every dtype has, with ties.
        scores = (torch.randint(0, 16, shape, generator=generator) / 16).to(dtype)
        target = torch.randint(0, 7, (shape[0], *shape[2:]), generator=generator)
        collection.update(scores, target)
        labels = torch.from_numpy(scores.float().numpy().argmax(1))
        for peer in peers.values():
            peer.update(labels, target)
    if not shape[0]:
        with pytest.raises(EmptyMetricError):
            collection.compute()
        return
    values = collection.compute()
    for name, peer in peers.items():
        np.testing.assert_allclose(
            np.asarray(values[name]), peer.compute().numpy(), rtol=1e-5, err_msg=name
        )


def test_the_golden_file_is_scikit_learns() -> None:
    found = json.loads(generate_metrics_counts.GOLDEN.read_text())
    expected = generate_metrics_counts.generate()
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12), name


def test_all_metrics_of_classification_are_here() -> None:
    tested = {
        F1, Accuracy, BalancedAccuracy, CohenKappa, ConfusionMatrix, FBeta, Jaccard,
        MatthewsCorrCoef, Precision, Recall, Specificity, TopKAccuracy,
    }  # fmt: skip
    there = {
        each
        for each in vars(metrics).values()
        if isinstance(each, type) and issubclass(each, ClassMetric)
    }
    assert there == tested
