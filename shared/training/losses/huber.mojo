"""The loss of Huber (1964): squared errors that become linear."""

from .pointwise import PointwiseLoss, Slope


@fieldwise_init
struct HuberLoss(PointwiseLoss):
    """`d^2 / 2` of a difference d up to `delta`, `delta (|d| - delta / 2)` from there."""

    var delta: Float64
    """Where it becomes linear, above 0."""

    @always_inline
    def evaluate[
        dtype: DType, width: Int
    ](
        self,
        pred: SIMD[dtype, width],
        target: SIMD[dtype, width],
        positive: SIMD[dtype, width],
    ) -> Slope[dtype, width]:
        """Computes losses and derivatives in registers.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            pred: The predictions.
            target: What they should be.
            positive: Not used.

        Returns:
            Both.
        """
        comptime Lanes = SIMD[dtype, width]
        var delta = Lanes(self.delta.cast[dtype]())
        var difference = pred - target
        var size = abs(difference)
        # Comparisons with NaN are false, which keeps it.
        var slope = difference.gt(delta).select(delta, difference)
        slope = slope.lt(-delta).select(-delta, slope)
        var limit = size.gt(delta).select(delta, size)
        return Slope(limit * (size - limit * Lanes(0.5)), slope)
