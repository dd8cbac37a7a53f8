"""The overlap of target and predictions."""

from __future__ import annotations

from hotloop.metrics.classification.class_counts import Array, Totals
from hotloop.metrics.classification.class_metric import ClassRatio

__all__ = ["Jaccard"]


class Jaccard(ClassRatio):
    """The intersection over union of a class in target and predictions, in [0, 1].

        TP / (TP + FP + FN)

    The options are those of `ClassRatio`. A class that occurs nowhere has 0 / 0.
    """

    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        return totals.correct, totals.actual + totals.predicted - totals.correct
