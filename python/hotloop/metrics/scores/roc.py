"""The ROC curve."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hotloop.metrics.plot import plot_roc
from hotloop.metrics.scores.curve import CurveMetric, Thresholds
from hotloop.metrics.scores.ranking import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ROC", "ROCCurve"]


class ROCCurve(NamedTuple):
    """The points of an ROC curve, from the highest threshold down, float64.

    Attributes:
        fpr: The false positive rates, ascending; shape (P,), (C, T), or a list for classes.
        tpr: The true positive rates, ascending, likewise.
        thresholds: The thresholds, descending; shape (P,), (T,), or a list for classes.
    """

    fpr: Tensor | list[Tensor]
    tpr: Tensor | list[Tensor]
    thresholds: Tensor | list[Tensor]


class ROC(CurveMetric):
    """The receiver operating characteristic: rates at each threshold, in [0, 1].

        TPR = TP / (TP + FN),  FPR = FP / (FP + TN)

    Without thresholds the points are those of scikit-learn's `roc_curve`, the first one at
    (0, 0) with the threshold inf; with thresholds there is a point for each of them, as in
    torchmetrics. Without negatives the false positive rate is NaN, and without positives the true
    positive rate, and `compute` warns, as scikit-learn does.

    Args:
        task: "binary", "multiclass" (a curve for each class against the rest) or "multilabel".
        num_classes: How many classes; None takes it from the scores.
        num_labels: How many labels; None takes it from the scores.
        thresholds: None for exact values, an int from 2 to 65536, or thresholds in ascending
            order; see `CurveMetric`.
        drop_intermediate: Whether to leave out points on the line between their neighbours;
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
        drop_intermediate: bool = True,
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        self.drop_intermediate = drop_intermediate
        super().__init__(task, num_classes, num_labels, thresholds, ignore_index, logits)

    def compute(self) -> ROCCurve:
        """Return the curve, or those of all classes.

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If data on another device than the CPU were not allowed.
        """
        curves = [self._curve(column) for column in self._column_list()]
        if self.task == "binary":
            return curves[0]
        fpr, tpr, thresholds = (list(parts) for parts in zip(*curves))
        if self._size:
            return ROCCurve(torch.stack(fpr), torch.stack(tpr), thresholds[0])
        return ROCCurve(fpr, tpr, thresholds)

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
        return plot_roc(*self.compute()[:2], labels, ax)

    def _curve(self, column: Column) -> ROCCurve:
        thresholds, tps, fps, positives, negatives = column.points()
        if column.has_origin:
            if self.drop_intermediate and len(tps) > 2:
                is_corner = torch.ones_like(tps, dtype=torch.bool)
                is_corner[1:-1] = (fps.diff(n=2) != 0) | (tps.diff(n=2) != 0)
                thresholds, tps, fps = (x[is_corner] for x in (thresholds, tps, fps))
            thresholds = torch.cat((thresholds.new_full((1,), torch.inf), thresholds))
            tps, fps = (torch.cat((x.new_zeros(1), x)) for x in (tps, fps))
        for name, number in (("negatives", negatives), ("positives", positives)):
            if not number:
                warnings.warn(
                    f"without {name} in the target, the rate of what counts as one of "
                    "them is not defined, and NaN",
                    stacklevel=4,
                )
        nan = torch.full_like(tps, torch.nan)
        fpr = fps / negatives if negatives else nan
        tpr = tps / positives if positives else nan
        return ROCCurve(fpr, tpr, thresholds.double())
