"""RMSprop (Tieleman and Hinton, 2012, Coursera lecture 6.5), plain or centered."""

from std.math import sqrt

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    addcdiv,
    addcmul,
    effective_gradient,
    lerp,
)


@fieldwise_init
struct RMSpropUpdate[centered: Bool, momentum: Bool](LaneUpdate):
    """One step of RMSprop, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p, mean square v: `v = alpha v + (1 - alpha) g^2` and
    `p -= lr g / (sqrt(v) + eps)`. Centered, the mean gradient a joins:
    `a += (1 - alpha) (g - a)`, and `v - a^2` stands in the place of v. With momentum,
    `b = momentum b + g / (sqrt(v) + eps)` and `p -= lr b`.

    Parameters:
        centered: Whether to divide by the deviation from the mean gradient (Graves, 2013,
            arXiv:1308.0850).
        momentum: Whether there is a momentum buffer.
    """

    comptime STATES = 1 + Int(Self.centered) + Int(Self.momentum)
    """The mean square, the mean gradient if centered, the buffer if there is one."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var alpha: Float64
    """The decay of the averages."""
    var one_minus_alpha: Float64
    """`1 - alpha`."""
    var eps: Float64
    """Added to the denominator."""
    var momentum_decay: Float64
    """The decay of the buffer."""
    var negative_lr: Float64
    """`-lr`."""

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
            state: Mean square, mean gradient, momentum buffer, as far as there are such.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )

        var weight = Lanes(self.one_minus_alpha.cast[dtype]())
        var v = addcmul(
            state[0] * Lanes(self.alpha.cast[dtype]()), g, g, weight
        )
        state[0] = v
        comptime if Self.centered:
            var a = lerp(state[1], g, self.one_minus_alpha.cast[dtype]())
            state[1] = a
            v = addcmul(v, a, a, Lanes(-1))
        var denominator = sqrt(v) + Lanes(self.eps.cast[dtype]())
        var negative_lr = Lanes(self.negative_lr.cast[dtype]())
        comptime if Self.momentum:
            comptime last = Self.STATES - 1
            var b = addcdiv(
                state[last] * Lanes(self.momentum_decay.cast[dtype]()),
                g,
                denominator,
                Lanes(1),
            )
            state[last] = b
            param = b.fma(negative_lr, param)
        else:
            param = addcdiv(param, g, denominator, negative_lr)


struct RMSprop[centered: Bool = False, momentum: Bool = False](UpdateRule):
    """Hyperparameters of RMSprop.

    Parameters:
        centered: Whether to divide by the deviation from the mean gradient (Graves, 2013,
            arXiv:1308.0850).
        momentum: Whether there is a momentum buffer.
    """

    comptime Update = RMSpropUpdate[Self.centered, Self.momentum]
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var alpha: Float64
    """The decay of the averages, in [0, 1]."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var weight_decay: Float64
    """The weight decay that joins the gradient, at least 0."""
    var momentum_decay: Float64
    """The decay of the buffer, called momentum by torch."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-2,
        alpha: Float64 = 0.99,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.0,
        momentum_decay: Float64 = 0.9 if Self.momentum else 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The learning rate, at least 0.
            alpha: The decay of the averages, in [0, 1].
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay that joins the gradient, at least 0.
            momentum_decay: The decay of the buffer, called momentum by torch.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.weight_decay = weight_decay
        self.momentum_decay = momentum_decay
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants.
        """
        return Self.Update(
            maximize=self.maximize,
            weight_decay=self.weight_decay,
            alpha=self.alpha,
            one_minus_alpha=1 - self.alpha,
            eps=self.eps,
            momentum_decay=self.momentum_decay,
            negative_lr=-self.lr,
        )
