"""Base of the metrics of predicted tokens, and what they count."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hotloop import backend
from hotloop.metrics.aggregation import compensated_sum
from hotloop.metrics.aggregation.aggregator import FLOATS, check_weights
from hotloop.metrics.metric import Metric, State
from hotloop.rows import Rows, scan_rows

__all__ = ["LikelihoodMetric", "TokenMetric"]


class TokenMetric(Metric):
    """A metric of scores over a vocabulary and the tokens that came.

    All metrics of this kind are made of the same sums: of negative log-likelihoods, of what they
    are divided by, and of tokens with the highest score. They are float64 and compensated, so that
    any split of the tokens gives the same bits; on a CUDA device they are plain sums, which stay
    there until `compute`.

    Args:
        ignore_index: The target of positions that do not count; None for none.

    Attributes:
        needs_nll: Whether the likelihoods of the targets are needed.
    """

    needs_nll: ClassVar[bool] = False

    def __init__(self, ignore_index: int | None = -100) -> None:
        self.ignore_index = ignore_index
        #: How many units each token has, in int64; None for one.
        self._units: Tensor | None = None
        super().__init__()

    def _initial(self) -> State:
        # Each with its rest.
        return {"sums": torch.zeros((3, 2), dtype=torch.float64)}

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Logits, shape (B, T, V) or (N, V), floating point.
            target: The tokens, of the shape of `preds` without its last dimension, any integer
                dtype.
            weight: A factor of at least 0 for each token, of the shape of `target`; 1 by default.

        Raises:
            ValueError: If the shapes do not fit or, on the CPU, a target is no token, a row of
                logits has NaN, or a weight is negative or not finite. Nothing is counted then.
        """
        if preds.ndim < 2 or target.shape != preds.shape[:-1]:
            raise ValueError(
                "preds must have shape (B, T, V) or (N, V), and target the same without V, got "
                f"{tuple(preds.shape)} and {tuple(target.shape)}"
            )
        if weight is not None and weight.shape != target.shape:
            raise ValueError(
                f"weight must have the shape of target, {tuple(target.shape)}, got "
                f"{tuple(weight.shape)}"
            )
        if preds.ndim > 2:
            preds, target = preds.reshape(-1, preds.size(-1)), target.reshape(-1)
            weight = None if weight is None else weight.reshape(-1)
        rows = scan_rows(preds, target, ignore_index=self.ignore_index, nll=self.needs_nll)
        self.update_rows(rows, weight)

    def update_rows(self, rows: Rows, weight: Tensor | None = None) -> None:
        """Count rows that were scanned already; those that the scan ignored do not count.

        Args:
            rows: What `hotloop.rows.scan_rows` or a loss with `return_rows=True` has found.
            weight: A factor of at least 0 for each row, shape (N,); 1 by default.

        Raises:
            ValueError: If the rows lack likelihoods that are needed, or have another number of
                classes than there are tokens, or the weight has another shape or, on the CPU, is
                negative or not finite. Nothing is counted then.
        """
        nll = rows.nll if self.needs_nll else None
        if self.needs_nll and nll is None:
            raise ValueError(f"{type(self).__name__} needs rows with nll; scan them with nll=True")
        units = self._units
        if units is not None and len(units) != rows.classes:
            raise ValueError(f"token_bytes has {len(units)} tokens, and the logits {rows.classes}")
        weights = None if weight is None else _checked_weights(weight, rows.rank)
        kernels = backend.kernels_for(rows.rank)
        sums = self._state["sums"]
        if kernels is None or not sums.is_cpu:
            self._add(_sums(rows, nll, weights, units))
            return
        kernels.sum_tokens(
            sums.data_ptr(),
            rows.rank.data_ptr(),
            0 if nll is None else nll.data_ptr(),
            0 if nll is None else FLOATS[nll.dtype],
            0 if weights is None else weights.data_ptr(),
            0 if units is None else units.data_ptr(),
            0 if units is None else rows.target.data_ptr(),
            len(rows.rank),
        )

    def _combine(self, other: State) -> None:
        self._add(other["sums"])

    def _add(self, sums: Tensor) -> None:
        self._state["sums"] = compensated_sum.merge(self._state["sums"], sums)

    def _ratio(self, numerator: int) -> float:
        """Return the sum of likelihoods, 0, or correct tokens, 2, by what they are divided by."""
        sums = self._state["sums"].tolist()
        if sums[1][0] == 0:
            raise self._empty()
        return float(sums[numerator][0] / sums[1][0])


class LikelihoodMetric(TokenMetric):
    """A metric of the likelihoods of tokens."""

    needs_nll = True

    def update_sum(self, nll: Tensor | float, count: Tensor | float) -> None:
        """Count tokens whose likelihoods were added up already, such as in a `LossSum`.

        Args:
            nll: The sum of their negative log-likelihoods, in nats; a number or a scalar tensor.
            count: What it is divided by: the number of tokens, or of bytes of their text.
        """
        self._add(compensated_sum.of_numbers(nll, count, 0.0))


def _checked_weights(weight: Tensor, rank: Tensor) -> Tensor:
    if weight.shape != rank.shape:
        raise ValueError(f"weight must have shape {tuple(rank.shape)}, got {tuple(weight.shape)}")
    weights = weight.detach().to(rank.device, torch.float64)
    if weights.is_cpu:
        check_weights(weights)
    return weights.contiguous()


def _sums(rows: Rows, nll: Tensor | None, weights: Tensor | None, units: Tensor | None) -> Tensor:
    """Return the state of a metric that has counted rows, by torch's operators."""
    w = (rows.rank >= 0).to(torch.float64)
    if weights is not None:
        w = torch.where(rows.rank >= 0, weights, 0.0)
    amounts = w
    if units is not None:
        # The target of an ignored row may be no token.
        tokens = torch.where(rows.rank >= 0, rows.target, 0).clamp(0, rows.classes - 1)
        lengths = units.to(tokens.device)[tokens]
        w = torch.where(lengths == 0, 0.0, w)
        amounts = w * lengths
    values = torch.zeros_like(w) if nll is None else nll.to(torch.float64)
    values = torch.where(w == 0, 0.0, w * values)
    correct = torch.where(rows.rank == 0, w, 0.0)
    return torch.stack([compensated_sum.sum_of(each) for each in (values, amounts, correct)])
