"""RAdam (Liu et al., 2019, arXiv:1908.03265)."""

from std.ffi import external_call
from std.math import sqrt

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    addcmul,
    effective_gradient,
    lerp,
)
from .adam import bias_correction


@fieldwise_init
struct RAdamUpdate(LaneUpdate):
    """One step of RAdam, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p, moments m and v as Adam's, and their corrections
    c1, c2 at step t: `p -= lr m / c1 sqrt(c2) / (sqrt(v) + eps) r`. The rectification
    r is known once rho_t, the length of the average, exceeds 5; before that
    `p -= lr m / c1`.
    """

    comptime STATES = 2
    """The two moments."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var decay: Float64
    """`1 - lr weight_decay` if weight decay is decoupled, else 1."""
    var first_weight: Float64
    """`1 - beta1`."""
    var beta2: Float64
    """The decay of the second moment."""
    var second_weight: Float64
    """`1 - beta2`."""
    var bias1: Float64
    """The first moment's bias correction."""
    var bias2_root: Float64
    """The root of the second moment's bias correction."""
    var eps: Float64
    """Added to the denominator."""
    var lr: Float64
    """The learning rate."""
    var rectification: Float64
    """The rectification, or 0 while the second moment is too young for one."""

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
            state: First and second moment.
        """
        comptime Lanes = SIMD[dtype, width]
        var p = param * Lanes(self.decay.cast[dtype]())
        var g = effective_gradient(p, grad, self.maximize, self.weight_decay)

        var m = lerp(state[0], g, self.first_weight.cast[dtype]())
        state[0] = m
        var v = addcmul(
            state[1] * Lanes(self.beta2.cast[dtype]()),
            g,
            g,
            Lanes(self.second_weight.cast[dtype]()),
        )
        state[1] = v
        var change = (
            m / Lanes(self.bias1.cast[dtype]()) * Lanes(self.lr.cast[dtype]())
        )
        if self.rectification != 0:
            # torch divides a number by a tensor as the tensor's reciprocal times the number.
            var inverse = 1 / (sqrt(v) + Lanes(self.eps.cast[dtype]()))
            change = change * (inverse * Lanes(self.bias2_root.cast[dtype]()))
            change = change * Lanes(self.rectification.cast[dtype]())
        param = p - change


struct RAdam(UpdateRule):
    """Hyperparameters of RAdam."""

    comptime Update = RAdamUpdate
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
    var decoupled: Float64
    """1 if weight decay shrinks the parameter, 0 if it joins the gradient."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.999,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.0,
        decoupled: Bool = False,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The learning rate, at least 0.
            beta1: The decay of the first moment, in [0, 1).
            beta2: The decay of the second moment, in [0, 1).
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay, at least 0.
            decoupled: Whether weight decay shrinks the parameter, or joins the gradient.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weight_decay = weight_decay
        self.decoupled = 1.0 if decoupled else 0.0
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants.
        """
        # Not from bias2: that has lost the low bits of a small power.
        var power2 = _power(self.beta2, step)
        var bias2 = 1 - power2
        var rho_inf = 2 / (1 - self.beta2) - 1
        var rho = rho_inf - 2 * step * power2 / bias2
        var rectification = Float64(0)
        if rho > 5:
            rectification = _power(
                (rho - 4)
                * (rho - 2)
                * rho_inf
                / ((rho_inf - 4) * (rho_inf - 2) * rho),
                0.5,
            )
        var decoupled = self.decoupled != 0
        return Self.Update(
            maximize=self.maximize,
            weight_decay=0 if decoupled else self.weight_decay,
            decay=1 - self.lr * self.weight_decay if decoupled else 1,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            second_weight=1 - self.beta2,
            bias1=bias_correction(self.beta1, step),
            bias2_root=_power(bias2, 0.5),
            eps=self.eps,
            lr=self.lr,
            rectification=rectification,
        )


def _power(base: Float64, exponent: Float64) -> Float64:
    return external_call["pow", Float64](base, exponent)
