"""Precision, recall, and what is made of them."""

from .class_counts import Totals
from .class_metric import Average, ClassMetric, ClassRatio


struct PrecisionRatio(ClassRatio):
    """TP / (TP + FP)."""

    def __init__(out self):
        """Has no options."""
        pass

    def numerator(self, totals: Totals) -> Float64:
        """Computes the numerator.

        Args:
            totals: The sums of a class.

        Returns:
            The numerator.
        """
        return totals.correct

    def denominator(self, totals: Totals) -> Float64:
        """Computes the denominator.

        Args:
            totals: The sums of a class.

        Returns:
            The denominator.
        """
        return totals.predicted


struct RecallRatio(ClassRatio):
    """TP / (TP + FN)."""

    def __init__(out self):
        """Has no options."""
        pass

    def numerator(self, totals: Totals) -> Float64:
        """Computes the numerator.

        Args:
            totals: The sums of a class.

        Returns:
            The numerator.
        """
        return totals.correct

    def denominator(self, totals: Totals) -> Float64:
        """Computes the denominator.

        Args:
            totals: The sums of a class.

        Returns:
            The denominator.
        """
        return totals.actual


struct SpecificityRatio(ClassRatio):
    """TN / (TN + FP)."""

    def __init__(out self):
        """Has no options."""
        pass

    def numerator(self, totals: Totals) -> Float64:
        """Computes the numerator.

        Args:
            totals: The sums of a class.

        Returns:
            The numerator.
        """
        return (
            totals.samples - totals.actual - totals.predicted + totals.correct
        )

    def denominator(self, totals: Totals) -> Float64:
        """Computes the denominator.

        Args:
            totals: The sums of a class.

        Returns:
            The denominator.
        """
        return totals.samples - totals.actual


@fieldwise_init
struct FBetaRatio(ClassRatio):
    """(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)."""

    var beta: Float64
    """The weight of recall, at least 0."""

    def __init__(out self):
        """Weighs precision and recall alike."""
        self.beta = 1

    def numerator(self, totals: Totals) -> Float64:
        """Computes the numerator.

        Args:
            totals: The sums of a class.

        Returns:
            The numerator.
        """
        return (1 + self.beta * self.beta) * totals.correct

    def denominator(self, totals: Totals) -> Float64:
        """Computes the denominator.

        Args:
            totals: The sums of a class.

        Returns:
            The denominator.
        """
        return self.beta * self.beta * totals.actual + totals.predicted


comptime Precision[
    average: StaticString = "macro", dtype: DType = DType.int64
] = ClassMetric[Average[PrecisionRatio, average], dtype]
"""How many of those predicted as a class are of it.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""

comptime Recall[
    average: StaticString = "macro", dtype: DType = DType.int64
] = ClassMetric[Average[RecallRatio, average], dtype]
"""How many of a class are predicted as it.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""

comptime Specificity[
    average: StaticString = "macro", dtype: DType = DType.int64
] = ClassMetric[Average[SpecificityRatio, average], dtype]
"""How many of the other classes are not predicted as a class.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""

comptime FBeta[
    average: StaticString = "macro", dtype: DType = DType.int64
] = ClassMetric[Average[FBetaRatio, average], dtype]
"""The mean of precision and recall with `beta` of its ratio.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""

comptime F1[
    average: StaticString = "macro", dtype: DType = DType.int64
] = ClassMetric[Average[FBetaRatio, average], dtype]
"""The harmonic mean of precision and recall.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""
