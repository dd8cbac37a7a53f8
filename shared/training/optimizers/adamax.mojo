"""Adamax, the variant of Adam with the infinity norm (Kingma and Ba, 2014,
arXiv:1412.6980)."""

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    addcdiv,
    effective_gradient,
    lerp,
    maximum,
)
from .adam import bias_correction


@fieldwise_init
struct AdamaxUpdate(LaneUpdate):
    """One step of Adamax, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p, moment m and norm u: `m += (1 - beta1) (g - m)`,
    `u = max(beta2 u, |g| + eps)` and `p -= lr / (1 - beta1^t) m / u` at step t.
    """

    comptime STATES = 2
    """The first moment and the infinity norm."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var first_weight: Float64
    """`1 - beta1`."""
    var beta2: Float64
    """The decay of the norm."""
    var eps: Float64
    """Added to the gradient's size."""
    var negative_step_size: Float64
    """Minus the learning rate over the bias correction."""

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
            state: First moment and infinity norm.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )

        var m = lerp(state[0], g, self.first_weight.cast[dtype]())
        state[0] = m
        var u = maximum(
            state[1] * Lanes(self.beta2.cast[dtype]()),
            abs(g) + Lanes(self.eps.cast[dtype]()),
        )
        state[1] = u
        param = addcdiv(
            param, m, u, Lanes(self.negative_step_size.cast[dtype]())
        )


struct Adamax(UpdateRule):
    """Hyperparameters of Adamax."""

    comptime Update = AdamaxUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var beta1: Float64
    """The decay of the first moment, in [0, 1)."""
    var beta2: Float64
    """The decay of the infinity norm, in [0, 1)."""
    var eps: Float64
    """Added to the size of gradients, at least 0."""
    var weight_decay: Float64
    """The weight decay that joins the gradient, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 2e-3,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.999,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The learning rate, at least 0.
            beta1: The decay of the first moment, in [0, 1).
            beta2: The decay of the infinity norm, in [0, 1).
            eps: Added to the size of gradients, at least 0.
            weight_decay: The weight decay that joins the gradient, at least 0.
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
        return Self.Update(
            maximize=self.maximize,
            weight_decay=self.weight_decay,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            negative_step_size=-(self.lr / bias_correction(self.beta1, step)),
        )
