"""The squared distance of probabilities from what came about."""

from std.memory import unsafe_stack_allocation
from std.sys import simd_width_of

from .row_mean import RowMean, RowSum
from .scores import BLOCK, ScoreBatch


def sum_brier_scores(batch: ScoreBatch) -> Float64:
    """Sums the squared errors of the probabilities of all rows.

    Args:
        batch: Probabilities, read as float64: of the classes of each row, or of
            label 1 for each score.

    Returns:
        The sum of `(p - y) ** 2` where the label is not ignored, with y of 1
        for the probability of what came about and 0 for the others.
    """
    comptime W = simd_width_of[DType.float64]()
    var errors = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var labels = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var classes = batch.classes
    var width = min(classes, BLOCK)
    var height = BLOCK // width
    var total = Float64(0)
    for row in range(0, batch.rows, height):
        var rows = min(height, batch.rows - row)
        # Rows that are longer than a block come one at a time, in pieces.
        for column in range(0, classes, width):
            var columns = min(width, classes - column)
            var start = row * classes + column
            var count = rows * columns
            batch.scores.read(start, count, errors.unsafe_bitcast[NoneType]())
            if batch.has_classes:
                batch.labels.read(row, rows, labels.unsafe_bitcast[NoneType]())
                for r in range(rows):
                    var label = Int(labels[unsafe_offset=r])
                    var own = errors.unsafe_offset(r * columns)
                    if label == batch.ignore:
                        for c in range(columns):
                            own[unsafe_offset=c] = 0
                    elif column <= label < column + columns:
                        own[unsafe_offset=label - column] -= 1
            else:
                batch.labels.read(
                    start, count, labels.unsafe_bitcast[NoneType]()
                )
                for i in range(count):
                    var label = labels[unsafe_offset=i]
                    if Int(label) == batch.ignore:
                        errors[unsafe_offset=i] = 0
                    else:
                        errors[unsafe_offset=i] -= label.cast[DType.float64]()
            var sums = SIMD[DType.float64, W](0)
            var whole = count // W * W
            for i in range(0, whole, W):
                var error = errors.unsafe_load[width=W](i)
                sums += error * error
            var part = sums.reduce_add()
            for i in range(whole, count):
                part += errors[unsafe_offset=i] * errors[unsafe_offset=i]
            total += part
    return total


struct BrierSum(RowSum):
    """Sums squared errors, halved for two classes, as in scikit-learn."""

    @staticmethod
    def add(batch: ScoreBatch, is_wide: Bool) -> Float64:
        """Sums the rows of a batch.

        Args:
            batch: Probabilities, read as float64, and labels.
            is_wide: Not used.

        Returns:
            The sum.
        """
        # One probability of two has half of the errors.
        return sum_brier_scores(batch) * (0.5 if batch.classes == 2 else 1.0)


comptime BrierScore = RowMean[BrierSum]
"""The mean squared error of probabilities, summed over classes."""
