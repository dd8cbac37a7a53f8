"""The correlation of the ranks of predictions and targets."""

from __future__ import annotations

import torch
from torch import Tensor

from hotloop.metrics.aggregation.moments import measure
from hotloop.metrics.metric import State
from hotloop.metrics.regression.pearson_corr_coef import correlation
from hotloop.metrics.regression.regression_metric import RegressionMetric

__all__ = ["SpearmanCorrCoef"]


class SpearmanCorrCoef(RegressionMetric):
    """Spearman's correlation of predictions and targets, in [-1, 1].

        cov(p, t) / sqrt(var(p) var(t))

    of the ranks p of the predictions and t of the targets. Equal numbers share the mean of their
    ranks. It is NaN where all predictions or all targets are equal, and where one is NaN, as in
    scipy. All numbers are kept, since no summary of parts has the ranks of the whole.

    Args:
        num_outputs: How many numbers are predicted for each sample.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean, or
            "raw_values" to return a tensor of all.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    higher_is_better = True

    def _initial(self) -> State:
        return {"preds": [], "target": []}

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Keep one batch.

        Args:
            preds: Predictions, shape (N,) or (N, 1), or (N, num_outputs), any real dtype.
            target: What they should be, of the same shape.
            weight: None: ranks have no weights.

        Raises:
            ValueError: If the shapes do not fit, or there are weights. Nothing is kept then.
        """
        if weight is not None:
            raise ValueError("SpearmanCorrCoef takes no weights; leave weight at None")
        if not self._fits(preds, target):
            preds, target = self._shaped(preds, target)
        # Copies, as the tensors may be written to.
        self._state["preds"].append(preds.detach().reshape(-1, self.num_outputs).clone())
        self._state["target"].append(target.detach().reshape(-1, self.num_outputs).clone())

    def compute(self) -> float | Tensor:
        """Return the value, or those of all outputs as a tensor of float64.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        if not sum(len(preds) for preds in self._state["preds"]):
            raise self._empty()
        preds, target = (_ranks(torch.cat(self._state[name])) for name in ("preds", "target"))
        count = torch.tensor(float(preds.size(1)), dtype=torch.float64)
        ones = torch.ones_like(preds[0])
        preds_moments, preds_deviations, _ = measure(preds, ones, count)
        target_moments, target_deviations, _ = measure(target, ones, count)
        product = (preds_deviations * target_deviations).sum(1)
        values = correlation(product, preds_moments[:, 2], target_moments[:, 2])
        return values if self.multioutput == "raw_values" else float(values.mean())


def _ranks(numbers: Tensor) -> Tensor:
    """Return the ranks in each column as a row; equal numbers have the mean of theirs."""
    ranks = torch.full((numbers.size(1), len(numbers)), torch.nan, dtype=torch.float64)
    for column, rank in zip(numbers.cpu().unbind(1), ranks):
        if column.is_floating_point() and column.isnan().any():
            continue
        ordered, order = column.sort()
        _, group, counts = torch.unique_consecutive(
            ordered, return_inverse=True, return_counts=True
        )
        middle = counts.cumsum(0) - (counts - 1) / 2
        rank[order] = middle.to(torch.float64)[group]
    return ranks
