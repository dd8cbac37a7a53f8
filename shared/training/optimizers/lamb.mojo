"""LAMB (You et al., 2019, arXiv:1904.00962): Adam with a step relative to each tensor.
"""

from std.math import sqrt

from ..core import LaneUpdate, Scalars, Sums, UpdateRule, lerp
from .adam import bias_correction


def trust_ratio(param_squares: Float64, update_squares: Float64) -> Float64:
    """Computes how long a step is relative to a tensor.

    Args:
        param_squares: The sum of the squared parameters.
        update_squares: The sum of the squared elements of the update.

    Returns:
        `|p| / |u|`, and 1 where either norm is 0, so that parameters that start
        at 0 move.
    """
    if param_squares == 0 or update_squares == 0:
        return 1
    return sqrt(param_squares) / sqrt(update_squares)


@fieldwise_init
struct LAMBUpdate(LaneUpdate):
    """One step of LAMB, in two passes.

    With gradient g, parameter p, moments m and v and their corrections c1, c2:
    `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`,
    `u = m / (c1 (sqrt(v / c2) + eps)) + weight_decay p` and
    `p -= lr (|p| / |u|) u`. The first pass moves the moments and measures, the
    second computes u again from them.
    """

    comptime STATES = 2
    """The two moments."""
    comptime SUMS = 2
    """The squares of p and of u."""
    comptime MEASURES_STATE = True
    """The first pass moves the moments."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var first_weight: Float64
    """`1 - beta1`."""
    var beta2: Float64
    """The decay of the second moment."""
    var second_weight: Float64
    """`1 - beta2`."""
    var bias1: Float64
    """The first moment's bias correction."""
    var bias2_root: Float64
    """The square root of the second moment's bias correction."""
    var eps: Float64
    """Added to the denominator."""
    var weight_decay: Float64
    """How much of the parameter joins the update."""
    var negative_step_size: Float64
    """`-lr` times the trust ratio; `-lr` until that is known."""

    @always_inline
    def measure[
        dtype: DType, width: Int
    ](
        self,
        param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
        mut sums: Array[SIMD[DType.float64, width], Self.SUMS],
    ):
        """Moves the moments and adds up squares.

        In bfloat16 the moments are measured before memory rounds them, which
        changes a norm by less than 2^-8 of it.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            grad: The gradients.
            state: First and second moment.
            sums: The squares of the parameters and of the update.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = grad
        if self.maximize != 0:
            g = -g
        state[0] = lerp(state[0], g, self.first_weight.cast[dtype]())
        var weighted = g * Lanes(self.second_weight.cast[dtype]())
        var decayed = state[1] * Lanes(self.beta2.cast[dtype]())
        state[1] = weighted.fma(g, decayed)
        var p = param.cast[DType.float64]()
        var u = self._direction(param, state).cast[DType.float64]()
        sums[0] = p.fma(p, sums[0])
        sums[1] = u.fma(u, sums[1])

    @always_inline
    def apply[
        dtype: DType, width: Int
    ](
        self,
        mut param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
    ):
        """Updates `width` elements in registers.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters, replaced by their new values.
            grad: Not used.
            state: First and second moment.
        """
        var size = SIMD[dtype, width](self.negative_step_size.cast[dtype]())
        param = self._direction(param, state).fma(size, param)

    @always_inline
    def _direction[
        dtype: DType, width: Int
    ](
        self,
        param: SIMD[dtype, width],
        state: Array[SIMD[dtype, width], Self.STATES],
    ) -> SIMD[dtype, width]:
        comptime Lanes = SIMD[dtype, width]
        var root = sqrt(state[1]) / Lanes(self.bias2_root.cast[dtype]())
        var denominator = root + Lanes(self.eps.cast[dtype]())
        var u = state[0] / (denominator * Lanes(self.bias1.cast[dtype]()))
        if self.weight_decay != 0:
            u = param.fma(Lanes(self.weight_decay.cast[dtype]()), u)
        return u


struct LAMB(UpdateRule):
    """Hyperparameters of LAMB."""

    comptime Update = LAMBUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var beta1: Float64
    """The decay of the first moment, in [0, 1)."""
    var beta2: Float64
    """The decay of the second moment, in [0, 1)."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var weight_decay: Float64
    """The weight decay, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.999,
        eps: Float64 = 1e-6,
        weight_decay: Float64 = 0.01,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; all defaults but `lr` are the paper's.

        Args:
            lr: The learning rate, at least 0.
            beta1: The decay of the first moment, in [0, 1).
            beta2: The decay of the second moment, in [0, 1).
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weight_decay = weight_decay
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants, for the first pass.
        """
        return Self.Update(
            maximize=self.maximize,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            second_weight=1 - self.beta2,
            bias1=bias_correction(self.beta1, step),
            bias2_root=sqrt(bias_correction(self.beta2, step)),
            eps=self.eps,
            weight_decay=self.weight_decay,
            negative_step_size=-self.lr,
        )

    def finish(self, mut update: Self.Update, sums: Sums, numel: Int):
        """Scales the step by the trust ratio.

        Args:
            update: The constants.
            sums: The squares of a tensor and of its update.
            numel: Not used.
        """
        update.negative_step_size = -self.lr * trust_ratio(sums[0], sums[1])
