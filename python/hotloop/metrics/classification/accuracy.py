"""How many predictions are right."""

from __future__ import annotations

from torch import Tensor

from hotloop.argument import check_count
from hotloop.metrics.classification.class_counts import Counter, Counts
from hotloop.metrics.classification.class_metric import ClassMetric, average_of, check_average

__all__ = ["Accuracy", "TopKAccuracy"]


class Accuracy(ClassMetric):
    """The fraction of samples whose prediction is right, in [0, 1].

        correct / samples

    For "multiclass", "micro" is that of all samples; the accuracy of one class is the fraction
    of its samples that are right, its recall, of which "macro" is the mean over the classes that
    occur in target or predictions, 0 for one that is not in the target. For "binary" and
    "multilabel" it is (TP + TN) / all, of each label; scikit-learn's `accuracy_score` of several
    labels is something else, the fraction of samples that are right in all of them.

    Args:
        task: "binary", "multiclass" or "multilabel"; see `ClassMetric`.
        num_classes: The number of classes, for "multiclass"; None to take it from the first
            scores. Labels need it, unless the average is "micro".
        num_labels: The number of labels, for "multilabel"; None to take it from the first batch.
        average: "micro", "macro", "weighted" by the samples of each class, or "none" or None for
            the value of each.
        top_k: A sample is right if its class is among as many highest scores, of equal ones those
            with the lower index; for scores of "multiclass". The mean over classes is then one
            over those in the target.
        threshold: The probability from which on 1 is predicted, itself excluded; in [0, 1].
        logits: Whether scores of "binary" and "multilabel" are logits, not probabilities.
        ignore_index: The target of samples, or labels, that do not count; None if there is none.
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        average: str | None = "micro",
        top_k: int = 1,
        threshold: float = 0.5,
        logits: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        self.average = check_average(average)
        check_count("top_k", top_k)
        if top_k > 1 and task != "multiclass":
            raise ValueError(f"top_k is for the task 'multiclass', not {task!r}")
        self.top_k = top_k
        super().__init__(
            task,
            num_classes,
            num_labels,
            threshold=threshold,
            logits=logits,
            ignore_index=ignore_index,
            counter=Counter.SAMPLES if self.average == "micro" else Counter.CLASSES,
            top_k=top_k,
        )

    def _value(self, counts: Counts) -> float | Tensor:
        if self.task == "multiclass" and self.average == "micro":
            assert counts.counts is not None
            correct, samples = counts.counts.tolist()
            return float(correct / samples)
        totals = counts.totals()
        right, samples = totals.correct, totals.actual
        if self.task != "multiclass":
            right = totals.samples - totals.actual - totals.predicted + 2 * totals.correct
            samples = totals.samples
        if self.task == "binary":
            return float((right / samples)[0])
        return average_of(
            totals, right, samples, self.average, 0.0, is_multilabel=self.task == "multilabel"
        )


class TopKAccuracy(Accuracy):
    """The fraction of samples whose class is among the k highest scores, in [0, 1].

        (samples with rank < k) / samples

    where the rank of a sample is the number of classes that have a higher score than its own. Of
    equal scores the one with the lower index is the higher. (scikit-learn's
    `top_k_accuracy_score` takes that with the higher index.)

    Args:
        top_k: How many scores; at most the number of classes.
        num_classes: The number of classes; None to take it from the first scores.
        average: As for `Accuracy`.
        ignore_index: The target of samples that do not count; None if there is none.
    """

    tasks = ("multiclass",)

    def __init__(
        self,
        top_k: int = 5,
        *,
        num_classes: int | None = None,
        average: str | None = "micro",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes, average=average, top_k=top_k, ignore_index=ignore_index
        )
