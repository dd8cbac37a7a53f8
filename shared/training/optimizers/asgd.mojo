"""Averaged stochastic gradient descent (Polyak and Juditsky, 1992, "Acceleration of
stochastic approximation by averaging")."""

from std.ffi import external_call

from ..core import LaneUpdate, Scalars, UpdateRule, effective_gradient


@fieldwise_init
struct ASGDUpdate(LaneUpdate):
    """One step of ASGD, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p and average a, at step t with the rates eta and mu that
    step t - 1 left: `p = (1 - lambd eta) p - eta g`, `a += mu (p - a)`,
    then `eta = lr / (1 + lambd lr t)^alpha` and `mu = 1 / max(1, t - t0)`.
    """

    comptime STATES = 1
    """The average of the parameters."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var decay: Float64
    """`1 - lambd eta`."""
    var negative_eta: Float64
    """`-eta`."""
    var mu: Float64
    """How far the average moves to the parameter."""

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
            state: The average of the parameters.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )

        param = g.fma(
            Lanes(self.negative_eta.cast[dtype]()),
            param * Lanes(self.decay.cast[dtype]()),
        )
        if self.mu == 1:
            state[0] = param
        else:
            state[0] = state[0] + (param - state[0]) * Lanes(
                self.mu.cast[dtype]()
            )


struct ASGD(UpdateRule):
    """Hyperparameters of ASGD."""

    comptime Update = ASGDUpdate
    """The constants of one step."""

    comptime SCALARS = 2
    """The rates eta and mu."""

    var lr: Float64
    """The learning rate, at least 0."""
    var lambd: Float64
    """The decay of parameters and rate, at least 0."""
    var alpha: Float64
    """The power of the rate's decay."""
    var t0: Float64
    """The step at which averaging starts."""
    var weight_decay: Float64
    """The weight decay that joins the gradient, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-2,
        lambd: Float64 = 1e-4,
        alpha: Float64 = 0.75,
        t0: Float64 = 1e6,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The learning rate, at least 0.
            lambd: The decay of parameters and rate, at least 0.
            alpha: The power of the rate's decay.
            t0: The step at which averaging starts.
            weight_decay: The weight decay that joins the gradient, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.lambd = lambd
        self.alpha = alpha
        self.t0 = t0
        self.weight_decay = weight_decay
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: The rates eta and mu.

        Returns:
            The constants.
        """
        var eta = scalars[0].cast[DType.float64]()
        var mu = scalars[1].cast[DType.float64]()
        var decay = external_call["pow", Float64](
            1 + self.lambd * self.lr * step, self.alpha
        )
        scalars[0] = (self.lr / decay).cast[DType.float32]()
        scalars[1] = (1 / max(1.0, step - self.t0)).cast[DType.float32]()
        return Self.Update(
            maximize=self.maximize,
            weight_decay=self.weight_decay,
            decay=1 - self.lambd * eta,
            negative_eta=-eta,
            mu=mu,
        )

    def initial_scalar(self, index: Int) -> Float32:
        """Gives a rate before the first step.

        Args:
            index: 0 for eta, 1 for mu.

        Returns:
            The learning rate for eta, 1 for mu.
        """
        return self.lr.cast[DType.float32]() if index == 0 else 1
