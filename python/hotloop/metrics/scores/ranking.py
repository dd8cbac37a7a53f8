"""Scores of one class against labels of 0 and 1, in order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from hotloop.backend import DTYPES, kernels_for

__all__ = ["BinnedColumn", "Column", "Points", "RankedColumn"]

#: From so many scores on, torch ranks them: the kernel counts pairs in int64.
_KERNEL_END = 2**31
#: `RankingWord` in Mojo.
_POSITIVES, _BELOW_COUNT, _ABOVE_COUNT, _WORDS = 0, 2, 4, 5
_NONE_IGNORED = -(2**63)


class Points(NamedTuple):
    """What is at or above each threshold, from the highest threshold down.

    Attributes:
        thresholds: The thresholds, shape (T,).
        tps: The sum of weights of the positives there, float64, shape (T,).
        fps: That of the negatives.
        positives: That of all positives.
        negatives: That of all negatives.
    """

    thresholds: Tensor
    tps: Tensor
    fps: Tensor
    positives: float
    negatives: float


class Column(ABC):
    """The scores of one class and whether it is the label."""

    #: Whether curves begin at (0, 0), above the highest threshold.
    has_origin: ClassVar[bool]

    @abstractmethod
    def points(self) -> Points:
        """Return what is at or above each threshold."""

    @abstractmethod
    def support(self) -> float:
        """Return the sum of weights of the positives."""

    def area_under_roc(self, max_fpr: float | None = None) -> float:
        """Return the area under the ROC curve; NaN unless there are both labels.

        Args:
            max_fpr: The highest false positive rate of a partial area, in (0, 1]; None for all.
        """
        points = self.points()
        if not points.positives or not points.negatives:
            return math.nan
        tps, fps = points.tps, points.fps
        limit = 1.0 if max_fpr is None else max_fpr
        if self.has_origin or (limit < 1 and fps[0] > limit * points.negatives):
            tps, fps = (torch.cat((x.new_zeros(1), x)) for x in (tps, fps))
        if limit == 1:
            # Of counts, and not of rates: that is exact.
            return float(torch.trapezoid(tps, fps)) / (points.positives * points.negatives)
        return _partial_area(fps / points.negatives, tps / points.positives, limit)

    def average_precision(self) -> float:
        """Return the sum of precisions, each times what recall gains there; 0 without positives."""
        points = self.points()
        if not points.positives:
            return 0.0
        reached = points.tps + points.fps
        precision = torch.where(reached > 0, points.tps / reached, 0.0)
        gains = points.tps.diff(prepend=points.tps.new_zeros(1))
        return float((precision * gains).sum()) / points.positives


def _partial_area(fpr: Tensor, tpr: Tensor, max_fpr: float) -> float:
    """Return the area up to a false positive rate, from 0.5 for chance to 1.

    The standardised partial area of McClish (1989), "Analyzing a portion of the ROC curve".
    """
    one = fpr.new_ones(1)
    if fpr[-1] <= max_fpr:
        fpr, tpr = torch.cat((fpr, one)), torch.cat((tpr, one))
    stop = int(torch.searchsorted(fpr, max_fpr, right=True))
    share = (max_fpr - fpr[stop - 1]) / (fpr[stop] - fpr[stop - 1])
    end = tpr[stop - 1] + share * (tpr[stop] - tpr[stop - 1])
    x = torch.cat((fpr[:stop], max_fpr * one))
    y = torch.cat((tpr[:stop], end * one))
    least = max_fpr**2 / 2
    return 0.5 * (1 + (float(torch.trapezoid(y, x)) - least) / (max_fpr - least))


class RankedColumn(Column):
    """Scores that are kept, with each of them as a threshold.

    Args:
        scores: Scores, shape (N,), not NaN unless ignored.
        target: Labels, shape (N,).
        positive: The label of positives; all others are negatives.
        ignore_index: The label of what does not count; None counts all.
        weight: The weight of each score, float64, shape (N,); None for 1. Kernels do without.
    """

    has_origin = True

    def __init__(
        self,
        scores: Tensor,
        target: Tensor,
        positive: int,
        ignore_index: int | None,
        weight: Tensor | None,
    ) -> None:
        self._scores = scores
        self._target = target
        self._positive = positive
        self._ignore_index = ignore_index
        self._weight = weight
        self._keys: Tensor | None = None
        self._kernels = None
        if weight is None and len(scores) < _KERNEL_END:
            self._kernels = kernels_for(scores, target)

    def points(self) -> Points:
        """Return what is at or above each distinct score."""
        if self._kernels is None:
            return self._torch_points()
        ranking, dtype = self._rank()
        count = int(ranking[_BELOW_COUNT] + ranking[_ABOVE_COUNT])
        wide = torch.float64 if self._scores.dtype == torch.float64 else torch.float32
        thresholds = torch.empty(count, dtype=wide, device="cpu")
        tps, fps = torch.empty((2, count), dtype=torch.int64, device="cpu")
        found = self._kernels.count_at_thresholds(
            ranking.data_ptr(), dtype, thresholds.data_ptr(), tps.data_ptr(), fps.data_ptr()
        )
        positives = int(ranking[_POSITIVES])
        # Not views: ties may leave little of much memory.
        return Points(
            thresholds[:found].clone(),
            tps[:found].double(),
            fps[:found].double(),
            positives,
            count - positives,
        )

    def support(self) -> float:
        """Return the sum of weights of the positives."""
        is_positive = self._target == self._positive
        return float(is_positive.sum() if self._weight is None else self._weight[is_positive].sum())

    def area_under_roc(self, max_fpr: float | None = None) -> float:
        """Return the area under the ROC curve; NaN unless there are both labels.

        Args:
            max_fpr: The highest false positive rate of a partial area, in (0, 1]; None for all.
        """
        if self._kernels is None or max_fpr not in (None, 1):
            return super().area_under_roc(max_fpr)
        ranking, dtype = self._rank()
        return float(self._kernels.area_under_roc(ranking.data_ptr(), dtype))

    def average_precision(self) -> float:
        """Return the sum of precisions, each times what recall gains there; 0 without positives."""
        if self._kernels is None:
            return super().average_precision()
        ranking, dtype = self._rank()
        return float(self._kernels.average_precision(ranking.data_ptr(), dtype))

    def _rank(self) -> tuple[Tensor, int]:
        """Sort the scores; the keys live as long as this object."""
        assert self._kernels is not None
        scores, target = self._scores, self._target
        dtype = DTYPES[scores.dtype]
        key = torch.int64 if scores.dtype == torch.float64 else torch.int32
        self._keys = torch.empty(2 * len(scores), dtype=key, device="cpu")
        ranking = torch.empty(_WORDS, dtype=torch.int64, device="cpu")
        self._kernels.rank_scores(
            scores.data_ptr(),
            dtype,
            scores.stride(0),
            target.data_ptr(),
            DTYPES[target.dtype],
            target.stride(0),
            len(scores),
            self._positive,
            _NONE_IGNORED if self._ignore_index is None else self._ignore_index,
            self._keys.data_ptr(),
            ranking.data_ptr(),
        )
        return ranking, dtype

    def _torch_points(self) -> Points:
        scores, target, weight = self._scores, self._target, self._weight
        kept = torch.ones_like(target, dtype=torch.bool)
        if self._ignore_index is not None:
            kept &= target != self._ignore_index
        if weight is not None:
            # No threshold of its own for what has no weight.
            kept &= weight > 0
            weight = weight[kept]
        scores, is_positive = scores[kept], target[kept] == self._positive
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores, order = scores.sort(descending=True, stable=True)
        is_last = torch.ones_like(scores, dtype=torch.bool)
        is_last[:-1] = scores[1:] != scores[:-1]
        tps, fps = (
            (label[order] if weight is None else weight[order] * label[order]).cumsum(
                0, dtype=torch.float64
            )[is_last]
            for label in (is_positive, ~is_positive)
        )
        ends = [float(sums[-1]) if len(sums) else 0.0 for sums in (tps, fps)]
        return Points(scores[is_last], tps, fps, *ends)


class BinnedColumn(Column):
    """Scores that were counted between thresholds.

    Args:
        counts: The negatives and the positives of each bin, shape (2, T + 1): those below all
            thresholds first.
        thresholds: The thresholds in ascending order, shape (T,).
    """

    has_origin = False

    def __init__(self, counts: Tensor, thresholds: Tensor) -> None:
        self._counts = counts.to(torch.float64)
        self._thresholds = thresholds

    def points(self) -> Points:
        """Return what is at or above each threshold."""
        fps, tps = self._counts[:, 1:].flip(1).cumsum(1)
        negatives, positives = self._counts.sum(1).tolist()
        return Points(self._thresholds.flip(0), tps, fps, positives, negatives)

    def support(self) -> float:
        """Return the sum of weights of the positives."""
        return float(self._counts[1].sum())
