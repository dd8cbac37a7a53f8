"""Precision, recall, and what is made of them."""

from __future__ import annotations

from hotloop.argument import check_number
from hotloop.metrics.classification.class_counts import Array, Totals
from hotloop.metrics.classification.class_metric import ClassRatio

__all__ = ["F1", "FBeta", "Precision", "Recall", "Specificity"]


class Precision(ClassRatio):
    """How many of those predicted as a class are of it, in [0, 1].

        TP / (TP + FP)

    The options are those of `ClassRatio`. A class that is never predicted has 0 / 0.
    """

    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        return totals.correct, totals.predicted


class Recall(ClassRatio):
    """How many of a class are predicted as it, in [0, 1].

        TP / (TP + FN)

    The options are those of `ClassRatio`. A class that is not in the target has 0 / 0.
    """

    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        return totals.correct, totals.actual


class Specificity(ClassRatio):
    """How many of the other classes are not predicted as a class, in [0, 1].

        TN / (TN + FP)

    It is the recall of 0 for "binary". The options are those of `ClassRatio`; "micro" is over all
    C classes, as in torchmetrics, whether they occur or not. A class of all samples has 0 / 0.
    """

    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        others = totals.samples - totals.actual
        return others - totals.predicted + totals.correct, others


class FBeta(ClassRatio):
    """The weighted harmonic mean of precision and recall, in [0, 1].

        (1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)

    Recall has beta^2 times the weight of precision (van Rijsbergen, 1979, "Information
    Retrieval"); 0 / 0 if a class occurs nowhere.

    Args:
        task: "binary", "multiclass" or "multilabel".
        beta: The weight of recall, at least 0: 0 gives the precision.
        num_classes: As for `ClassRatio`, and so are all others.
        num_labels: As for `ClassRatio`.
        average: As for `ClassRatio`.
        threshold: As for `ClassRatio`.
        logits: As for `ClassRatio`.
        ignore_index: As for `ClassRatio`.
        zero_division: As for `ClassRatio`.
    """

    def __init__(
        self,
        task: str = "multiclass",
        beta: float = 1.0,
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        average: str | None = "macro",
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
        zero_division: float = 0.0,
    ) -> None:
        check_number("beta", beta, 0)
        super().__init__(
            task,
            num_classes=num_classes,
            num_labels=num_labels,
            average=average,
            threshold=threshold,
            logits=logits,
            ignore_index=ignore_index,
            zero_division=zero_division,
        )
        self.beta = beta

    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        square = self.beta**2
        return (1 + square) * totals.correct, square * totals.actual + totals.predicted


class F1(ClassRatio):
    """The harmonic mean of precision and recall, in [0, 1].

        2 TP / (2 TP + FN + FP)

    The options are those of `ClassRatio`. A class that occurs nowhere has 0 / 0.
    """

    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        return 2 * totals.correct, totals.actual + totals.predicted
