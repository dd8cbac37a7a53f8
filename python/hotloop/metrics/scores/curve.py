"""Base of the metrics of scores at thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hotloop.layout import Dtype
from hotloop.metrics.metric import State
from hotloop.metrics.scores.ranking import BinnedColumn, Column, RankedColumn
from hotloop.metrics.scores.score_metric import Arguments, ScoreMetric

__all__ = ["CurveMetric", "Thresholds", "averaged"]

Thresholds: TypeAlias = "int | Sequence[float] | Tensor | None"

#: The most thresholds of an int, for which the kernel finds a bin from the product.
_UNIFORM_MAX = 65536


class CurveMetric(ScoreMetric):
    """A metric of the true and false positives of scores at thresholds.

    With `thresholds=None` each score is a threshold: values are exact, and the metric keeps scores
    as they are, labels, and weights if there are any (8 bytes each), on their device. `compute`
    joins them, and sorts one class at a time with 8 more bytes for each score (16 for float64).

    With thresholds the metric keeps counters of the scores between them, int64, or float64 from the
    first weights on. An int T of at least 2 stands for T thresholds from 0 to 1,
    `torch.linspace(0, 1, T)`, and scores must be probabilities. Others are compared with
    whatever the scores are; a sequence is rounded to float32, in which most scores are. A score
    counts as positive at each threshold that is not above it, as in torchmetrics.

    Args:
        task: "binary", "multiclass" (one class against the rest) or "multilabel".
        num_classes: How many classes; None takes it from the scores.
        num_labels: How many labels; None takes it from the scores.
        thresholds: None, an int from 2 to 65536, or thresholds in ascending order.
        ignore_index: The label of what is not counted; None counts all.
        logits: Whether to take the softmax of scores first ("multiclass"), or the sigmoid.
    """

    def __init__(
        self,
        task: str,
        num_classes: int | None,
        num_labels: int | None,
        thresholds: Thresholds,
        ignore_index: int | None,
        logits: bool,
    ) -> None:
        self._is_uniform = isinstance(thresholds, int)
        self._edges = _checked_thresholds(thresholds)
        self._size = len(self._edges)
        # The kernels look one threshold ahead.
        self._wide = torch.cat((self._edges.double(), self._edges.new_full((1,), torch.inf)))
        self._narrow = self._wide.float()
        self._is_wide = self._edges.dtype == torch.float64
        # On the device of the data.
        self._moved = self._edges.double()
        self._ready: Tensor | None = None
        self._columns_ready: int | None = None
        if not self._is_uniform:
            self._range = (-torch.inf, torch.inf)
        super().__init__(task, num_classes, num_labels, ignore_index, logits)
        has_list = thresholds is not None and not self._is_uniform
        self.thresholds = self._edges.tolist() if has_list else thresholds

    def _initial(self) -> State:
        if self._size == 0:
            return {"preds": [], "target": [], "weight": [], "invalid": 0}
        return {"counts": 0, "invalid": 0}

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Scores, of the shape that the task asks for.
            target: Labels, of the shape that the task asks for.
            weight: A factor of at least 0 for each row; 1 by default.

        Raises:
            ValueError: If shapes or dtypes do not fit, a score is NaN or (where `thresholds` is
                an int) out of [0, 1], a label names no class, or a weight is negative or not
                finite. Nothing is counted then.
        """
        kernels, scores, labels, arguments = self._read(preds, target)
        if self._size == 0:
            self._keep(kernels, scores, labels, arguments, preds, target, weight)
            return
        counts = self._state["counts"]
        is_ready = counts is self._ready and arguments[5] == self._columns_ready
        if not is_ready or weight is not None or kernels is None:
            counts = self._counters(scores, arguments[5], weight is not None)
            if counts is not self._ready or kernels is None:
                checked = self._checked(scores, labels, preds, target, weight)
                self._add(scores, labels, counts, *checked)
                return
        is_wide = self._is_wide or arguments[1] == Dtype.FLOAT64
        problem = kernels.bin_scores(
            *arguments,
            (self._wide if is_wide else self._narrow).data_ptr(),
            is_wide,
            self._size,
            self._is_uniform,
            counts.data_ptr(),
        )
        if problem:
            raise self._refused(problem, preds, target)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned; it is copied.

        Raises:
            ValueError: If it is the state of another kind of metric, of other thresholds or of
                another number of classes. Nothing is loaded then.
        """
        self._check_state(state)
        super().load_state_dict(state)
        if isinstance(self._state.get("counts"), Tensor):
            # Kernels write to it, one counter behind the other.
            self._state["counts"] = self._state["counts"].contiguous()

    def _combine(self, other: State) -> None:
        self._check_state(other)
        columns, others = self._count_columns(self._state), self._count_columns(other)
        if columns and others and columns != others:
            raise ValueError(
                f"only a metric of as many classes can be merged: {columns} and {others} do not fit"
            )
        other = dict(other)
        if self._size == 0 and (self._state["weight"] or other["weight"]):
            self._weigh(self._state)
            self._weigh(other)
        super()._combine(other)

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError for a state that kernels must not see."""
        if set(state) != set(self._state):
            return
        columns = self._count_columns(state)
        if columns is not None and columns != (self._columns or columns):
            raise ValueError(
                f"the state of {self} must have {self._columns} classes, got {columns}"
            )
        if self._size == 0:
            for preds, target in zip(state["preds"], state["target"], strict=True):
                shape = preds.shape[:1] if self._has_classes else preds.shape
                if preds.shape[1:] != state["preds"][0].shape[1:] or target.shape != shape:
                    raise ValueError(f"the state of {self} has scores and labels that do not fit")
            return
        counts = state["counts"]
        if columns is not None and (
            counts.dtype not in (torch.int64, torch.float64)
            or counts.shape != (columns, 2, self._size + 1)
        ):
            raise ValueError(
                f"the counts of {self} must be int64 or float64 of shape (C, 2, {self._size + 1}), "
                f"got {counts.dtype} and {tuple(counts.shape)}"
            )

    def _count_columns(self, state: Mapping[str, Any]) -> int | None:
        """Return how many scores a row has in a state, or None if it is empty."""
        if self._size:
            counts = state["counts"]
            return counts.shape[0] if isinstance(counts, Tensor) else None
        if not state["preds"]:
            return None
        return 1 if self.task == "binary" else int(state["preds"][0].shape[1])

    def _weigh(self, state: State) -> None:
        """Give a weight of 1 to what was counted without."""
        if not state["weight"]:
            state["weight"] = [
                torch.ones(len(preds), dtype=torch.float64, device=preds.device)
                for preds in state["preds"]
            ]

    def _counters(self, like: Tensor, columns: int, is_weighted: bool) -> Tensor:
        """Return the counters for a batch, and remember them if kernels can add to them."""
        counts = self._state["counts"]
        if not isinstance(counts, Tensor):
            shape = (columns, 2, self._size + 1)
            counts = torch.zeros(shape, dtype=torch.int64, device=like.device)
        elif len(counts) != columns:
            raise ValueError(
                f"preds must have {len(counts)} classes, as in the first batch, got {columns}"
            )
        counts = counts.to(like.device, torch.float64 if is_weighted else counts.dtype)
        self._state["counts"] = counts
        is_plain = counts.is_cpu and counts.dtype == torch.int64
        self._ready, self._columns_ready = (counts, columns) if is_plain else (None, None)
        return counts

    def _add(
        self,
        scores: Tensor,
        labels: Tensor,
        counts: Tensor,
        is_counted: Tensor,
        weights: Tensor,
        invalid: Tensor | int,
    ) -> None:
        """Add scores to counters with torch's operators."""
        if not scores.is_cpu:
            self._state["invalid"] = self._state["invalid"] + invalid
        columns = len(counts)
        classes = torch.arange(columns, device=scores.device)
        if self._has_classes:
            is_positive = labels[:, None] == classes
            is_counted, weights = is_counted[:, None], weights[..., None]
        else:
            is_positive = labels == 1
        if self._moved.device != scores.device:
            self._moved = self._edges.to(scores.device, torch.float64)
        # As many thresholds as are not above the score.
        bins = torch.bucketize(scores.double(), self._moved, right=True)
        slots = (2 * classes + is_positive.reshape(-1, columns)) * (self._size + 1)
        slots += bins.reshape(-1, columns)
        amounts = (is_counted * weights).expand(scores.shape).to(counts.dtype)
        counts.view(-1).scatter_add_(0, slots.reshape(-1), amounts.reshape(-1))

    def _keep(
        self,
        kernels: ModuleType | None,
        scores: Tensor,
        labels: Tensor,
        arguments: Arguments,
        preds: Tensor,
        target: Tensor,
        weight: Tensor | None,
    ) -> None:
        """Keep a batch as it is."""
        state = self._state
        columns = self._count_columns(state)
        if columns is not None and columns != arguments[5]:
            raise ValueError(
                f"preds must have {columns} classes, as in the first batch, got {arguments[5]}"
            )
        if kernels is not None and weight is None:
            problem = kernels.check_scores(*arguments, *self._range)
            if problem:
                raise self._refused(problem, preds, target)
            weights = scores.new_ones((), dtype=torch.float64)
        else:
            _, weights, invalid = self._checked(scores, labels, preds, target, weight)
            if not scores.is_cpu:
                state["invalid"] = state["invalid"] + invalid
        if weight is not None or state["weight"]:
            self._weigh(state)
            state["weight"].append(weights.reshape(-1).expand(len(scores)).clone())
        # What the caller does to its tensors later must not reach the metric.
        state["preds"].append(scores.detach().clone())
        state["target"].append(labels.clone())

    def _joined(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the scores, the labels and the weights that were kept."""
        for name in ("preds", "target", "weight"):
            parts = self._state[name]
            if len(parts) > 1:
                self._state[name] = [torch.cat(parts)]
        preds, target, weight = (self._state[name] for name in ("preds", "target", "weight"))
        return preds[0], target[0], weight[0] if weight else None

    def _column_list(self) -> list[Column]:
        """Return the scores of each class or label, or those of the binary task.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        self._check_counted()
        if self._size:
            counts = self._state["counts"]
            return [BinnedColumn(own, self._edges) for own in counts.cpu()]
        preds, target, weight = self._joined()
        if self.task == "binary":
            return [RankedColumn(preds, target, 1, self.ignore_index, weight)]
        return [
            RankedColumn(
                preds[:, column],
                target if self._has_classes else target[:, column],
                column if self._has_classes else 1,
                self.ignore_index,
                weight,
            )
            for column in range(preds.shape[1])
        ]

    def _pooled_column(self) -> Column:
        """Return the scores of all classes or labels as those of one.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        self._check_counted()
        if self._size:
            return BinnedColumn(self._state["counts"].sum(0).cpu(), self._edges)
        preds, target, weight = self._joined()
        columns = preds.shape[1]
        if self._has_classes:
            if self.ignore_index is not None:
                is_counted = target != self.ignore_index
                preds, target = preds[is_counted], target[is_counted]
                weight = None if weight is None else weight[is_counted]
            target = (target[:, None] == torch.arange(columns, device=target.device)).byte()
        if weight is not None:
            weight = weight.repeat_interleave(columns)
        ignored = None if self._has_classes else self.ignore_index
        return RankedColumn(preds.reshape(-1), target.reshape(-1), 1, ignored, weight)

    def _check_counted(self) -> None:
        """Raise what `compute` raises if nothing was counted, or nothing that may be."""
        self._check_valid()
        if self._size:
            has_some = bool(torch.as_tensor(self._state["counts"]).any())
        else:
            has_some = bool(self._state["preds"]) and self._has_counted(*self._joined())
        if not has_some:
            raise self._empty()

    def _has_counted(self, preds: Tensor, target: Tensor, weight: Tensor | None) -> bool:
        if self.ignore_index is None and weight is None:
            return preds.numel() > 0
        is_counted = torch.ones_like(target, dtype=torch.bool)
        if self.ignore_index is not None:
            is_counted = target != self.ignore_index
        if weight is not None:
            is_counted &= (weight > 0).reshape(-1, *[1] * (target.ndim - 1))
        return bool(is_counted.any())


def _checked_thresholds(thresholds: Thresholds) -> Tensor:
    """Return the thresholds in ascending order on the CPU, none for None."""
    if thresholds is None:
        return torch.empty(0, device="cpu")
    if isinstance(thresholds, int):
        if isinstance(thresholds, bool) or not 2 <= thresholds <= _UNIFORM_MAX:
            raise ValueError(
                f"thresholds must be an int from 2 to {_UNIFORM_MAX}, numbers in ascending order "
                f"or None, got {thresholds!r}"
            )
        return torch.linspace(0, 1, thresholds, dtype=torch.float32, device="cpu")
    if isinstance(thresholds, Tensor) and thresholds.dtype == torch.float64:
        edges = thresholds.detach().cpu().clone()
    else:
        edges = torch.as_tensor(thresholds).to("cpu", torch.float32, copy=True)
    is_ordered = edges.ndim == 1 and len(edges) > 0 and not edges.isnan().any()
    if not is_ordered or not (edges[1:] >= edges[:-1]).all():
        raise ValueError(f"thresholds must be numbers in ascending order, got {thresholds!r}")
    return edges


def averaged(values: Sequence[float], supports: Sequence[float], average: str) -> float | Tensor:
    """Return the average of the values of classes, as scikit-learn takes it.

    Args:
        values: The value of each class.
        supports: The sum of weights of the positives of each class.
        average: "macro" for the mean, "weighted" for the mean weighted by supports, in which NaN
            counts nothing without a support, or "none" for all values.
    """
    if average == "none":
        return torch.tensor(values, dtype=torch.float64)
    if average == "macro":
        return sum(values) / len(values)
    total = sum(supports)
    if not total:
        return 0.0
    return sum(v * s for v, s in zip(values, supports) if s) / total
