"""Which classes are taken for which."""

from .class_counts import ClassCounts, Counter

comptime ConfusionMatrix[dtype: DType = DType.int64] = ClassCounts[
    Counter.CONFUSION, dtype
]
"""Samples of each class (row) by predicted class (column), in its `counts`.

Parameters:
    dtype: The dtype of the counters: int64, or float64 for weights.
"""


def normalized[
    dtype: DType, //, by: StaticString
](counts: ClassCounts[Counter.CONFUSION, dtype]) -> List[Float64]:
    """Divides a confusion matrix by sums.

    Parameters:
        dtype: The dtype of the counters.
        by: What is summed: "true" for rows, "pred" for columns, "all".

    Args:
        counts: The confusion matrix.

    Returns:
        The quotients, row by row; 0 for 0 / 0.
    """
    comptime assert (
        by == "true" or by == "pred" or by == "all"
    ), "by must be true, pred or all"
    var quotients: List[Float64] = []
    for i in range(counts.classes):
        for j in range(counts.classes):
            var sum: Float64
            comptime if by == "true":
                sum = counts.totals(i).actual
            elif by == "pred":
                sum = counts.totals(j).predicted
            else:
                sum = counts.samples()
            var count = counts.counts[i * counts.classes + j]
            quotients.append(
                count.cast[DType.float64]() / sum if sum > 0 else 0.0
            )
    return quotients^
