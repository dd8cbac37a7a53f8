"""The overlap of target and predictions."""

from .class_counts import Totals
from .class_metric import Average, ClassMetric, ClassRatio


struct JaccardRatio(ClassRatio):
    """TP / (TP + FP + FN)."""

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
        return totals.actual + totals.predicted - totals.correct


comptime Jaccard[
    average: StaticString = "macro", dtype: DType = DType.int64
] = ClassMetric[Average[JaccardRatio, average], dtype]
"""The intersection over union of a class.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""
