"""The area under the ROC curve."""

from std.utils.numerics import nan

from ..core import Words
from .curve import BinnedMetric, CurveValue, RankedMetric
from .ranking import area_under_roc


struct AreaUnderROC(CurveValue):
    """The area under the ROC curve, NaN unless there are both labels."""

    @staticmethod
    def of_ranking[dtype: DType](ranking: Words) -> Float64:
        """Computes the fraction of pairs in order, ties counting half.

        Parameters:
            dtype: The dtype of the scores, float32 or float64.

        Args:
            ranking: What `rank_scores` told.

        Returns:
            The area.
        """
        return area_under_roc[dtype](ranking)

    @staticmethod
    def of_bins(
        negatives: Span[Int64, _], positives: Span[Int64, _]
    ) -> Float64:
        """Computes the area under the points at thresholds by trapezoids.

        Args:
            negatives: The counts of bins.
            positives: Those of positives.

        Returns:
            The area; as in torchmetrics it begins at the highest threshold.
        """
        var last = len(negatives) - 1
        var fps = negatives[last]
        var tps = positives[last]
        var area = Int64(0)
        for b in reversed(range(1, last)):
            area += negatives[b] * (2 * tps + positives[b])
            fps += negatives[b]
            tps += positives[b]
        fps += negatives[0]
        tps += positives[0]
        if fps == 0 or tps == 0:
            return nan[DType.float64]()
        return Float64(area) / (2 * Float64(fps) * Float64(tps))


comptime AUROC[dtype: DType = DType.float32] = RankedMetric[AreaUnderROC, dtype]
"""The exact area under the ROC curve of scores of label 1.

Parameters:
    dtype: The dtype of the scores: float32, float64, bfloat16 or float16.
"""

comptime BinnedAUROC = BinnedMetric[AreaUnderROC]
"""The area under the ROC curve at thresholds, of one label or of classes."""
