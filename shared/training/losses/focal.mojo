"""Focal loss, which weighs down what is classified well (arXiv:1708.02002)."""

from ..core.exponential import exp, log
from .bce_with_logits import Sigmoid
from .pointwise import PointwiseLoss, Slope

comptime WHOLE_MAX = 16
"""The highest power that is taken by multiplications."""


@always_inline
def power[
    dtype: DType, width: SIMDLength, //
](base: SIMD[dtype, width], exponent: Float64) -> SIMD[dtype, width]:
    """Raises numbers to a power, exactly for small whole ones.

    Parameters:
        dtype: Float32 or float64.
        width: How many lanes.

    Args:
        base: Positive normal numbers.
        exponent: The power, at least 0.

    Returns:
        The powers.
    """
    comptime Lanes = SIMD[dtype, width]
    var result = Lanes(1)
    var rest = exponent
    # The logarithm's rounding counts for what remains alone.
    if exponent <= WHOLE_MAX:
        while rest >= 1:
            result *= base
            rest -= 1
    if rest > 0:
        result *= exp(log(base) * Lanes(rest.cast[dtype]()))
    return result


@always_inline
def smallest[dtype: DType]() -> Scalar[dtype]:
    """Names the least probability that is raised to a power.

    Its derivative would be infinite at 0, and that times a loss of 0 NaN.

    Parameters:
        dtype: Float32 or float64.

    Returns:
        The smallest positive normal number.
    """
    comptime if dtype == DType.float32:
        return 1.17549435082228751e-38
    else:
        return 2.2250738585072014e-308


@fieldwise_init
struct SigmoidFocal(PointwiseLoss):
    """Binary cross entropy times `a q^gamma`, where q is the probability missed.

    For a target t and p the logit's sigmoid, `q = t (1 - p) + (1 - t) p` and
    `a = t alpha + (1 - t) (1 - alpha)`.
    """

    var gamma: Float64
    """How far well classified elements are weighed down, at least 0."""
    var alpha: Float64
    """The factor of the target 1, in [0, 1]; negative for 1 for both."""

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
            positive: Not used.

        Returns:
            Both.
        """
        comptime Lanes = SIMD[dtype, width]
        var sigmoid = Sigmoid[dtype, width](pred)
        var no = 1 - target
        var entropy = target * sigmoid.missed_yes + no * sigmoid.missed_no
        var entropy_slope = no * sigmoid.yes - target * sigmoid.no
        var missed = no * sigmoid.yes + target * sigmoid.no
        comptime least = smallest[dtype]()
        var is_small = missed.lt(Lanes(least))
        var base = is_small.select(Lanes(least), missed)
        var factor = power(base, self.gamma)
        # The derivative of the power's logarithm.
        var change = sigmoid.yes * sigmoid.no * (no - target) / base
        change *= Lanes(self.gamma.cast[dtype]())
        change = is_small.select(Lanes(0), change)
        if self.alpha >= 0:
            var alpha = Lanes(self.alpha.cast[dtype]())
            factor *= alpha * target + (1 - alpha) * no
        # The loss is infinite where the logit is.
        var slope = change.eq(0).select(
            entropy_slope, change.fma(entropy, entropy_slope)
        )
        return Slope(entropy * factor, slope * factor)
