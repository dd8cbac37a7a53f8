"""The average precision of scores."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hotloop.metrics.scores.curve import CurveMetric, Thresholds, averaged
from hotloop.metrics.scores.score_metric import check_choice

__all__ = ["AveragePrecision"]


class AveragePrecision(CurveMetric):
    """The area under the precision-recall curve as a sum of steps: in [0, 1].

    With precision P and recall R at threshold n, from the highest threshold down:

        AP = sum_n (R_n - R_{n-1}) P_n

    Without thresholds the values are those of scikit-learn's `average_precision_score`, with
    thresholds those of torchmetrics. A class without positives has the value 0, as in
    scikit-learn, and counts in "macro" as such.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: How many classes; None takes it from the scores.
        num_labels: How many labels; None takes it from the scores.
        average: "macro" for the mean over classes, "weighted" for the mean weighted by their
            positives, "micro" for all scores as those of one class, or "none" for a tensor of
            one value for each class. The binary task has nothing to average.
        thresholds: None for exact values, an int from 2 to 65536, or thresholds in ascending
            order; see `CurveMetric`.
        ignore_index: The label of what is not counted; None counts all.
        logits: Whether to take the softmax of scores first ("multiclass"), or the sigmoid.

    Raises:
        ValueError: If an option is not allowed.
    """

    higher_is_better: ClassVar[bool | None] = True

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        average: str = "macro",
        thresholds: Thresholds = None,
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        check_choice("average", average, ("macro", "weighted", "micro", "none"))
        self.average = average
        super().__init__(task, num_classes, num_labels, thresholds, ignore_index, logits)

    def compute(self) -> float | Tensor:
        """Return the value, or with average="none" that of each class, float64, shape (C,).

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If data on another device than the CPU were not allowed.
        """
        if self.average == "micro" and self.task != "binary":
            return self._pooled_column().average_precision()
        columns = self._column_list()
        values = [column.average_precision() for column in columns]
        if self.task == "binary":
            return values[0]
        return averaged(values, [column.support() for column in columns], self.average)
