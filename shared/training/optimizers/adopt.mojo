"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853)."""

from std.ffi import external_call
from std.math import sqrt
from std.utils.numerics import inf

from ..core import (
    LaneUpdate,
    Scalars,
    UpdateRule,
    addcmul,
    effective_gradient,
    lerp,
    maximum,
)


@fieldwise_init
struct ADOPTUpdate(LaneUpdate):
    """One step of ADOPT.

    With gradient g, parameter p and moments m and v at step t from 1. The first
    step only sets `v = g^2`. From then on `u = g / max(sqrt(v), eps)`, limited to
    `[-c, c]` with `c = (t - 1)^0.25`, `m += (1 - beta1) (u - m)`,
    `p = (1 - lr weight_decay) p - lr m` and `v = beta2 v + (1 - beta2) g^2`.
    """

    comptime STATES = 2
    """The two moments."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var decay: Float64
    """`1 - lr weight_decay`."""
    var first_weight: Float64
    """`1 - beta1`."""
    var beta2: Float64
    """The decay of the second moment."""
    var second_weight: Float64
    """`1 - beta2`."""
    var eps: Float64
    """The least denominator."""
    var limit: Float64
    """The limit c, infinite for none."""
    var negative_lr: Float64
    """`-lr`."""
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
            state: First and second moment.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(param, grad, self.maximize, 0)

        if self.is_first != 0:
            state[1] = g * g
            return
        var u = g / maximum(sqrt(state[1]), Lanes(self.eps.cast[dtype]()))
        var limit = Lanes(self.limit.cast[dtype]())
        u = u.gt(limit).select(limit, u)
        u = u.lt(-limit).select(-limit, u)
        var m = lerp(state[0], u, self.first_weight.cast[dtype]())
        state[0] = m
        var decayed = param * Lanes(self.decay.cast[dtype]())
        param = m.fma(Lanes(self.negative_lr.cast[dtype]()), decayed)
        state[1] = addcmul(
            state[1] * Lanes(self.beta2.cast[dtype]()),
            g,
            g,
            Lanes(self.second_weight.cast[dtype]()),
        )


struct ADOPT(UpdateRule):
    """Hyperparameters of ADOPT."""

    comptime Update = ADOPTUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var beta1: Float64
    """The decay of the first moment, in [0, 1)."""
    var beta2: Float64
    """The decay of the second moment, in [0, 1)."""
    var eps: Float64
    """The least denominator, above 0."""
    var weight_decay: Float64
    """The decoupled weight decay, at least 0."""
    var clip: Float64
    """1 to limit normalized gradients, else 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.9999,
        eps: Float64 = 1e-6,
        weight_decay: Float64 = 0.0,
        clip: Bool = True,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are those of Python.

        Args:
            lr: The learning rate, at least 0.
            beta1: The decay of the first moment, in [0, 1).
            beta2: The decay of the second moment, in [0, 1).
            eps: The least denominator, above 0.
            weight_decay: The decoupled weight decay, at least 0.
            clip: Whether to limit normalized gradients to `(t - 1)^0.25`.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weight_decay = weight_decay
        self.clip = 1.0 if clip else 0.0
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants.
        """
        var limit = inf[DType.float64]()
        if self.clip != 0:
            limit = external_call["pow", Float64](step - 1, Float64(0.25))
        return Self.Update(
            maximize=self.maximize,
            decay=1 - self.lr * self.weight_decay,
            first_weight=1 - self.beta1,
            beta2=self.beta2,
            second_weight=1 - self.beta2,
            eps=self.eps,
            limit=limit,
            negative_lr=-self.lr,
            is_first=1.0 if step == 1 else 0.0,
        )
