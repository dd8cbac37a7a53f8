"""NAdam (Dozat, 2016, ICLR workshop, "Incorporating Nesterov momentum into Adam")."""

from std.ffi import external_call
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
struct NAdamUpdate(LaneUpdate):
    """One step of NAdam, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p, moments m and v, step t and
    `mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)`: `m += (1 - beta1) (g - m)`,
    `v = beta2 v + (1 - beta2) g^2`, `d = sqrt(v / (1 - beta2^t)) + eps` and
    `p -= lr ((1 - mu_t) / (1 - mu_1 ... mu_t) g + mu_{t+1} / (1 - mu_1 ... mu_{t+1}) m) / d`.
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
    var bias2: Float64
    """The second moment's bias correction."""
    var eps: Float64
    """Added to the denominator."""
    var grad_step: Float64
    """The negative factor of the gradient."""
    var moment_step: Float64
    """The negative factor of the first moment."""

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
        var denominator = sqrt(v / Lanes(self.bias2.cast[dtype]())) + Lanes(
            self.eps.cast[dtype]()
        )
        p = addcdiv(p, g, denominator, Lanes(self.grad_step.cast[dtype]()))
        param = addcdiv(
            p, m, denominator, Lanes(self.moment_step.cast[dtype]())
        )


struct NAdam(UpdateRule):
    """Hyperparameters of NAdam."""

    comptime Update = NAdamUpdate
    """The constants of one step."""

    comptime SCALARS = 1
    """The product of all momenta so far."""

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
    var momentum_decay: Float64
    """How fast the momentum nears beta1, at least 0."""
    var decoupled: Float64
    """1 if weight decay shrinks the parameter, 0 if it joins the gradient."""
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
        momentum_decay: Float64 = 4e-3,
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
            momentum_decay: How fast the momentum nears beta1, at least 0.
            decoupled: Whether weight decay shrinks the parameter, or joins the gradient.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weight_decay = weight_decay
        self.momentum_decay = momentum_decay
        self.decoupled = 1.0 if decoupled else 0.0
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: The product of all momenta so far.

        Returns:
            The constants.
        """
        var mu = self._momentum(step)
        var mu_next = self._momentum(step + 1)
        scalars[0] = scalars[0] * mu.cast[DType.float32]()
        var product = scalars[0].cast[DType.float64]()
        var decoupled = self.decoupled != 0
        return Self.Update(
            maximize=self.maximize,
            weight_decay=0 if decoupled else self.weight_decay,
            decay=1 - self.lr * self.weight_decay if decoupled else 1,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            second_weight=1 - self.beta2,
            bias2=bias_correction(self.beta2, step),
            eps=self.eps,
            grad_step=-self.lr * (1 - mu) / (1 - product),
            moment_step=(-self.lr * mu_next) / (1 - product * mu_next),
        )

    def _momentum(self, step: Float64) -> Float64:
        var decay = external_call["pow", Float64](
            Float64(0.96), step * self.momentum_decay
        )
        return self.beta1 * (1 - 0.5 * decay)
