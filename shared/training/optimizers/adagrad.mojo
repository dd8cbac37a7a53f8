"""Adagrad (Duchi, Hazan and Singer, 2011, JMLR 12)."""

from std.math import sqrt

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    addcdiv,
    addcmul,
    effective_gradient,
)


@fieldwise_init
struct AdagradUpdate(LaneUpdate):
    """One step of Adagrad, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p and sum of squares s: `s += g^2` and
    `p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)` at step t.
    """

    comptime STATES = 1
    """The sum of squares."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var eps: Float64
    """Added to the denominator."""
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
            state: The sum of squares.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )

        var sum = addcmul(state[0], g, g, Lanes(1))
        state[0] = sum
        var denominator = sqrt(sum) + Lanes(self.eps.cast[dtype]())
        param = addcdiv(
            param, g, denominator, Lanes(self.negative_lr.cast[dtype]())
        )


struct Adagrad(UpdateRule):
    """Hyperparameters of Adagrad."""

    comptime Update = AdagradUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var lr_decay: Float64
    """How fast the learning rate falls, at least 0."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var weight_decay: Float64
    """The weight decay that joins the gradient, at least 0."""
    var initial_accumulator_value: Float64
    """What the sums start with, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-2,
        lr_decay: Float64 = 0.0,
        eps: Float64 = 1e-10,
        weight_decay: Float64 = 0.0,
        initial_accumulator_value: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The learning rate, at least 0.
            lr_decay: How fast the learning rate falls, at least 0.
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay that joins the gradient, at least 0.
            initial_accumulator_value: What the sums start with, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.lr_decay = lr_decay
        self.eps = eps
        self.weight_decay = weight_decay
        self.initial_accumulator_value = initial_accumulator_value
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
            eps=self.eps,
            negative_lr=-(self.lr / (1 + (step - 1) * self.lr_decay)),
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
            The start of the sum.
        """
        return self.initial_accumulator_value.cast[dtype]()
