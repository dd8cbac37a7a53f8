"""What the metrics of classification have in common."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hotloop.argument import check_count, check_number
from hotloop.errors import unknown_name
from hotloop.metrics.classification.class_counts import Array, ClassCounts, Counter, Counts, Totals
from hotloop.metrics.classification.label_counts import LabelCounts
from hotloop.metrics.metric import Metric, State
from hotloop.rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ClassMetric", "ClassRatio", "average_of", "check_average", "divide"]

TASKS = ("binary", "multiclass", "multilabel")
AVERAGES = ("micro", "macro", "weighted", "none")


class ClassMetric(Metric):
    """A metric that is computed from counters of classes.

    Three tasks: "binary" is a label of 0 or 1 for each sample, shape (N, ...); "multiclass" one
    of C classes, shape (N, ...), predicted by labels or by scores of shape (N, C, ...), of which
    the first highest counts; "multilabel" L labels of 0 or 1, shape (N, L, ...).

    Scores of "binary" and "multilabel" predict 1 above `threshold`. They are probabilities, and
    one outside of [0, 1] is an error, unless `logits` is true: then they are compared with
    log(threshold / (1 - threshold)). (torchmetrics takes scores for logits if one of the batch is
    outside of [0, 1].)

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for "multiclass"; None to take it from the first scores.
        num_labels: L, for "multilabel"; None to take it from the first batch.
        threshold: The probability from which on 1 is predicted, itself excluded; in [0, 1].
        logits: Whether scores of "binary" and "multilabel" are logits.
        ignore_index: The target of samples, or labels, that do not count; None if there is none.
        counter: What is counted of "multiclass", a `Counter`.
        top_k: As many highest scores count as predicted, for "multiclass".

    Attributes:
        tasks: The tasks that the metric is defined for.
    """

    higher_is_better: ClassVar[bool | None] = True
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def __init__(
        self,
        task: str,
        num_classes: int | None,
        num_labels: int | None,
        *,
        threshold: float,
        logits: bool,
        ignore_index: int | None,
        counter: int = Counter.CLASSES,
        top_k: int = 1,
    ) -> None:
        if task not in self.tasks:
            raise ValueError(unknown_name("task", task, self.tasks))
        check_count("num_classes", num_classes, 2, is_optional=True)
        check_count("num_labels", num_labels, is_optional=True)
        check_number("threshold", threshold, 0, 1)
        if num_classes is not None and task != "multiclass":
            raise ValueError(f"num_classes is for the task 'multiclass', not {task!r}")
        if num_labels is not None and task != "multilabel":
            raise ValueError(f"num_labels is for the task 'multilabel', not {task!r}")
        self.task = task
        self.num_classes = num_classes
        self.num_labels = num_labels
        self.threshold = threshold
        self.logits = logits
        self.ignore_index = ignore_index
        self._counts: Counts
        if task == "multiclass":
            self._counts = ClassCounts(counter, num_classes, ignore_index, top_k)
        else:
            self._counts = LabelCounts(task, num_labels, threshold, logits, ignore_index)

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            preds: Predicted labels, of any integer dtype or bool, of the shape of `target`; or
                scores in float32, float64, bfloat16 or float16, of that shape too, or, for
                "multiclass", of shape (N, C, ...).
            target: Labels, of any integer dtype or bool; shape (N, ...), or (N, L, ...) for
                "multilabel".
            weight: A factor of at least 0 for each sample, shape (N, ...); 1 by default. Classes
                of weight 0 have not occurred.

        Raises:
            ValueError: If a shape or dtype does not fit, a label is not allowed or a score is
                NaN; the text names the first such value. Nothing of the batch is counted then.
        """
        self._counts.update(preds, target, weight)

    def update_rows(self, rows: Rows, weight: Tensor | None = None) -> None:
        """Count a batch of scores that `scan_rows` or a loss has read, for "multiclass".

        Args:
            rows: What was found, with the `ignore_index` of this metric.
            weight: A factor of at least 0 for each row; 1 by default.

        Raises:
            ValueError: If the task is another one, or the number of classes was another.
        """
        if not isinstance(self._counts, ClassCounts):
            raise ValueError(f"rows of scores are for the task 'multiclass', not {self.task!r}")
        self._counts.update_rows(rows, weight)

    def compute(self) -> Any:
        """Return the value over everything counted since the last `reset`.

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If values on another device than the CPU were not allowed.
        """
        counts = self._counts
        counts.check()
        if counts.is_empty:
            raise self._empty()
        return self._value(counts)

    @abstractmethod
    def _value(self, counts: Counts) -> Any:
        """Return the value of counters that have counted something."""

    def __copy__(self) -> Self:
        # Counters are written to in place.
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, _counts=copy.deepcopy(self._counts))
        return new

    @property
    def counts(self) -> Counts:
        """What it has counted."""
        return self._counts

    @property
    def _state(self) -> State:
        return self._counts.state

    @_state.setter
    def _state(self, state: State) -> None:
        self._counts.state = state

    def _initial(self) -> State:
        return {"counts": 0, "invalid": 0}

    def _combine(self, other: Mapping[str, Any]) -> None:
        self._counts.add(other)


class ClassRatio(ClassMetric):
    """A metric that is a ratio of counts for each class or label, and an average of those.

    Averages: "micro" divides the sums over all classes; "macro" is the mean over the classes that
    occur in target or predictions, or over all labels of "multilabel"; "weighted" weights that
    mean by the samples of each class; "none" returns all, float64 of shape (C,) or (L,). For
    "binary" the value is that of 1, whatever the average.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for "multiclass"; None to take it from the first scores.
        num_labels: L, for "multilabel"; None to take it from the first batch.
        average: "micro", "macro", "weighted", or "none" or None.
        threshold: The probability from which on 1 is predicted, itself excluded; in [0, 1].
        logits: Whether scores of "binary" and "multilabel" are logits.
        ignore_index: The target of samples, or labels, that do not count; None if there is none.
        zero_division: The value of 0 / 0: 0, 1 or NaN; NaN is left out of means.
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        average: str | None = "macro",
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
        zero_division: float = 0.0,
    ) -> None:
        super().__init__(
            task,
            num_classes,
            num_labels,
            threshold=threshold,
            logits=logits,
            ignore_index=ignore_index,
        )
        if zero_division not in (0, 1) and not math.isnan(zero_division):
            raise ValueError(f"zero_division must be 0, 1 or NaN, got {zero_division!r}")
        self.average = check_average(average)
        # One NaN for all: options are compared.
        self.zero_division = math.nan if math.isnan(zero_division) else float(zero_division)

    @abstractmethod
    def _ratio(self, totals: Totals) -> tuple[Array, Array]:
        """Return numerator and denominator for each class, which add up over classes."""

    def _value(self, counts: Counts) -> float | Tensor:
        totals = counts.totals()
        numerator, denominator = self._ratio(totals)
        if self.task == "binary":
            return float(divide(numerator, denominator, self.zero_division)[0])
        return average_of(
            totals,
            numerator,
            denominator,
            self.average,
            self.zero_division,
            is_multilabel=self.task == "multilabel",
        )


def check_average(average: str | None) -> str:
    """Return the name of an average; "none" for None.

    Raises:
        ValueError: If there is no such average.
    """
    name = "none" if average is None else average
    if name not in AVERAGES:
        raise ValueError(unknown_name("average", name, AVERAGES))
    return name


def divide(numerator: Array, denominator: Array, zero_division: float) -> Array:
    """Return quotients, and `zero_division` where the denominator is 0."""
    is_zero = denominator == 0
    if is_zero.any():
        quotients = numerator / np.where(is_zero, 1.0, denominator)
        return np.where(is_zero, zero_division, quotients)
    return numerator / denominator


def average_of(
    totals: Totals,
    numerator: Array,
    denominator: Array,
    average: str,
    zero_division: float,
    *,
    is_multilabel: bool,
) -> float | Tensor:
    """Return an average of ratios as scikit-learn forms it.

    Args:
        totals: What was counted.
        numerator: The numerators, shape (C,).
        denominator: The denominators, shape (C,).
        average: "micro", "macro", "weighted" or "none".
        zero_division: The value of 0 / 0, which is left out of means if it is NaN.
        is_multilabel: Whether labels that do not occur count, too.

    Returns:
        A float, or the ratios for "none".
    """
    if average == "micro":
        return float(divide(numerator.sum(), denominator.sum(), zero_division))
    ratios = divide(numerator, denominator, zero_division)
    if average == "none":
        return torch.from_numpy(ratios)
    known = ~np.isnan(ratios)
    if not is_multilabel:
        known &= (totals.actual + totals.predicted) > 0
    ratios, weights = ratios[known], totals.actual[known]
    if not len(ratios):
        return math.nan
    if average == "macro" or not weights.any():
        return float(ratios.mean())
    return float(ratios @ weights / weights.sum())
