"""Counters of classes: what the metrics of classification are computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.backend import DTYPES, kernels_for
from hotloop.layout import Dtype
from hotloop.rows import Rows, scan_rows

__all__ = [
    "Array",
    "ClassCounts",
    "Counter",
    "Counts",
    "Place",
    "Totals",
    "as_labels",
    "count_class_scores",
    "one_size",
]

#: Numbers on the CPU: values are computed in NumPy, whose calls cost less than torch's.
Array: TypeAlias = "npt.NDArray[np.float64]"

#: Rows of scores that the kernel counts in one call, `BLOCK` in Mojo.
ROWS_MAX = 1024
#: Counters that it counts them by, `COUNTERS_MAX` in Mojo.
COUNTERS_MAX = 16
#: Scores from which a second thread is worth its start.
_THREADS_FROM = 32768
#: The bound of classes where there is none.
_UNBOUNDED = 2**63 - 1


class Counter:
    """What is counted, and the shape of the counters; `Counter` in Mojo."""

    #: (2,): correct samples, and all.
    SAMPLES = 0
    #: (3, C): correct, predicted and actual samples of each class.
    CLASSES = 1
    #: (C, C): samples of each class (row) by predicted class (column).
    CONFUSION = 2
    #: (L, 2, 2): the confusion matrix of each label, which is 0 or 1.
    LABELS = 3


class Place:
    """Where a value was found that is not allowed; `Place` in Mojo."""

    TARGET = 0
    PREDS = 1
    WEIGHT = 2
    END = 3


class Totals(NamedTuple):
    """Sums of weights for each class or label, in float64.

    Attributes:
        correct: Samples of the class that were predicted as it.
        predicted: Samples that were predicted as the class.
        actual: Samples of the class.
        samples: All samples.
    """

    correct: Array
    predicted: Array
    actual: Array
    samples: Array


class Counts(ABC):
    """What metrics of classification count; several of them may share one.

    Counters are int64, and float64 from the first weights on. They are kept on the device of the
    data. A value in the CPU's memory that is not allowed is raised at once, and nothing of its
    batch is counted. On other devices that would be waiting for them: there such a batch is left
    out, and `invalid` counts its values.

    Args:
        ignore_index: The target of samples that do not count; None if there is none.

    Attributes:
        counts: The counters; None while nothing was counted.
        invalid: How many values were not allowed.
    """

    def __init__(self, ignore_index: int | None) -> None:
        self.ignore_index = ignore_index
        self.counts: Tensor | None = None
        self.invalid: Tensor | int = 0
        self._is_weighted = False
        self._has_ignored = ignore_index is not None
        self._ignored = ignore_index or 0

    @property
    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """What is equal where metrics can share counters."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Counts:
        """Return new counters that count all that these do.

        Args:
            others: Counters with the same key.

        Raises:
            ValueError: If they are of different numbers of classes or labels.
        """

    @abstractmethod
    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count a batch.

        Raises:
            ValueError: If shapes, dtypes or values are not allowed. Nothing is counted then.
        """

    @abstractmethod
    def totals(self) -> Totals:
        """Return the sums for each class, or for the 1 of each label."""

    @abstractmethod
    def class_totals(self) -> Totals:
        """Return the sums for each class; labels are two classes, all labels together."""

    @abstractmethod
    def confusion(self) -> Tensor:
        """Return the confusion matrix, or that of each label, in the counters' dtype."""

    @abstractmethod
    def _check_shape(self, shape: torch.Size) -> None:
        """Raise ValueError if counters cannot have this shape."""

    @property
    def state(self) -> dict[str, Any]:
        """The counters, 0 while nothing was counted, and how many values were not allowed."""
        return {"counts": 0 if self.counts is None else self.counts, "invalid": self.invalid}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        counts = state["counts"]
        if isinstance(counts, Tensor):
            if counts.dtype not in (torch.int64, torch.float64):
                raise ValueError(f"counts must be torch.int64 or torch.float64, got {counts.dtype}")
            self._check_shape(counts.shape)
            # The kernels write to one counter behind the other.
            self._set(counts.contiguous())
        else:
            self._set(None)
        self.invalid = state["invalid"]

    def reset(self) -> None:
        """Forget everything counted."""
        self._set(None)
        self.invalid = 0

    def add(self, state: Mapping[str, Any]) -> None:
        """Count what another has counted.

        Raises:
            ValueError: If it has counted other classes. Nothing is counted then.
        """
        counts = state["counts"]
        if isinstance(counts, Tensor):
            self._check_shape(counts.shape)
            # Not in place: the counters may be another's, too.
            if self.counts is None:
                self._set(counts.clone())
            elif self.counts.shape == counts.shape:
                self._set(self.counts + counts.to(self.counts.device))
            else:
                raise ValueError(
                    "only counts of as many classes can be merged, got shape "
                    f"{tuple(counts.shape)} for {tuple(self.counts.shape)}"
                )
        self.invalid = self.invalid + state["invalid"]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return self.counts is None or not self.array().any()

    def array(self) -> Array:
        """Return a copy of the counters."""
        assert self.counts is not None
        return self.counts.cpu().numpy().astype(np.float64)

    def check(self) -> None:
        """Raise ValueError if values on another device than the CPU were not allowed."""
        invalid = int(self.invalid)
        if invalid:
            raise ValueError(
                f"{invalid} values of target, preds or weight were not allowed; the batches with "
                "them were not counted"
            )

    def _set(self, counts: Tensor | None) -> None:
        self.counts = counts
        self._is_weighted = counts is not None and counts.dtype is torch.float64

    def _counters(self, like: Tensor, shape: tuple[int, ...], is_weighted: bool) -> Tensor:
        """Return counters on the device of a batch, which are kept once it is counted."""
        dtype = torch.float64 if is_weighted or self._is_weighted else torch.int64
        counts = self.counts
        if counts is None:
            return torch.zeros(shape, dtype=dtype, device=like.device)
        if counts.dtype is dtype and counts.is_cpu and like.is_cpu:
            return counts
        return counts.to(like.device, dtype)

    def _weights(self, weight: Tensor, target: Tensor, shape: torch.Size) -> Tensor:
        """Return the weights of samples as the kernels read them."""
        if weight.shape != shape:
            raise ValueError(
                f"weight must have a value for each sample, shape {tuple(shape)}, got "
                f"{tuple(weight.shape)}"
            )
        if weight.device != target.device:
            raise ValueError(
                f"weight must be on the device of target, {target.device}, got {weight.device}"
            )
        return weight.detach().to(torch.float64).contiguous()

    def _screen(
        self,
        counts: Tensor,
        target: Tensor,
        is_allowed: tuple[Tensor, Tensor],
        weight: Tensor | None,
    ) -> tuple[Tensor, int]:
        """Return what each value adds, and the first that is not allowed as the kernels do.

        Args:
            counts: The counters.
            target: The target, flat.
            is_allowed: Whether each of target, and of preds, is.
            weight: The weight of each.
        """
        known = torch.ones_like(target, dtype=torch.bool)
        if self._has_ignored:
            known = target != self._ignored
        bad_target, bad_preds = (known & ~allowed for allowed in is_allowed)
        bad = bad_target | bad_preds
        bad_weight = torch.zeros_like(bad)
        if weight is not None:
            bad_weight = ~(weight >= 0) | weight.isinf()
        if not target.is_cpu:
            wrong = bad | bad_weight
            self.invalid = self.invalid + wrong.sum()
            known = known & ~wrong.any()
        elif bad_weight.any():
            return known, int(bad_weight.nonzero()[0]) * Place.END + Place.WEIGHT
        elif bad.any():
            first = int(bad.nonzero()[0])
            place = Place.TARGET if bad_target[first] else Place.PREDS
            return known, first * Place.END + place
        if weight is None:
            return known.to(counts.dtype), -1
        return torch.where(known, weight, 0.0), -1

    def _refuse(
        self, result: int, preds: Tensor, target: Tensor, weight: Tensor | None, allowed: str
    ) -> None:
        """Raise ValueError for the value that was found.

        Args:
            result: Its index times `Place.END` plus its place.
            preds: The predictions.
            target: The target.
            weight: The weights.
            allowed: What labels may be.
        """
        index, place = divmod(result, Place.END)
        if place == Place.WEIGHT:
            assert weight is not None
            name, tensor, allowed = "weight", weight, "finite and at least 0"
        elif place == Place.PREDS:
            name, tensor = "preds", preds
        else:
            name, tensor = "target", target
            if self._has_ignored:
                allowed += f" or ignore_index={self.ignore_index}"
        where = ", ".join(map(str, _unravelled(index, tensor.shape)))
        value = tensor.reshape(-1)[index].item()
        raise ValueError(f"{name}[{where}] is {value}, must be {allowed}")


def _unravelled(index: int, shape: torch.Size) -> list[int]:
    indices = []
    for size in reversed(shape):
        index, rest = divmod(index, size)
        indices.append(rest)
    return indices[::-1]


def as_labels(name: str, labels: Tensor) -> Tensor:
    """Return labels in a dtype that the kernels read.

    Raises:
        ValueError: If they are neither integers nor bools.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} must be an integer or bool tensor, got {labels.dtype}")
    return labels if labels.dtype in DTYPES else labels.to(torch.int64)


def one_size(name: str, sizes: Sequence[int | None]) -> int | None:
    """Return the number that all have which have one.

    Raises:
        ValueError: If they have different ones.
    """
    known = {size for size in sizes if size is not None}
    if len(known) > 1:
        raise ValueError(f"metrics that share counters must have one {name}, got {sorted(known)}")
    return known.pop() if known else None


class ClassCounts(Counts):
    """Counters of samples that have one of C classes.

    Args:
        counter: What is counted: `Counter.SAMPLES`, `CLASSES` or `CONFUSION`.
        num_classes: C; None to take it from the first scores.
        ignore_index: The target of samples that do not count; None if there is none.
        top_k: A sample is correct if its class is among as many highest scores. What else is
            predicted is not counted where it is more than 1, and labels cannot be counted.
    """

    def __init__(
        self,
        counter: int,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        top_k: int = 1,
    ) -> None:
        super().__init__(ignore_index)
        self.counter = counter
        self.num_classes = num_classes
        self.top_k = top_k

    @property
    def key(self) -> tuple[Any, ...]:
        """What is equal where metrics can share counters."""
        return ("classes", self.ignore_index, self.top_k)

    def joined(self, others: Sequence[ClassCounts]) -> ClassCounts:
        """Return new counters that count all that these do.

        Args:
            others: Counters with the same key.

        Raises:
            ValueError: If they are of different numbers of classes.
        """
        return ClassCounts(
            max(each.counter for each in others),
            one_size("num_classes", [each.num_classes for each in others]),
            self.ignore_index,
            self.top_k,
        )

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            preds: Predicted classes, of the shape of `target`, in any integer dtype; or scores,
                shape (N, C, ...): logits or probabilities, of which the first highest counts.
            target: Classes, shape (N, ...), any integer dtype.
            weight: The weight of each sample, of the shape of `target`; 1 by default.

        Raises:
            ValueError: If shapes, dtypes or values are not allowed. Nothing is counted then.
        """
        number = DTYPES.get(preds.dtype, -1)
        target_number = DTYPES.get(target.dtype, -1)
        if number < Dtype.INT64 or target_number < Dtype.INT64:
            if preds.is_floating_point():
                count_class_scores(preds, target, weight, (self,))
            else:
                self.update(as_labels("preds", preds), as_labels("target", target), weight)
            return
        if preds.shape != target.shape:
            raise ValueError(
                "preds must have the shape of target, or be scores of shape (N, C, ...), got "
                f"{preds.dtype} of shape {tuple(preds.shape)} for {tuple(target.shape)}"
            )
        if self.top_k > 1:
            raise ValueError(f"top_k={self.top_k} needs scores, got labels of {preds.dtype}")
        classes = self.num_classes
        if classes is None:
            if self.counter == Counter.SAMPLES:
                classes = _UNBOUNDED
            elif self.counts is None:
                raise ValueError(
                    "num_classes must be given where the first predictions are labels, not scores"
                )
            else:
                classes = self.counts.shape[-1]
        if weight is not None:
            weight = self._weights(weight, target, target.shape)
        self._count(preds, number, target, target_number, weight, classes, 0)

    def update_rows(self, rows: Rows, weight: Tensor | None = None) -> None:
        """Count rows of scores that were scanned.

        Args:
            rows: What was found in them.
            weight: The weight of each row; 1 by default.

        Raises:
            ValueError: If they have another number of classes than before, or rows were ignored
                that count here. Nothing is counted then.
        """
        if weight is not None:
            weight = self._weights(weight, rows.target, rows.target.shape)
        self._check_classes(rows.classes)
        if self.top_k > 1:
            preds, number, top_k = rows.rank, Dtype.INT32, self.top_k
        else:
            preds, number, top_k = rows.predicted, Dtype.INT64, 0
        self._count(preds, number, rows.target, Dtype.INT64, weight, rows.classes, top_k)

    def totals(self) -> Totals:
        """Return the sums for each class."""
        counts = self.array()
        if self.counter == Counter.CONFUSION:
            correct, predicted, actual = counts.diagonal(), counts.sum(0), counts.sum(1)
        else:
            correct, predicted, actual = counts
        return Totals(correct, predicted, actual, actual.sum())

    def class_totals(self) -> Totals:
        """Return the sums for each class."""
        return self.totals()

    def confusion(self) -> Tensor:
        """Return the confusion matrix."""
        assert self.counts is not None
        return self.counts.cpu()

    def take(self, other: ClassCounts) -> None:
        """Replace the counters by those of another, which counts at least as much.

        Args:
            other: Whose `key` is the same.
        """
        counts = other.counts
        if counts is not None and self.counter != other.counter:
            if other.counter == Counter.CONFUSION:
                counts = torch.stack((counts.diagonal(), counts.sum(0), counts.sum(1)))
            if self.counter == Counter.SAMPLES:
                counts = counts.sum(1)[::2]
        self._set(None if counts is None else counts.clone())
        self.invalid = other.invalid

    def _shape(self, classes: int) -> tuple[int, ...]:
        if self.counter == Counter.SAMPLES:
            return (2,)
        return (3 if self.counter == Counter.CLASSES else classes, classes)

    def _check_shape(self, shape: torch.Size) -> None:
        classes = shape[-1] if self.num_classes is None and shape else self.num_classes
        if shape != self._shape(classes or 0):
            raise ValueError(f"counts of shape {tuple(shape)} do not fit")

    def _check_classes(self, classes: int) -> None:
        """Raise ValueError if scores have another number of classes than before."""
        known = self.num_classes
        if known is None and self.counter != Counter.SAMPLES and self.counts is not None:
            known = self.counts.shape[-1]
        if known is not None and known != classes:
            raise ValueError(f"preds must be scores of {known} classes, got {classes}")
        if self.top_k > classes:
            raise ValueError(f"top_k={self.top_k} needs as many classes, got scores of {classes}")

    def _count(
        self,
        preds: Tensor,
        preds_number: int,
        target: Tensor,
        target_number: int,
        weight: Tensor | None,
        classes: int,
        top_k: int,
    ) -> None:
        counts = self._counters(target, self._shape(classes), weight is not None)
        kernels = kernels_for(preds, target)
        if kernels is None:
            counts, result = self._count_with_torch(counts, preds, target, weight, classes, top_k)
        else:
            if not (preds.is_contiguous() and target.is_contiguous()):
                preds, target = preds.contiguous(), target.contiguous()
            result = kernels.count_classes(
                self.counter,
                self._is_weighted or weight is not None,
                target.data_ptr(),
                target_number,
                preds.data_ptr(),
                preds_number,
                target.numel(),
                classes,
                self._has_ignored,
                self._ignored,
                top_k,
                0 if weight is None else weight.data_ptr(),
                counts.data_ptr(),
            )
        if result >= 0:
            bound = "at least 0" if classes == _UNBOUNDED else f"in [0, {classes})"
            self._refuse(result, preds, target, weight, bound)
        if counts is not self.counts:
            self._set(counts)

    def _count_with_torch(
        self,
        counts: Tensor,
        preds: Tensor,
        target: Tensor,
        weight: Tensor | None,
        classes: int,
        top_k: int,
    ) -> tuple[Tensor, int]:
        """Return new counters, and what the kernel returns."""
        predicted = preds.reshape(-1).to(torch.int64)
        actual = target.reshape(-1).to(torch.int64)
        is_allowed = (
            (actual >= 0) & (actual < classes),
            (predicted >= 0) & (predicted < classes),
        )
        flat = None if weight is None else weight.reshape(-1)
        amount, result = self._screen(counts, actual, is_allowed, flat)
        if result >= 0:
            return counts, result
        # What adds nothing may be anything, but not outside of the counters.
        actual = torch.where(amount != 0, actual, 0)
        predicted = torch.where(amount != 0, predicted, 0)
        hits = amount * (predicted < top_k if top_k else predicted == actual)
        if self.counter == Counter.SAMPLES:
            return counts + torch.stack((hits.sum(), amount.sum())), -1
        # Not in place: a tensor of torch's inference mode refuses that outside of it.
        if self.counter == Counter.CONFUSION:
            cells = counts.view(-1).scatter_add(0, actual * classes + predicted, amount)
            return cells.view(classes, classes), -1
        correct = counts[0].scatter_add(0, actual, hits)
        if top_k:
            chosen = counts[1].scatter_add(0, actual, hits)
        else:
            chosen = counts[1].scatter_add(0, predicted, amount)
        return torch.stack((correct, chosen, counts[2].scatter_add(0, actual, amount))), -1


def count_class_scores(
    preds: Tensor, target: Tensor, weight: Tensor | None, counters: Sequence[ClassCounts]
) -> None:
    """Count a batch of scores by several counters in one pass over the scores.

    Args:
        preds: Scores, shape (N, C, ...).
        target: Classes, shape (N, ...), any integer dtype.
        weight: The weight of each sample, of the shape of `target`; or None.
        counters: At least one; all have the same `ignore_index`.

    Raises:
        ValueError: If shapes, dtypes or values are not allowed. Nothing is counted then.
    """
    shape, target_shape = preds.shape, target.shape
    is_flat = len(shape) == 2
    if target_shape != (shape[:1] if is_flat else (*shape[:1], *shape[2:])) or len(shape) < 2:
        raise ValueError(
            "preds must have shape (N, C, ...) and target shape (N, ...), got "
            f"{tuple(shape)} and {tuple(target_shape)}"
        )
    first = counters[0]
    if weight is not None:
        weight = first._weights(weight, target, target_shape).view(-1)
    rows, classes = shape[0], shape[1]
    if not is_flat:
        preds, target = preds.movedim(1, -1).reshape(-1, classes), target.reshape(-1)
        rows = len(target)
    for counter in counters:
        counter._check_classes(classes)
    kernels = kernels_for(preds, target)
    scores_number = DTYPES.get(preds.dtype)
    if (
        kernels is not None
        and scores_number is not None
        and rows <= ROWS_MAX
        and rows * classes < _THREADS_FROM
        and len(counters) <= COUNTERS_MAX
    ):
        target_number = DTYPES.get(target.dtype, -1)
        if target_number < Dtype.INT64:
            target = as_labels("target", target)
            target_number = Dtype.INT64
        if not target.is_contiguous():
            target = target.contiguous()
        stride = preds.stride()
        if stride[1] != 1:
            preds = preds.contiguous()
            stride = preds.stride()
        words: list[int] = []
        ready = []
        for counter in counters:
            counts = counter._counters(target, counter._shape(classes), weight is not None)
            is_weighted = counter._is_weighted or weight is not None
            top_k = counter.top_k if counter.top_k > 1 else 0
            words += counter.counter, is_weighted, top_k, counts.data_ptr()
            ready.append(counts)
        result = kernels.count_class_scores(
            target.data_ptr(),
            target_number,
            preds.data_ptr(),
            scores_number,
            stride[0],
            rows,
            classes,
            first._has_ignored,
            first._ignored,
            0 if weight is None else weight.data_ptr(),
            *words,
        )
        if result < 0:
            for counter, counts in zip(counters, ready):
                if counts is not counter.counts:
                    counter._set(counts)
            return
    # Of what is not allowed, this raises the error.
    scanned = scan_rows(preds, target, ignore_index=first.ignore_index)
    for counter in counters:
        counter.update_rows(scanned, weight)
