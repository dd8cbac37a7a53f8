"""Lion (Chen et al., 2023, arXiv:2302.06675)."""

from std.utils.numerics import isnan

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    effective_gradient,
    lerp,
    sign,
)


@fieldwise_init
struct LionUpdate(LaneUpdate):
    """One step of Lion.

    With gradient g, parameter p and momentum m:
    `p = (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g)` and
    `m = beta2 m + (1 - beta2) g`. The sign of NaN is NaN.
    """

    comptime STATES = 1
    """The momentum."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var decay: Float64
    """`1 - lr weight_decay`."""
    var sign_weight: Float64
    """`1 - beta1`."""
    var momentum_weight: Float64
    """`1 - beta2`."""
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
            state: The momentum.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(param, grad, self.maximize, 0)

        var mean = lerp(state[0], g, self.sign_weight.cast[dtype]())
        # torch's sign of NaN is 0, which would hide it.
        var direction = isnan(mean).select(mean, sign(mean))
        var decayed = param * Lanes(self.decay.cast[dtype]())
        param = direction.fma(Lanes(self.negative_lr.cast[dtype]()), decayed)
        state[0] = lerp(state[0], g, self.momentum_weight.cast[dtype]())


struct Lion(UpdateRule):
    """Hyperparameters of Lion."""

    comptime Update = LionUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var beta1: Float64
    """The weight of the momentum in the sign, in [0, 1)."""
    var beta2: Float64
    """The decay of the momentum, in [0, 1)."""
    var weight_decay: Float64
    """The decoupled weight decay, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-4,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.99,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are those of Python.

        Args:
            lr: The learning rate, at least 0.
            beta1: The weight of the momentum in the sign, in [0, 1).
            beta2: The decay of the momentum, in [0, 1).
            weight_decay: The decoupled weight decay, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
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
            sign_weight=1 - self.beta1,
            momentum_weight=1 - self.beta2,
            negative_lr=-self.lr,
        )
