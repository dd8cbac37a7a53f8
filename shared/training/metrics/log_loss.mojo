"""The negative log-likelihood of labels under probabilities."""

from std.memory import unsafe_stack_allocation
from std.sys import simd_width_of

from ..core import log
from .row_mean import RowMean, RowSum
from .scores import BLOCK, ScoreBatch


def sum_log_losses(batch: ScoreBatch, eps: Float64) -> Float64:
    """Sums the log loss of rows: that of one score is its label's probability.

    Args:
        batch: Probabilities in [0, 1], read as float64: of the classes of each
            row, or of label 1 for one score a row.
        eps: Probabilities are clipped to `[eps, 1 - eps]`.

    Returns:
        The sum of `-log(p)` over the rows whose label is not ignored.
    """
    comptime W = simd_width_of[DType.float64]()
    comptime Lanes = SIMD[DType.float64, W]
    var labels = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var own = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var total = Float64(0)
    for start in range(0, batch.rows, BLOCK):
        var here = min(BLOCK, batch.rows - start)
        batch.labels.read(start, here, labels.unsafe_bitcast[NoneType]())
        if not batch.has_classes:
            batch.scores.read(start, here, own.unsafe_bitcast[NoneType]())
        var kept = 0
        for i in range(here):
            var label = Int(labels[unsafe_offset=i])
            if label == batch.ignore:
                continue
            if batch.has_classes:
                batch.scores.read(
                    (start + i) * batch.classes + label,
                    1,
                    own.unsafe_offset(kept).unsafe_bitcast[NoneType](),
                )
            else:
                var p = own[unsafe_offset=i]
                own[unsafe_offset=kept] = p if label == 1 else 1 - p
            kept += 1
        var sums = Lanes(0)
        var whole = kept // W * W
        for i in range(0, whole, W):
            var p = own.unsafe_load[width=W](i)
            sums -= log(min(max(p, Lanes(eps)), Lanes(1 - eps)))
        var part = sums.reduce_add()
        for i in range(whole, kept):
            part -= log(min(max(own[unsafe_offset=i], eps), 1 - eps))
        total += part
    return total


struct LogLossSum(RowSum):
    """Sums `-log(p)`, with `p` clipped by the machine epsilon.

    It is that of float64 for float64 and that of float32 for other dtypes, as
    in scikit-learn.
    """

    @staticmethod
    def add(batch: ScoreBatch, is_wide: Bool) -> Float64:
        """Sums the rows of a batch.

        Args:
            batch: Probabilities in [0, 1], read as float64, and labels.
            is_wide: Whether they are float64 in memory, too.

        Returns:
            The sum.
        """
        return sum_log_losses(batch, 2.0**-52 if is_wide else 2.0**-23)


comptime LogLoss = RowMean[LogLossSum]
"""The mean of `-log(p)`, where `p` is the probability of the label."""
