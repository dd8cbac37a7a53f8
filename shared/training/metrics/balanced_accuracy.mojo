"""Accuracy that does not depend on how often classes occur."""

from std.utils.numerics import inf, nan

from .class_counts import ClassCounts, Counter
from .class_metric import ClassFormula, ClassMetric


struct BalancedAccuracyFormula[adjusted: Bool = False](ClassFormula):
    """The mean recall of the classes that occur in the target.

    Parameters:
        adjusted: Whether the value v is turned into (v - 1 / n) / (1 - 1 / n)
            for n such classes; of one it is NaN for v = 1, else -infinity.
    """

    comptime COUNTER = Counter.CLASSES
    """What has to be counted."""

    def __init__(out self):
        """Has no options."""
        pass

    def value[
        dtype: DType
    ](self, counts: ClassCounts[Self.COUNTER, dtype]) raises -> Float64:
        """Computes the value.

        Parameters:
            dtype: The dtype of the counters.

        Args:
            counts: Counters that have counted something.

        Returns:
            The value.

        Raises:
            Error: Never.
        """
        var sum = 0.0
        var occurring = 0
        for i in range(counts.classes):
            var totals = counts.totals(i)
            if totals.actual > 0:
                sum += totals.correct / totals.actual
                occurring += 1
        var mean = sum / Float64(occurring)
        comptime if Self.adjusted:
            if occurring == 1:
                return (
                    nan[DType.float64]() if mean == 1 else -inf[DType.float64]()
                )
            var chance = 1 / Float64(occurring)
            return (mean - chance) / (1 - chance)
        else:
            return mean


comptime BalancedAccuracy[
    adjusted: Bool = False, dtype: DType = DType.int64
] = ClassMetric[BalancedAccuracyFormula[adjusted], dtype]
"""The mean recall of the classes that occur in the target.

Parameters:
    adjusted: Whether guesses have the value 0.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""
