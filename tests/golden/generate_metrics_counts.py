"""Write the golden values of counters: `python tests/golden/generate_metrics_counts.py`.

The file holds labels, scores and what scikit-learn computes from them, one entry a line, in
float64. Nothing of hotloop is imported.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

GOLDEN = Path(__file__).with_name("metrics_counts.json")

CLASSES = 6
SAMPLES = 37
AVERAGES = ("micro", "macro", "weighted")
RATIOS = {
    "precision": metrics.precision_score,
    "recall": metrics.recall_score,
    "f1": metrics.f1_score,
    "fbeta": lambda *given, **options: metrics.fbeta_score(*given, beta=0.5, **options),
    "jaccard": metrics.jaccard_score,
}


def entries() -> Iterator[tuple[str, Any]]:
    """Yield names and arrays. Class 5 occurs nowhere, and class 4 only in predictions."""
    state = np.random.default_rng(7)
    target = state.integers(0, CLASSES - 2, SAMPLES)
    # Multiples of 1/8, so that there are ties, and never of class 5 the highest.
    scores = state.integers(0, 8, (SAMPLES, CLASSES)) / 8
    scores[:, 5] = -1
    preds = scores.argmax(1)
    assert (preds == 4).any()
    yield "target", target
    yield "scores", scores
    yield "preds", preds
    yield "confusion", metrics.confusion_matrix(target, preds, labels=range(CLASSES))
    for by in ("true", "pred", "all"):
        yield (
            f"confusion {by}",
            metrics.confusion_matrix(target, preds, labels=range(CLASSES), normalize=by),
        )
    for name, ratio in RATIOS.items():
        for average in AVERAGES:
            yield f"{name} {average}", ratio(target, preds, average=average, zero_division=0.0)
        yield (
            f"{name} none",
            ratio(target, preds, average=None, labels=range(CLASSES), zero_division=0.0),
        )
    parts = metrics.multilabel_confusion_matrix(target, preds, labels=range(CLASSES))
    yield "specificity none", parts[:, 0, 0] / parts[:, 0].sum(1)
    yield "accuracy", metrics.accuracy_score(target, preds)
    # The lower index first, so not scikit-learn's, which takes the higher.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    yield "top 3", (order == target[:, None]).any(1).mean()
    yield "balanced", metrics.balanced_accuracy_score(target, preds)
    yield "adjusted", metrics.balanced_accuracy_score(target, preds, adjusted=True)
    yield "matthews", metrics.matthews_corrcoef(target, preds)
    for weights in (None, "linear", "quadratic"):
        yield (
            f"kappa {weights or 'none'}",
            metrics.cohen_kappa_score(target, preds, labels=range(CLASSES), weights=weights),
        )
    sample_weight = state.integers(1, 9, SAMPLES) / 4
    yield "weights", sample_weight
    yield (
        "weighted f1",
        metrics.f1_score(target, preds, average="macro", sample_weight=sample_weight),
    )
    labels = state.integers(0, 2, (SAMPLES, 3))
    chances = state.integers(0, 9, (SAMPLES, 3)) / 8
    yield "labels", labels
    yield "chances", chances
    yield "label confusion", metrics.multilabel_confusion_matrix(labels, chances > 0.5)
    yield "label f1", metrics.f1_score(labels, chances > 0.5, average=None)
    yield "label confusion at 0.7", metrics.multilabel_confusion_matrix(labels, chances > 0.7)


def generate() -> dict[str, list[float]]:
    """Return all entries as flat lists."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: np.ravel(value).astype(float).tolist() for name, value in entries()}


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in generate().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
