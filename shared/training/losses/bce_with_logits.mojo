"""Cross entropy of yes-or-no questions, from logits."""

from ..core.exponential import exp, log1p
from .pointwise import PointwiseLoss, Slope


@fieldwise_init
struct Sigmoid[dtype: DType, width: Int](ImplicitlyCopyable, Movable):
    """The sigmoid of logits and of their negatives, and minus their logarithms.

    Parameters:
        dtype: The dtype of the arithmetic.
        width: How many lanes.
    """

    var yes: SIMD[Self.dtype, Self.width]
    """`1 / (1 + e^-x)`."""
    var no: SIMD[Self.dtype, Self.width]
    """`1 / (1 + e^x)`."""
    var missed_yes: SIMD[Self.dtype, Self.width]
    """`log(1 + e^-x)`, the loss of the target 1."""
    var missed_no: SIMD[Self.dtype, Self.width]
    """`log(1 + e^x)`, the loss of the target 0."""

    @always_inline
    def __init__(out self, logits: SIMD[Self.dtype, Self.width]):
        """Computes all of them, each to a few roundings of its own size.

        Args:
            logits: The logits, x.
        """
        comptime Lanes = SIMD[Self.dtype, Self.width]
        var is_positive = logits.gt(0)
        # NaN goes through the exponential.
        var size = is_positive.select(logits, -logits)
        var power = exp(-size)
        var large = 1 / (1 + power)
        var small = power * large
        var rest = log1p(power)
        self.yes = is_positive.select(large, small)
        self.no = is_positive.select(small, large)
        self.missed_yes = rest + is_positive.select(Lanes(0), size)
        self.missed_no = rest + is_positive.select(size, Lanes(0))


@fieldwise_init
struct BinaryCrossEntropy(PointwiseLoss):
    """`w t log(1 + e^-x) + (1 - t) log(1 + e^x)` of a logit x and its target t.

    The target is a probability, and w the weight of the positive class.
    """

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
            pred: The logits.
            target: What their sigmoid should be.
            positive: The weight of the positive class.

        Returns:
            Both.
        """
        var sigmoid = Sigmoid[dtype, width](pred)
        var yes = target * positive
        var no = 1 - target
        return Slope(
            yes * sigmoid.missed_yes + no * sigmoid.missed_no,
            no * sigmoid.yes - yes * sigmoid.no,
        )
