"""The correlation of target and predictions."""

from __future__ import annotations

from hotloop.metrics.classification.class_counts import Counts
from hotloop.metrics.classification.class_metric import ClassMetric

__all__ = ["MatthewsCorrCoef"]


class MatthewsCorrCoef(ClassMetric):
    """The correlation of target and predictions as vectors of classes, in [-1, 1].

        (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2))

    with c correct of s samples, t_k of class k and p_k predicted as it (Gorodkin, 2004, "Comparing
    two K-category assignments by a K-category correlation coefficient"), for two classes that of
    Matthews (1975). It is 0 if the target or the predictions are all of one class. The labels of
    "multilabel" are counted as one label.

    Args:
        task: "binary", "multiclass" or "multilabel"; see `ClassMetric`.
        num_classes: The number of classes, for "multiclass"; None to take it from the first scores.
        num_labels: The number of labels, for "multilabel"; None to take it from the first batch.
        threshold: The probability from which on 1 is predicted, itself excluded; in [0, 1].
        logits: Whether scores of "binary" and "multilabel" are logits, not probabilities.
        ignore_index: The target of samples, or labels, that do not count; None if there is none.
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            task,
            num_classes,
            num_labels,
            threshold=threshold,
            logits=logits,
            ignore_index=ignore_index,
        )

    def _value(self, counts: Counts) -> float:
        totals = counts.class_totals()
        correct, samples = totals.correct.sum(), totals.samples
        together = correct * samples - totals.actual @ totals.predicted
        of_preds = samples**2 - totals.predicted @ totals.predicted
        of_target = samples**2 - totals.actual @ totals.actual
        square = float(of_preds * of_target)
        return float(together) / square**0.5 if square else 0.0
