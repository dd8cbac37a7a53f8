"""Counters of labels that are 0 or 1, one for a sample or several."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop.backend import DTYPES, kernels_for
from hotloop.layout import Dtype
from hotloop.metrics.classification.class_counts import Counts, Place, Totals, as_labels, one_size

__all__ = ["LabelCounts"]


class LabelCounts(Counts):
    """The confusion matrices of L labels that are 0 or 1.

    Args:
        task: "binary" for one label a sample, "multilabel" for L.
        num_labels: L; None to take it from the first batch. Not for "binary".
        threshold: Scores above it predict 1; a probability.
        logits: Whether scores are logits, to be compared with log(threshold / (1 - threshold)).
        ignore_index: The target of labels that do not count; None if there is none.
    """

    def __init__(
        self,
        task: str,
        num_labels: int | None = None,
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(ignore_index)
        self.task = task
        self.num_labels = num_labels
        self.threshold = threshold
        self.logits = logits

    @property
    def key(self) -> tuple[Any, ...]:
        """What is equal where metrics can share counters."""
        return (self.task, self.ignore_index, self.threshold, self.logits)

    def joined(self, others: Sequence[LabelCounts]) -> LabelCounts:
        """Return new counters that count all that these do.

        Args:
            others: Counters with the same key.

        Raises:
            ValueError: If they are of different numbers of labels.
        """
        return LabelCounts(
            self.task,
            one_size("num_labels", [each.num_labels for each in others]),
            self.threshold,
            self.logits,
            self.ignore_index,
        )

    def take(self, other: LabelCounts) -> None:
        """Replace the counters by those of another.

        Args:
            other: Whose `key` is the same.
        """
        self._set(None if other.counts is None else other.counts.clone())
        self.invalid = other.invalid

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            preds: Scores of 1 in float32, float64, bfloat16 or float16, or labels in any integer
                dtype or bool, of the shape of `target`.
            target: Labels, 0 or 1, any integer dtype or bool: shape (N, ...) for "binary",
                (N, L, ...) for "multilabel".
            weight: The weight of each sample, shape (N, ...); 1 by default.

        Raises:
            ValueError: If shapes, dtypes or values are not allowed. Nothing is counted then.
        """
        shape = target.shape
        if preds.shape != shape:
            raise ValueError(
                f"preds must have the shape of target, got {tuple(preds.shape)} for {tuple(shape)}"
            )
        labels = 1
        samples = shape
        if self.task == "multilabel":
            labels = self._labels(shape)
            samples = torch.Size((*shape[:1], *shape[2:]))
        if weight is not None:
            weight = self._weights(weight, target, samples)
        is_moved = self.task == "multilabel" and len(shape) > 2
        if is_moved:
            preds, target = preds.movedim(1, -1), target.movedim(1, -1)
        number = DTYPES.get(preds.dtype, -1)
        if number < 0 or DTYPES.get(target.dtype, -1) < Dtype.INT64:
            target = as_labels("target", target)
            if number < 0:
                preds = preds.float() if preds.is_floating_point() else as_labels("preds", preds)
                number = DTYPES[preds.dtype]
        threshold, low, high = 0.5, 0.0, 1.0
        if number < Dtype.INT64:
            threshold = _rounded(self.threshold, self.logits, preds.dtype)
            if self.logits:
                low, high = -math.inf, math.inf
        counts = self._counters(target, (labels, 2, 2), weight is not None)
        kernels = kernels_for(preds, target)
        if kernels is None:
            counts, result = self._count_with_torch(
                counts, preds, target, weight, labels, (threshold, low, high)
            )
        else:
            if not (preds.is_contiguous() and target.is_contiguous()):
                preds, target = preds.contiguous(), target.contiguous()
            result = kernels.count_binary(
                self._is_weighted or weight is not None,
                target.data_ptr(),
                DTYPES[target.dtype],
                preds.data_ptr(),
                number,
                samples.numel(),
                labels,
                self._has_ignored,
                self._ignored,
                threshold,
                low,
                high,
                0 if weight is None else weight.data_ptr(),
                counts.data_ptr(),
            )
        if result >= 0:
            if is_moved:
                preds, target, result = _moved_back(preds, target, result)
            self._refuse(result, preds, target, weight, self._allowed(preds))
        if counts is not self.counts:
            self._set(counts)

    def totals(self) -> Totals:
        """Return the sums for the 1 of each label."""
        counts = self.array()
        return Totals(
            correct=counts[:, 1, 1],
            predicted=counts[:, :, 1].sum(1),
            actual=counts[:, 1].sum(1),
            samples=counts.sum((1, 2)),
        )

    def class_totals(self) -> Totals:
        """Return the sums for 0 and 1, over all labels."""
        counts = self.array().sum(0)
        return Totals(counts.diagonal(), counts.sum(0), counts.sum(1), counts.sum())

    def confusion(self) -> Tensor:
        """Return the confusion matrix of the label, or that of each label."""
        assert self.counts is not None
        counts = self.counts.cpu()
        return counts[0] if self.task == "binary" else counts

    def _labels(self, shape: torch.Size) -> int:
        """Return the number of labels of a batch.

        Raises:
            ValueError: If it is not that of earlier ones.
        """
        known = self.num_labels
        if known is None and self.counts is not None:
            known = self.counts.shape[0]
        if len(shape) < 2 or shape[1] == 0 or known not in (None, shape[1]):
            expected = "L" if known is None else known
            raise ValueError(
                f"target must have shape (N, {expected}, ...) for the labels of each sample, got "
                f"{tuple(shape)}"
            )
        return shape[1]

    def _allowed(self, preds: Tensor) -> str:
        if not preds.is_floating_point():
            return "0 or 1"
        return "a number" if self.logits else "a probability in [0, 1], or logits with logits=True"

    def _check_shape(self, shape: torch.Size) -> None:
        labels = 1 if self.task == "binary" else self.num_labels
        if len(shape) != 3 or shape[1:] != (2, 2) or labels not in (None, shape[0]):
            raise ValueError(f"counts of shape {tuple(shape)} do not fit")

    def _count_with_torch(
        self,
        counts: Tensor,
        preds: Tensor,
        target: Tensor,
        weight: Tensor | None,
        labels: int,
        limits: tuple[float, float, float],
    ) -> tuple[Tensor, int]:
        """Return new counters, and what the kernel returns."""
        threshold, low, high = limits
        scores, actual = preds.reshape(-1), target.reshape(-1).to(torch.int64)
        flat = None if weight is None else weight.reshape(-1).repeat_interleave(labels)
        is_allowed = (actual >= 0) & (actual <= 1), (scores >= low) & (scores <= high)
        amount, result = self._screen(counts, actual, is_allowed, flat)
        if result >= 0:
            index, place = divmod(result, Place.END)
            index = index // labels if place == Place.WEIGHT else index
            return counts, index * Place.END + place
        label = torch.arange(len(actual), device=actual.device) % labels
        predicted = (scores > threshold).to(torch.int64)
        actual = torch.where(amount != 0, actual, 0)
        cells = 4 * label + 2 * actual + predicted
        # Not in place: a tensor of torch's inference mode refuses that outside of it.
        return counts.view(-1).scatter_add(0, cells, amount).view(counts.shape), -1


def _moved_back(preds: Tensor, target: Tensor, result: int) -> tuple[Tensor, Tensor, int]:
    """Return what was found with labels last, with labels at dimension 1."""
    index, place = divmod(result, Place.END)
    if place != Place.WEIGHT:
        indices = torch.arange(target.numel()).view(target.shape).movedim(-1, 1)
        index = int((indices.reshape(-1) == index).nonzero()[0])
    return preds.movedim(-1, 1), target.movedim(-1, 1), index * Place.END + place


@functools.cache
def _rounded(threshold: float, logits: bool, dtype: torch.dtype) -> float:
    """Return the threshold as a number of the scores' dtype, which torch compares with, too."""
    if logits:
        odds = math.inf if threshold == 1 else threshold / (1 - threshold)
        threshold = math.log(odds) if odds else -math.inf
    return torch.tensor(threshold, dtype=dtype).item()
