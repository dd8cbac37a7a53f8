"""The average precision of scores."""

from ..core import Words
from .curve import BinnedMetric, CurveValue, RankedMetric
from .ranking import average_precision


struct PrecisionArea(CurveValue):
    """The sum of precisions times gains in recall, 0 without positives."""

    @staticmethod
    def of_ranking[dtype: DType](ranking: Words) -> Float64:
        """Computes the sum over the distinct scores.

        Parameters:
            dtype: The dtype of the scores, float32 or float64.

        Args:
            ranking: What `rank_scores` told.

        Returns:
            The sum.
        """
        return average_precision[dtype](ranking)

    @staticmethod
    def of_bins(
        negatives: Span[Int64, _], positives: Span[Int64, _]
    ) -> Float64:
        """Computes the sum over the thresholds.

        Args:
            negatives: The counts of bins.
            positives: Those of positives.

        Returns:
            The sum.
        """
        var fps = Int64(0)
        var tps = Int64(0)
        var sum = Float64(0)
        for b in reversed(range(1, len(negatives))):
            fps += negatives[b]
            tps += positives[b]
            if positives[b] > 0:
                sum += Float64(positives[b]) * Float64(tps) / Float64(tps + fps)
        var total = tps + positives[0]
        return sum / Float64(total) if total > 0 else 0


comptime AveragePrecision[dtype: DType = DType.float32] = RankedMetric[
    PrecisionArea, dtype
]
"""The exact average precision of scores of label 1.

Parameters:
    dtype: The dtype of the scores: float32, float64, bfloat16 or float16.
"""

comptime BinnedAveragePrecision = BinnedMetric[PrecisionArea]
"""The average precision at thresholds, of one label or of classes."""
