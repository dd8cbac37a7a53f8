"""The area under the ROC curve."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import ClassVar

from torch import Tensor

from hotloop.argument import check_number
from hotloop.metrics.scores.curve import CurveMetric, Thresholds, averaged
from hotloop.metrics.scores.ranking import Column, RankedColumn
from hotloop.metrics.scores.score_metric import check_choice

__all__ = ["AUROC"]


class AUROC(CurveMetric):
    """The area under the receiver operating characteristic: in [0, 1], 0.5 for chance.

    It is the probability that a positive has a higher score than a negative, ties counting half
    (Hanley and McNeil, 1982, "The meaning and use of the area under a receiver operating
    characteristic curve"):

        AUROC = (pairs in order + pairs of equals / 2) / (positives negatives)

    Without thresholds the values are those of scikit-learn's `roc_auc_score`; pairs are counted
    exactly. With thresholds it is the area under the points at the thresholds by the
    trapezoidal rule, as in torchmetrics: there is no point at (0, 0) unless one of them is, so
    that area is missing where negatives reach the highest threshold.

    Where a class has no positives or no negatives, its value is NaN and `compute` warns, as
    scikit-learn does. That makes "macro" NaN; "weighted" leaves out classes without positives.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: How many classes; None takes it from the scores.
        num_labels: How many labels; None takes it from the scores.
        average: "macro" for the mean over classes, "weighted" for the mean weighted by their
            positives, "micro" for all scores as those of one class, or "none" for a tensor of
            one value for each class. The binary task has nothing to average.
        thresholds: None for exact values, an int from 2 to 65536, or thresholds in ascending
            order; see `CurveMetric`.
        max_fpr: The highest false positive rate of a partial area, in (0, 1], standardised to
            0.5 for chance (McClish, 1989, "Analyzing a portion of the ROC curve"); None for the
            whole area. Not for "multiclass".
        multi_class: "ovr" for one class against the rest, or "ovo" for the mean over all pairs of
            classes that are present (Hand and Till, 2001, "A simple generalisation of the area
            under the ROC curve for multiple class classification problems"), without thresholds
            or weights; "weighted" weights a pair by its samples there.
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
        max_fpr: float | None = None,
        multi_class: str = "ovr",
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        check_choice("average", average, ("macro", "weighted", "micro", "none"))
        check_choice("multi_class", multi_class, ("ovr", "ovo"))
        if max_fpr is not None:
            check_number("max_fpr", max_fpr, 0.0, 1.0)
            if max_fpr == 0 or (task == "multiclass" and max_fpr != 1):
                raise ValueError(
                    "max_fpr must be above 0, and None for task='multiclass', got "
                    f"{max_fpr!r} with task={task!r}"
                )
        if multi_class == "ovo" and (
            task != "multiclass" or thresholds is not None or average not in ("macro", "weighted")
        ):
            raise ValueError(
                "multi_class='ovo' is for task='multiclass' with thresholds=None and "
                f"average='macro' or 'weighted', got task={task!r}, thresholds={thresholds!r}, "
                f"average={average!r}"
            )
        self.average = average
        self.max_fpr = max_fpr
        self.multi_class = multi_class
        super().__init__(task, num_classes, num_labels, thresholds, ignore_index, logits)

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch; see `CurveMetric.update`.

        Args:
            preds: Scores, of the shape that the task asks for.
            target: Labels, of the shape that the task asks for.
            weight: A factor of at least 0 for each row; 1 by default.

        Raises:
            ValueError: If `CurveMetric.update` refuses the batch, or weights come with "ovo".
                Nothing is counted then.
        """
        if weight is not None and self.multi_class == "ovo":
            raise ValueError("weight must be None with multi_class='ovo'")
        super().update(preds, target, weight)

    def compute(self) -> float | Tensor:
        """Return the area, or with average="none" that of each class, float64, shape (C,).

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If data on another device than the CPU were not allowed.
        """
        if self.multi_class == "ovo":
            return self._one_against_one()
        if self.average == "micro" and self.task != "binary":
            return self._area(self._pooled_column())
        columns = self._column_list()
        if self.task == "binary":
            return self._area(columns[0])
        supports = [column.support() for column in columns]
        return averaged([self._area(column) for column in columns], supports, self.average)

    def _area(self, column: Column) -> float:
        area = column.area_under_roc(self.max_fpr)
        if math.isnan(area):
            _warn()
        return area

    def _one_against_one(self) -> float:
        self._check_counted()
        preds, target, _ = self._joined()
        present = sorted(set(target.tolist()) - {self.ignore_index})
        areas, samples = [], []
        for pair in itertools.combinations(present, 2):
            of_pair = (target == pair[0]) | (target == pair[1])
            labels = target[of_pair]
            columns = [RankedColumn(preds[of_pair, c], labels, c, None, None) for c in pair]
            areas.append(sum(column.area_under_roc() for column in columns) / 2)
            samples.append(len(labels))
        if not areas:
            _warn()
            return math.nan
        return float(averaged(areas, samples, self.average))


def _warn() -> None:
    warnings.warn(
        "AUROC is not defined, and NaN, where only one class is present in the target",
        stacklevel=4,
    )
