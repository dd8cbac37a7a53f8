"""The Brier score of probabilities."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from hotloop.metrics.scores.row_mean import RowMean
from hotloop.metrics.scores.score_metric import Arguments, check_choice

__all__ = ["BrierScore"]


class BrierScore(RowMean):
    """The mean squared error of probabilities: in [0, 2], or in [0, 1] where it is halved.

        sum_n sum_c (p_nc - y_nc)^2 / N

    with y_nc of 1 for the class of row n and of 0 for the others (Brier, 1950, "Verification of
    forecasts expressed in terms of probability"). The binary task has two classes, of which the
    score is the probability of label 1. The values are those of scikit-learn's
    `brier_score_loss`.

    Args:
        task: "binary" or "multiclass".
        num_classes: How many classes; None takes it from the scores.
        scale_by_half: Whether to halve the sum; "auto" does so for two classes.
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
        scale_by_half: bool | str = "auto",
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        check_choice("scale_by_half", scale_by_half, (True, False, "auto"))
        self.scale_by_half = scale_by_half
        super().__init__(task, num_classes, None, ignore_index, logits)

    def _kernel_sum(self, kernels: ModuleType, arguments: Arguments, scores: Tensor) -> float:
        return float(kernels.sum_brier_scores(*arguments)) * self._factor(arguments[5])

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        if not self._has_classes:
            return (scores.double() - (labels == 1).double()).square() * self._factor(1)
        classes = torch.arange(scores.shape[1], device=scores.device)
        errors = scores.double() - (labels[:, None] == classes).double()
        return errors.square().sum(1) * self._factor(scores.shape[1])

    def _factor(self, columns: int) -> float:
        """Return what the squared errors of a row are multiplied by."""
        is_halved = columns < 3 if self.scale_by_half == "auto" else self.scale_by_half
        # The binary task has the error of one class of two, which are alike.
        return (0.5 if is_halved else 1.0) * (2 if columns == 1 else 1)
