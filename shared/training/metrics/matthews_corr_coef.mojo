"""The correlation of target and predictions."""

from std.math import sqrt

from .class_counts import ClassCounts, Counter
from .class_metric import ClassFormula, ClassMetric


struct MatthewsCorrCoefFormula(ClassFormula):
    """The correlation of target and predictions as vectors of classes.

    With c correct of s samples, t_k of class k and p_k predicted as it:
    `(c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2))`, and 0 for
    0 / 0 (Gorodkin, 2004).
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
        var samples = counts.samples()
        var correct = 0.0
        var products = 0.0
        var of_preds = samples * samples
        var of_target = samples * samples
        for i in range(counts.classes):
            var totals = counts.totals(i)
            correct += totals.correct
            products += totals.predicted * totals.actual
            of_preds -= totals.predicted * totals.predicted
            of_target -= totals.actual * totals.actual
        var square = of_preds * of_target
        if square == 0:
            return 0
        return (correct * samples - products) / sqrt(square)


comptime MatthewsCorrCoef[dtype: DType = DType.int64] = ClassMetric[
    MatthewsCorrCoefFormula, dtype
]
"""The correlation of target and predictions.

Parameters:
    dtype: The dtype of the counters: int64, or float64 for weights.
"""
