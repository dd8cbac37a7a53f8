"""Adadelta (Zeiler, 2012, arXiv:1212.5701)."""

from std.math import sqrt

from ..core import LaneUpdate, Scalars, UpdateRule, addcmul, effective_gradient


@fieldwise_init
struct AdadeltaUpdate(LaneUpdate):
    """One step of Adadelta, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p, mean squares v of gradients and d of changes:
    `v = rho v + (1 - rho) g^2`, `u = sqrt(d + eps) / sqrt(v + eps) g`,
    `d = rho d + (1 - rho) u^2` and `p -= lr u`.
    """

    comptime STATES = 2
    """The mean squares of the gradients and of the changes."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var rho: Float64
    """The decay of the mean squares."""
    var one_minus_rho: Float64
    """`1 - rho`."""
    var eps: Float64
    """Added below both roots."""
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
            state: Mean squares of the gradients and of the changes.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )

        var rho = Lanes(self.rho.cast[dtype]())
        var weight = Lanes(self.one_minus_rho.cast[dtype]())
        var eps = Lanes(self.eps.cast[dtype]())
        var v = addcmul(state[0] * rho, g, g, weight)
        state[0] = v
        var change = sqrt(state[1] + eps) / sqrt(v + eps) * g
        state[1] = addcmul(state[1] * rho, change, change, weight)
        param = change.fma(Lanes(self.negative_lr.cast[dtype]()), param)


struct Adadelta(UpdateRule):
    """Hyperparameters of Adadelta."""

    comptime Update = AdadeltaUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var rho: Float64
    """The decay of the mean squares, in [0, 1]."""
    var eps: Float64
    """Added below both roots, at least 0."""
    var weight_decay: Float64
    """The weight decay that joins the gradient, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1.0,
        rho: Float64 = 0.9,
        eps: Float64 = 1e-6,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The learning rate, at least 0.
            rho: The decay of the mean squares, in [0, 1].
            eps: Added below both roots, at least 0.
            weight_decay: The weight decay that joins the gradient, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
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
            weight_decay=self.weight_decay,
            rho=self.rho,
            one_minus_rho=1 - self.rho,
            eps=self.eps,
            negative_lr=-self.lr,
        )
