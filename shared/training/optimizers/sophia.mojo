"""Sophia-G (Liu et al., 2023, arXiv:2305.14342)."""

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    effective_gradient,
    lerp,
    maximum,
)


@fieldwise_init
struct SophiaGUpdate(LaneUpdate):
    """One step of Sophia-G.

    With gradient g, parameter p, momentum m and an estimate h of the Hessian's
    diagonal, which others update: `m += (1 - beta1) (g - m)` and
    `p = (1 - lr weight_decay) p - lr clip(m / max(rho h, eps), 1)`.
    """

    comptime STATES = 2
    """The momentum and the Hessian's diagonal."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var decay: Float64
    """`1 - lr weight_decay`."""
    var momentum_weight: Float64
    """`1 - beta1`."""
    var rho: Float64
    """The factor of the Hessian."""
    var eps: Float64
    """The least denominator."""
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
            state: Momentum and the Hessian's diagonal, which stays.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(param, grad, self.maximize, 0)

        var m = lerp(state[0], g, self.momentum_weight.cast[dtype]())
        state[0] = m
        var ratio = m / maximum(
            state[1] * Lanes(self.rho.cast[dtype]()),
            Lanes(self.eps.cast[dtype]()),
        )
        ratio = ratio.gt(1).select(Lanes(1), ratio)
        ratio = ratio.lt(-1).select(Lanes(-1), ratio)
        var decayed = param * Lanes(self.decay.cast[dtype]())
        param = ratio.fma(Lanes(self.negative_lr.cast[dtype]()), decayed)


struct SophiaG(UpdateRule):
    """Hyperparameters of Sophia-G."""

    comptime Update = SophiaGUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var beta1: Float64
    """The decay of the momentum, in [0, 1)."""
    var rho: Float64
    """The factor of the Hessian, above 0."""
    var eps: Float64
    """The least denominator, above 0."""
    var weight_decay: Float64
    """The decoupled weight decay, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-4,
        beta1: Float64 = 0.965,
        rho: Float64 = 0.04,
        eps: Float64 = 1e-12,
        weight_decay: Float64 = 0.1,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are those of Python.

        Args:
            lr: The learning rate, at least 0.
            beta1: The decay of the momentum, in [0, 1).
            rho: The factor of the Hessian, above 0.
            eps: The least denominator, above 0.
            weight_decay: The decoupled weight decay, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.rho = rho
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
            decay=1 - self.lr * self.weight_decay,
            momentum_weight=1 - self.beta1,
            rho=self.rho,
            eps=self.eps,
            negative_lr=-self.lr,
        )
