"""Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682)."""

from std.math import sqrt

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    addcmul,
    effective_gradient,
    lerp,
)


@fieldwise_init
struct ScheduleFreeAdamWUpdate(LaneUpdate):
    """One step of schedule-free AdamW; the parameter holds y.

    With gradient g at y: `v = beta2 v + (1 - beta2) g^2`,
    `u = g / (sqrt(v / bias2) + eps) + weight_decay y`, `y += weight (z - y)`,
    `y += lr (beta1 (1 - weight) - 1) u` and `z -= lr u`.
    """

    comptime STATES = 2
    """The point z, where plain Adam would be, and the second moment."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var beta2: Float64
    """The decay of the second moment."""
    var second_weight: Float64
    """`1 - beta2`."""
    var bias2: Float64
    """The bias correction of the second moment."""
    var eps: Float64
    """Added to the denominator."""
    var weight: Float64
    """How far y moves to z."""
    var y_step: Float64
    """The factor of the gradient in y."""
    var negative_lr: Float64
    """Minus the learning rate of this step."""

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
            state: The point z and the second moment.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(param, grad, self.maximize, 0)

        var v = addcmul(
            state[1] * Lanes(self.beta2.cast[dtype]()),
            g,
            g,
            Lanes(self.second_weight.cast[dtype]()),
        )
        state[1] = v
        var u = g / (
            sqrt(v / Lanes(self.bias2.cast[dtype]()))
            + Lanes(self.eps.cast[dtype]())
        )
        u = effective_gradient(param, u, 0, self.weight_decay)
        var y = lerp(param, state[0], self.weight.cast[dtype]())
        param = u.fma(Lanes(self.y_step.cast[dtype]()), y)
        state[0] = u.fma(Lanes(self.negative_lr.cast[dtype]()), state[0])


struct ScheduleFreeAdamW(UpdateRule):
    """Hyperparameters of schedule-free AdamW, of which the caller updates three each step."""

    comptime Update = ScheduleFreeAdamWUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate of this step, warm-up included, at least 0."""
    var beta1: Float64
    """The weight of x in y, in (0, 1)."""
    var weight: Float64
    """The weight of this step in the average x, in [0, 1]."""
    var beta2: Float64
    """The decay of the second moment, in [0, 1)."""
    var bias2: Float64
    """The bias correction of the second moment, in (0, 1]."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var weight_decay: Float64
    """The weight decay at y, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1.0,
        beta1: Float64 = 0.9,
        weight: Float64 = 1.0,
        beta2: Float64 = 0.999,
        bias2: Float64 = 1.0,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are those of Python.

        Args:
            lr: The learning rate of this step, warm-up included, at least 0.
            beta1: The weight of x in y, in (0, 1).
            weight: The weight of this step in the average x, in [0, 1].
            beta2: The decay of the second moment, in [0, 1).
            bias2: The bias correction of the second moment, in (0, 1].
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay at y, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.weight = weight
        self.beta2 = beta2
        self.bias2 = bias2
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
            weight_decay=self.weight_decay,
            beta2=self.beta2,
            second_weight=1 - self.beta2,
            bias2=self.bias2,
            eps=self.eps,
            weight=self.weight,
            y_step=self.lr * (self.beta1 * (1 - self.weight) - 1),
            negative_lr=-self.lr,
        )

    def initial_state[
        dtype: DType
    ](self, index: Int, param: Scalar[dtype]) -> Scalar[dtype]:
        """Gives an element of a state tensor before the first step.

        Parameters:
            dtype: The dtype of the state.

        Args:
            index: Which state tensor, from 0.
            param: The parameter's element in the same place.

        Returns:
            The parameter, where z starts, and 0 for the second moment.
        """
        return param if index == 0 else 0
