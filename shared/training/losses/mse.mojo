"""The squared error."""

from .pointwise import PointwiseLoss, Slope


@fieldwise_init
struct SquaredError(PointwiseLoss):
    """`(p - t)^2` of a prediction p and its target t."""

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
        var difference = pred - target
        return Slope(difference * difference, difference + difference)
