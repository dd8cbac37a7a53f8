"""The precision-recall curve."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hotloop.metrics.plot import plot_precision_recall
from hotloop.metrics.scores.curve import CurveMetric, Thresholds
from hotloop.metrics.scores.ranking import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PRCurve", "PrecisionRecallCurve"]


class PRCurve(NamedTuple):
    """The points of a precision-recall curve, from the lowest threshold up, float64.

    Attributes:
        precision: The precision at each threshold, and 1 at the end; shape (P + 1,), (C, T + 1),
            or a list for classes.
        recall: The recall at each threshold, descending, and 0 at the end; likewise.
        thresholds: The thresholds, ascending; shape (P,), (T,), or a list for classes.
    """

    precision: Tensor | list[Tensor]
    recall: Tensor | list[Tensor]
    thresholds: Tensor | list[Tensor]


class PrecisionRecallCurve(CurveMetric):
    """Precision by recall at each threshold, both in [0, 1].

        precision = TP / (TP + FP),  recall = TP / (TP + FN)

    Without thresholds the points are those of scikit-learn's `precision_recall_curve`; with
    thresholds there is a point for each of them, as in torchmetrics, whose precision is NaN
    where no score reaches the threshold. A last point of precision 1 and recall 0 has no
    threshold. Without positives the recall is 1 at each threshold and `compute` warns, as
    scikit-learn does.

    Args:
        task: "binary", "multiclass" (a curve for each class against the rest) or "multilabel".
        num_classes: How many classes; None takes it from the scores.
        num_labels: How many labels; None takes it from the scores.
        thresholds: None for exact values, an int from 2 to 65536, or thresholds in ascending
            order; see `CurveMetric`.
        drop_intermediate: Whether to leave out thresholds between those with the same recall;
            only without thresholds.
        ignore_index: The label of what is not counted; None counts all.
        logits: Whether to take the softmax of scores first ("multiclass"), or the sigmoid.

    Raises:
        ValueError: If an option is not allowed.
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        thresholds: Thresholds = None,
        drop_intermediate: bool = False,
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        self.drop_intermediate = drop_intermediate
        super().__init__(task, num_classes, num_labels, thresholds, ignore_index, logits)

    def compute(self) -> PRCurve:
        """Return the curve, or those of all classes.

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If data on another device than the CPU were not allowed.
        """
        curves = [self._curve(column) for column in self._column_list()]
        if self.task == "binary":
            return curves[0]
        precision, recall, thresholds = (list(parts) for parts in zip(*curves))
        if self._size:
            return PRCurve(torch.stack(precision), torch.stack(recall), thresholds[0])
        return PRCurve(precision, recall, thresholds)

    def plot(self, labels: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the curve of each class with matplotlib.

        Args:
            labels: The names of the classes; "class 0" and so on by default.
            ax: Where to draw; a new figure by default.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
            EmptyMetricError: If nothing was counted.
            ValueError: If there are not as many labels as classes.
        """
        return plot_precision_recall(*self.compute()[:2], labels, ax)

    def _curve(self, column: Column) -> PRCurve:
        thresholds, tps, fps, positives, _ = column.points()
        if self.drop_intermediate and column.has_origin and len(tps) > 2:
            is_end = torch.ones_like(tps, dtype=torch.bool)
            changes = tps.diff() != 0
            is_end[1:-1] = changes[:-1] | changes[1:]
            thresholds, tps, fps = (x[is_end] for x in (thresholds, tps, fps))
        precision = tps / (tps + fps)
        if positives:
            recall = tps / positives
        else:
            warnings.warn("without positives in the target, recall is 1", stacklevel=3)
            recall = torch.ones_like(tps)
        return PRCurve(
            torch.cat((precision.flip(0), precision.new_ones(1))),
            torch.cat((recall.flip(0), recall.new_zeros(1))),
            thresholds.flip(0).double(),
        )
