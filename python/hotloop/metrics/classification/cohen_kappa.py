"""The agreement of target and predictions beyond chance."""

from __future__ import annotations

import math

import numpy as np

from hotloop.errors import unknown_name
from hotloop.metrics.classification.class_counts import Counter, Counts
from hotloop.metrics.classification.class_metric import ClassMetric

__all__ = ["CohenKappa"]

_WEIGHTS = ("linear", "quadratic")


class CohenKappa(ClassMetric):
    """The agreement of target and predictions beyond chance: at most 1, and 0 for chance.

        1 - observed / expected disagreement

    The disagreement of class i with class j weighs 1, |i - j| ("linear") or (i - j)^2
    ("quadratic"); what is expected are the products of the frequencies in target and predictions
    (Cohen, 1960, "A coefficient of agreement for nominal scales"; weights: Cohen, 1968). It is
    NaN, as scikit-learn has it, if target and predictions are all of one and the same class.
    Weights are those of the class indices, as if all classes were passed to scikit-learn as
    `labels`.

    Args:
        task: "binary" or "multiclass"; see `ClassMetric`.
        num_classes: The number of classes, for "multiclass"; None to take it from the first scores.
        weights: None, "linear" or "quadratic".
        threshold: The probability from which on 1 is predicted, itself excluded; in [0, 1].
        logits: Whether scores of "binary" are logits, not probabilities.
        ignore_index: The target of samples that do not count; None if there is none.
    """

    tasks = ("binary", "multiclass")

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        weights: str | None = None,
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        if weights is not None and weights not in _WEIGHTS:
            raise ValueError(unknown_name("weights", weights, _WEIGHTS))
        super().__init__(
            task,
            num_classes,
            None,
            threshold=threshold,
            logits=logits,
            ignore_index=ignore_index,
            counter=Counter.CONFUSION if weights else Counter.CLASSES,
        )
        self.weights = weights

    def _value(self, counts: Counts) -> float:
        totals = counts.class_totals()
        if self.weights is None:
            observed = totals.samples - totals.correct.sum()
            expected = totals.samples - totals.actual @ totals.predicted / totals.samples
        else:
            classes = np.arange(len(totals.actual), dtype=np.float64)
            weights = np.abs(classes[:, None] - classes)
            if self.weights == "quadratic":
                weights = weights**2
            observed = (weights * counts.confusion().numpy()).sum()
            expected = totals.actual @ weights @ totals.predicted / totals.samples
        return float(1 - observed / expected) if expected else math.nan
