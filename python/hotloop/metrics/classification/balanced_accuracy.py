"""Accuracy that does not depend on how often classes occur."""

from __future__ import annotations

import math

from hotloop.metrics.classification.class_counts import Counts
from hotloop.metrics.classification.class_metric import ClassMetric

__all__ = ["BalancedAccuracy"]


class BalancedAccuracy(ClassMetric):
    """The mean recall of the classes that occur in the target, in [0, 1].

        mean of TP / (TP + FN)

    Adjusted, it is (value - 1 / n) / (1 - 1 / n) for n such classes: 0 for guesses and 1 at best;
    of one class, as scikit-learn has it, NaN if all are right, else -infinity (Brodersen et al.,
    2010, "The balanced accuracy and its posterior distribution").

    Args:
        task: "binary" or "multiclass"; see `ClassMetric`.
        num_classes: The number of classes, for "multiclass"; None to take it from the first scores.
        adjusted: Whether guesses have the value 0.
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
        adjusted: bool = False,
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            task, num_classes, None, threshold=threshold, logits=logits, ignore_index=ignore_index
        )
        self.adjusted = adjusted

    def _value(self, counts: Counts) -> float:
        totals = counts.class_totals()
        occurs = totals.actual > 0
        value = float((totals.correct[occurs] / totals.actual[occurs]).mean())
        if not self.adjusted:
            return value
        chance = 1 / int(occurs.sum())
        if chance == 1:
            return math.nan if value == 1 else -math.inf
        return (value - chance) / (1 - chance)
