"""Stochastic gradient descent with momentum.

Nesterov's variant is that of Sutskever et al., 2013, as torch words it.
"""

from ..core import LaneUpdate, Scalars, UpdateRule, effective_gradient


@fieldwise_init
struct SGDUpdate[momentum: Bool, nesterov: Bool](LaneUpdate):
    """One step of SGD, rounded where torch's single-tensor loop rounds.

    With gradient g, parameter p and buffer b: `g += weight_decay p`,
    `b = momentum b + (1 - dampening) g` and `p -= lr b`; Nesterov's variant puts
    `g + momentum b` in the place of b.

    Parameters:
        momentum: Whether there is a buffer.
        nesterov: Whether to look ahead by one more momentum step.
    """

    comptime STATES = 1 if Self.momentum else 0
    """The momentum buffer."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var momentum_decay: Float64
    """The decay of the buffer."""
    var grad_weight: Float64
    """`1 - dampening`, and 1 at the first step."""
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
            state: The momentum buffer, if there is one.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )
        comptime if Self.momentum:
            var decay = Lanes(self.momentum_decay.cast[dtype]())
            var b = g.fma(
                Lanes(self.grad_weight.cast[dtype]()), state[0] * decay
            )
            state[0] = b
            comptime if Self.nesterov:
                g = b.fma(decay, g)
            else:
                g = b
        param = g.fma(Lanes(self.negative_lr.cast[dtype]()), param)


struct SGD[momentum: Bool = False, nesterov: Bool = False](UpdateRule):
    """Hyperparameters of SGD.

    Parameters:
        momentum: Whether to keep a momentum buffer.
        nesterov: Whether to use Nesterov's variant; needs `momentum`.
    """

    comptime Update = SGDUpdate[Self.momentum, Self.nesterov]
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var momentum_decay: Float64
    """The decay of the momentum buffer, at least 0."""
    var dampening: Float64
    """How much less than 1 a new gradient weighs in the buffer."""
    var weight_decay: Float64
    """The weight decay, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        momentum_decay: Float64 = 0.9 if Self.momentum else 0.0,
        dampening: Float64 = 0.0,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters.

        Args:
            lr: The learning rate, at least 0.
            momentum_decay: The decay of the buffer, called momentum by torch.
            dampening: How much less than 1 a new gradient weighs in the buffer.
            weight_decay: The weight decay, at least 0.
            maximize: Whether to climb instead of descend.
        """
        comptime assert (
            Self.momentum or not Self.nesterov
        ), "nesterov needs momentum"
        self.lr = lr
        self.momentum_decay = momentum_decay
        self.dampening = dampening
        self.weight_decay = weight_decay
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        The first gradient enters the buffer whole, as in torch.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants.
        """
        return Self.Update(
            maximize=self.maximize,
            weight_decay=self.weight_decay,
            momentum_decay=self.momentum_decay,
            grad_weight=1.0 if step == 1 else 1 - self.dampening,
            negative_lr=-self.lr,
        )
