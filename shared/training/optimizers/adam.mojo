"""Adam (Kingma and Ba, 2014, arXiv:1412.6980) and its AMSGrad variant."""

from std.ffi import external_call
from std.math import sqrt

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    divide_by_constant,
    fast_reciprocal,
    fast_reciprocal_sqrt,
    lerp,
    maximum,
)


def bias_correction(beta: Float64, step: Float64) -> Float64:
    """Computes `1 - beta ** step`, the weight that a moving average has gathered.

    Args:
        beta: The decay of the average, in [0, 1).
        step: The number of values averaged, from 1.

    Returns:
        The correction, with the accuracy of the C library's `pow`: that of
        Mojo's own float64 power is 1e-12.
    """
    return 1 - external_call["pow", Float64](beta, step)


@fieldwise_init
struct AdamUpdate[amsgrad: Bool, decoupled: Bool, fast: Bool](LaneUpdate):
    """One step of Adam or AdamW, rounded where torch's fused kernels round.

    With gradient g, parameter p, moments m and v and their corrections c1, c2:
    `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2` and
    `p -= (lr / c1) m / (sqrt(v) / sqrt(c2) + eps)`. AMSGrad puts the largest v
    so far in the place of v.

    Parameters:
        amsgrad: Whether a third state holds the largest v so far.
        decoupled: Whether weight decay shrinks p, or joins g.
        fast: Whether float32 lanes may approximate the root and the division.
    """

    comptime STATES = 3 if Self.amsgrad else 2
    """The two moments, and with `amsgrad` the largest second moment."""

    comptime HAS_SCALAR_ROUNDING = True
    """The remainders of torch's fused kernels contract other operations."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var decay: Float64
    """`1 - lr * weight_decay` if decoupled, else `weight_decay`."""
    var first_weight: Float64
    """`1 - beta1`."""
    var beta2: Float64
    """The decay of the second moment."""
    var second_weight: Float64
    """`1 - beta2`."""
    var bias2_root: Float64
    """The square root of the second moment's bias correction."""
    var eps: Float64
    """Added to the denominator."""
    var negative_step_size: Float64
    """`-lr` over the first moment's bias correction."""

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
            grad: The gradients.
            state: First moment, second moment and the latter's largest value.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = grad
        if self.maximize != 0:
            g = -g
        var p = param
        comptime if Self.decoupled:
            p = p * Lanes(self.decay.cast[dtype]())
        else:
            # 0 * p is not 0 where p is infinite.
            if self.decay != 0:
                g = p.fma(Lanes(self.decay.cast[dtype]()), g)
        var m = lerp(state[0], g, self.first_weight.cast[dtype]())
        var beta2 = Lanes(self.beta2.cast[dtype]())
        var weighted = g * Lanes(self.second_weight.cast[dtype]())
        var v: Lanes
        comptime if width == 1:
            v = state[1].fma(beta2, weighted * g)
        else:
            v = weighted.fma(g, state[1] * beta2)
        state[0] = m
        state[1] = v
        comptime if Self.amsgrad:
            v = _maximum(state[2], v)
            state[2] = v
        var bias2_root = self.bias2_root.cast[dtype]()
        var eps = Lanes(self.eps.cast[dtype]())
        var step = m * Lanes(self.negative_step_size.cast[dtype]())
        comptime if Self.fast and dtype == DType.float32:
            var root = rebind[Lanes](_fast_root(rebind[Float32Lanes[width]](v)))
            var denominator = root.fma(Lanes(1 / bias2_root), eps)
            var inverse = fast_reciprocal(
                rebind[Float32Lanes[width]](denominator)
            )
            param = step.fma(rebind[Lanes](inverse), p)
        else:
            var root = divide_by_constant(sqrt(v), bias2_root, 1 / bias2_root)
            param = p + step / (root + eps)


comptime Float32Lanes[width: Int] = SIMD[DType.float32, width]
"""Lanes that the CPU has estimates for.

Parameters:
    width: How many lanes.
"""


@always_inline
def _fast_root[width: Int](v: Float32Lanes[width]) -> Float32Lanes[width]:
    # The estimate takes subnormal numbers for 0. NaN fails the comparison and stays.
    comptime least = Float32Lanes[width](1.17549435e-38)
    return v * fast_reciprocal_sqrt(v.lt(least).select(least, v))


@always_inline
def _maximum[
    dtype: DType, width: Int
](a: SIMD[dtype, width], b: SIMD[dtype, width]) -> SIMD[dtype, width]:
    # torch's vectors take a NaN from either side, its scalar loop only from a.
    comptime if width == 1:
        return a.lt(b).select(b, a)
    return maximum(a, b)


@fieldwise_init
struct Adam[amsgrad: Bool = False, decoupled: Bool = False, fast: Bool = False](
    UpdateRule
):
    """Hyperparameters of Adam, or of AdamW if weight decay is decoupled.

    Parameters:
        amsgrad: Whether to divide by the largest second moment so far (Reddi et
            al., 2018, arXiv:1904.09237).
        decoupled: Whether weight decay leaves the gradient alone; see `AdamW`.
        fast: Whether float32 arithmetic (bfloat16 parameters included) approximates the
            root and the division: each step is off by at most 2^-19 of itself.
            eps must be above 0.
    """

    comptime Update = AdamUpdate[Self.amsgrad, Self.decoupled, Self.fast]
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
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.01 if Self.decoupled else 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

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
            The constants.
        """
        var bias1 = bias_correction(self.beta1, step)
        var bias2 = bias_correction(self.beta2, step)
        var decay = self.weight_decay
        comptime if Self.decoupled:
            # One rounding, as in torch's compiled code.
            decay = (-self.lr).fma(self.weight_decay, 1)
        return Self.Update(
            maximize=self.maximize,
            decay=decay,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            second_weight=1 - self.beta2,
            bias2_root=sqrt(bias2),
            eps=self.eps,
            negative_step_size=-(self.lr / bias1),
        )
