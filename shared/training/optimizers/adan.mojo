"""Adan (Xie et al., 2022, arXiv:2208.06677)."""

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
from .adam import bias_correction


@fieldwise_init
struct AdanUpdate(LaneUpdate):
    """One step of Adan.

    With gradient g, the one before it g', parameter p and step t, where g' = g at
    the first: `m += (1 - beta1) (g - m)`, `d += (1 - beta2) (g - g' - d)`,
    `u = g + beta2 (g - g')`, `n = beta3 n + (1 - beta3) u^2`,
    `s = sqrt(n) / sqrt(1 - beta3^t) + eps` and
    `p = (p - lr (m / (1 - beta1^t) + beta2 d / (1 - beta2^t)) / s) / (1 + lr weight_decay)`.
    """

    comptime STATES = 4
    """The moments of gradients, differences and squares, and the previous gradient."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var first_weight: Float64
    """`1 - beta1`."""
    var beta2: Float64
    """The decay of the differences."""
    var difference_weight: Float64
    """`1 - beta2`."""
    var beta3: Float64
    """The decay of the squares."""
    var square_weight: Float64
    """`1 - beta3`."""
    var bias3_root: Float64
    """The root of the squares' bias correction."""
    var eps: Float64
    """Added to the denominator."""
    var moment_step: Float64
    """The negative factor of the first moment."""
    var difference_step: Float64
    """The negative factor of the differences."""
    var shrinkage: Float64
    """`1 + lr weight_decay`."""
    var is_first: Float64
    """1 at the first step, else 0."""

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
            state: Moments of gradients, differences and squares, and the previous gradient.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(param, grad, self.maximize, 0)

        var difference = g - state[3]
        if self.is_first != 0:
            difference = Lanes(0)
        state[3] = g
        var m = lerp(state[0], g, self.first_weight.cast[dtype]())
        state[0] = m
        var d = lerp(state[1], difference, self.difference_weight.cast[dtype]())
        state[1] = d
        var u = difference.fma(Lanes(self.beta2.cast[dtype]()), g)
        var n = addcmul(
            state[2] * Lanes(self.beta3.cast[dtype]()),
            u,
            u,
            Lanes(self.square_weight.cast[dtype]()),
        )
        state[2] = n
        var denominator = sqrt(n) / Lanes(
            self.bias3_root.cast[dtype]()
        ) + Lanes(self.eps.cast[dtype]())
        var p = addcdiv(
            param, m, denominator, Lanes(self.moment_step.cast[dtype]())
        )
        p = addcdiv(
            p, d, denominator, Lanes(self.difference_step.cast[dtype]())
        )
        param = p / Lanes(self.shrinkage.cast[dtype]())


struct Adan(UpdateRule):
    """Hyperparameters of Adan."""

    comptime Update = AdanUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var beta1: Float64
    """The decay of the first moment, in [0, 1)."""
    var beta2: Float64
    """The decay of the differences, in [0, 1)."""
    var beta3: Float64
    """The decay of the squares, in [0, 1)."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var weight_decay: Float64
    """The weight decay, at least 0; it divides, as a proximal step does."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        beta1: Float64 = 0.98,
        beta2: Float64 = 0.92,
        beta3: Float64 = 0.99,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are those of Python.

        Args:
            lr: The learning rate, at least 0.
            beta1: The decay of the first moment, in [0, 1).
            beta2: The decay of the differences, in [0, 1).
            beta3: The decay of the squares, in [0, 1).
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay, at least 0; it divides, as a proximal step does.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.beta3 = beta3
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
        return Self.Update(
            maximize=self.maximize,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            difference_weight=1 - self.beta2,
            beta3=self.beta3,
            square_weight=1 - self.beta3,
            bias3_root=sqrt(bias_correction(self.beta3, step)),
            eps=self.eps,
            moment_step=-(self.lr / bias_correction(self.beta1, step)),
            difference_step=-(
                self.lr * self.beta2 / bias_correction(self.beta2, step)
            ),
            shrinkage=1 + self.lr * self.weight_decay,
            is_first=1.0 if step == 1 else 0.0,
        )
