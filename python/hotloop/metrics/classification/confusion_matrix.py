"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hotloop.errors import unknown_name
from hotloop.metrics.classification.class_counts import Counter, Counts
from hotloop.metrics.classification.class_metric import ClassMetric
from hotloop.metrics.plot import plot_confusion_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ConfusionMatrix"]

_DIMENSIONS = {"true": (-1,), "pred": (-2,), "all": (-2, -1)}


class ConfusionMatrix(ClassMetric):
    """How many samples of each class were predicted as each class: at least 0.

        C_ij = samples of class i (row) predicted as class j (column)

    The value is of shape (C, C), for "binary" (2, 2), [[TN, FP], [FN, TP]], and for "multilabel"
    (L, 2, 2); int64, or float64 if samples were weighted. Normalised, it is divided by its sum
    over each row ("true"), over each column ("pred") or over all ("all"), in float64; a sum of 0
    gives 0.

    Args:
        task: "binary", "multiclass" or "multilabel"; see `ClassMetric`.
        num_classes: The number of classes, for "multiclass"; None to take it from the first scores.
        num_labels: The number of labels, for "multilabel"; None to take it from the first batch.
        normalize: None, "true", "pred" or "all".
        threshold: The probability from which on 1 is predicted, itself excluded; in [0, 1].
        logits: Whether scores of "binary" and "multilabel" are logits, not probabilities.
        ignore_index: The target of samples, or labels, that do not count; None if there is none.
    """

    higher_is_better: ClassVar[bool | None] = None

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        normalize: str | None = None,
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        if normalize is not None and normalize not in _DIMENSIONS:
            raise ValueError(unknown_name("normalize", normalize, _DIMENSIONS))
        super().__init__(
            task,
            num_classes,
            num_labels,
            threshold=threshold,
            logits=logits,
            ignore_index=ignore_index,
            counter=Counter.CONFUSION,
        )
        self.normalize = normalize

    def plot(self, labels: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the matrix, for "binary" and "multiclass".

        Args:
            labels: The names of the classes; their indices by default.
            ax: Where to draw; a new figure by default.

        Returns:
            The axes.

        Raises:
            EmptyMetricError: If nothing was counted.
            ImportError: If matplotlib is not installed.
            ValueError: If the task is "multilabel", or there are not as many labels as classes.
        """
        return plot_confusion_matrix(self.compute(), labels, ax)

    def _value(self, counts: Counts) -> Tensor:
        matrix = counts.confusion()
        if self.normalize is None:
            return matrix.clone()
        sums = matrix.sum(_DIMENSIONS[self.normalize], keepdim=True, dtype=torch.float64)
        return (matrix / sums).nan_to_num(0.0)
