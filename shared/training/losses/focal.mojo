"""Focal loss, which weighs down what is classified well (arXiv:1708.02002)."""

from ..core import Executor
from .bce_with_logits import Sigmoid
from .cross_entropy import evaluate_rows
from .loss_sum import LossSum
from .pointwise import PointwiseLoss, Slope
from .power import power, smallest


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


struct Focal(Copyable, Movable):
    """Cross entropy of classes times `alpha (1 - p)^gamma`, p the target's probability.

    Its count is the number of rows that are not ignored.
    """

    var gamma: Float64
    """How far well classified rows are weighed down, at least 0."""
    var alpha: List[Float64]
    """A factor for each class; empty for 1."""
    var ignore_index: Int
    """The target of rows that do not count."""

    def __init__(
        out self,
        *,
        gamma: Float64 = 2,
        var alpha: List[Float64] = [],
        ignore_index: Int = -100,
    ):
        """Sets the options; the defaults are those of Python.

        Args:
            gamma: How far well classified rows are weighed down, at least 0.
            alpha: A factor for each class; empty for 1.
            ignore_index: The target of rows that do not count.
        """
        self.gamma = gamma
        self.alpha = alpha^
        self.ignore_index = ignore_index

    def evaluate[
        dtype: DType, Runner: Executor
    ](
        self,
        logits: Span[mut=False, Scalar[dtype], _],
        target: Span[mut=False, Int64, _],
        gradient: Span[mut=True, Scalar[dtype], _],
        executor: Runner,
    ) raises -> LossSum:
        """Computes the sum of the rows' losses and its gradient.

        Parameters:
            dtype: A float dtype.
            Runner: The type of the executor.

        Args:
            logits: The logits, row by row.
            target: The class of each row.
            gradient: Where the gradient goes, as long as the logits; or empty.
            executor: Who runs the rows.

        Returns:
            The sum, and what its mean divides by.

        Raises:
            Error: If a length does not fit, or a target is no class.
        """
        if self.gamma < 0:
            raise Error("gamma must be at least 0, got ", self.gamma)
        return evaluate_rows(
            logits,
            target,
            Int(gradient.unsafe_ptr()) if len(gradient) > 0 else 0,
            len(gradient),
            executor,
            weights=self.alpha,
            ignore_index=self.ignore_index,
            label_smoothing=0,
            z_loss=0,
            gamma=self.gamma,
        )
