"""Base of the metrics that are a mean over rows of probabilities."""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from hotloop.metrics.metric import State
from hotloop.metrics.scores.score_metric import Arguments, ScoreMetric

__all__ = ["RowMean"]


class RowMean(ScoreMetric):
    """The weighted mean over rows of how bad their probabilities are, summed in float64."""

    higher_is_better: ClassVar[bool | None] = False
    tasks: ClassVar[tuple[str, ...]] = ("binary", "multiclass")
    #: Whether there is a kernel for the scores as they are read.
    _has_kernel = True

    def _initial(self) -> State:
        return {"sum": 0.0, "weight": 0.0, "invalid": 0}

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Probabilities or logits, of the shape that the task asks for.
            target: Labels, of the shape that the task asks for.
            weight: A factor of at least 0 for each row; 1 by default.

        Raises:
            ValueError: If shapes or dtypes do not fit, a probability is not in [0, 1] or a logit
                is NaN, a label names no class, or a weight is negative or not finite. Nothing is
                counted then.
        """
        kernels, scores, labels, arguments = self._read(preds, target)
        state = self._state
        total: Tensor | float
        rows: Tensor | float
        if kernels is not None and weight is None and self._has_kernel:
            problem = kernels.check_scores(*arguments, *self._range)
            if problem:
                raise self._refused(problem, preds, target)
            total = self._kernel_sum(kernels, arguments, scores)
            rows = arguments[4]
            if self.ignore_index is not None:
                rows -= int((labels == self.ignore_index).sum())
        else:
            is_counted, weights, invalid = self._checked(scores, labels, preds, target, weight)
            weights = is_counted * weights
            # Scores of ignored labels may be anything.
            losses = torch.where(weights > 0, self._losses(scores.detach(), labels), 0.0)
            total, rows = (losses * weights).sum(), weights.sum()
            if scores.is_cpu:
                total, rows = float(total), float(rows)
            else:
                state["invalid"] = state["invalid"] + invalid
        state["sum"] = state["sum"] + total
        state["weight"] = state["weight"] + rows

    def compute(self) -> float:
        """Return the mean.

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If data on another device than the CPU were not allowed.
        """
        self._check_valid()
        weight = float(self._state["weight"])
        if not weight:
            raise self._empty()
        return float(self._state["sum"]) / weight

    @abstractmethod
    def _kernel_sum(self, kernels: ModuleType, arguments: Arguments, scores: Tensor) -> float:
        """Return the sum over the rows that are not ignored."""

    @abstractmethod
    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the value of each row in float64; any for ignored ones."""
