"""The agreement of target and predictions beyond chance."""

from std.utils.numerics import nan

from .class_counts import ClassCounts, Counter
from .class_metric import ClassFormula, ClassMetric


struct CohenKappaFormula[weights: StaticString = "none"](ClassFormula):
    """1 - observed / expected disagreement (Cohen, 1960).

    Parameters:
        weights: The weight of class i for class j: "none" is 1, "linear" is
            |i - j|, "quadratic" is (i - j)^2.
    """

    comptime COUNTER = Counter.CONFUSION
    """What has to be counted."""

    def __init__(out self):
        """Has no options."""
        comptime assert (
            Self.weights == "none"
            or Self.weights == "linear"
            or Self.weights == "quadratic"
        ), "weights must be none, linear or quadratic"

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
        var observed = 0.0
        var expected = 0.0
        var predicted = List[Float64](length=counts.classes, fill=0)
        for j in range(counts.classes):
            predicted[j] = counts.totals(j).predicted
        for i in range(counts.classes):
            var actual = counts.totals(i).actual
            for j in range(counts.classes):
                var weight = Float64(abs(i - j))
                comptime if Self.weights == "none":
                    weight = min(weight, 1)
                elif Self.weights == "quadratic":
                    weight *= weight
                observed += (
                    weight
                    * counts.counts[i * counts.classes + j].cast[
                        DType.float64
                    ]()
                )
                expected += weight * (actual * predicted[j] / samples)
        if expected == 0:
            return nan[DType.float64]()
        return 1 - observed / expected


comptime CohenKappa[
    weights: StaticString = "none", dtype: DType = DType.int64
] = ClassMetric[CohenKappaFormula[weights], dtype]
"""The agreement of target and predictions beyond chance; NaN for one class.

Parameters:
    weights: "none", "linear" or "quadratic"; see `CohenKappaFormula`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""
