"""LARS (You et al., 2017, arXiv:1708.03888): SGD with a learning rate of each tensor."""

from std.math import sqrt

from ..core import LaneUpdate, Scalars, Sums, UpdateRule
from .sgd import SGD, SGDUpdate


@fieldwise_init
struct LARSUpdate[momentum: Bool, nesterov: Bool](LaneUpdate):
    """One step of LARS, in two passes: norms, then SGD.

    With gradient g and parameter p, SGD's step is taken with
    `trust_coefficient |p| / (|g| + weight_decay |p| + eps) (g + weight_decay p)`
    for a gradient.

    Parameters:
        momentum: Whether there is a buffer.
        nesterov: Whether to look ahead by one more momentum step.
    """

    comptime STATES = SGDUpdate[Self.momentum, Self.nesterov].STATES
    """The momentum buffer."""
    comptime SUMS = 2
    """The squares of p and of g."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var local_lr: Float64
    """What multiplies the gradient; 1 until the norms are known."""
    var sgd: SGDUpdate[Self.momentum, Self.nesterov]
    """SGD's own constants, without weight decay."""

    @always_inline
    def measure[
        dtype: DType, width: Int
    ](
        self,
        param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
        mut sums: Array[SIMD[DType.float64, width], Self.SUMS],
    ):
        """Adds up squares.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            grad: The gradients.
            state: Not used.
            sums: The squares of the parameters and of the gradients.
        """
        var p = param.cast[DType.float64]()
        var g = grad.cast[DType.float64]()
        sums[0] = p.fma(p, sums[0])
        sums[1] = g.fma(g, sums[1])

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
        var g = grad
        if self.maximize != 0:
            g = -g
        if self.weight_decay != 0:
            g = param.fma(Lanes(self.weight_decay.cast[dtype]()), g)
        self.sgd.apply[dtype, width](
            param, g * Lanes(self.local_lr.cast[dtype]()), state
        )


struct LARS[momentum: Bool = True, nesterov: Bool = False](UpdateRule):
    """Hyperparameters of LARS.

    Parameters:
        momentum: Whether to keep a momentum buffer.
        nesterov: Whether to use Nesterov's variant; needs `momentum`.
    """

    comptime Update = LARSUpdate[Self.momentum, Self.nesterov]
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var momentum_decay: Float64
    """The decay of the momentum buffer, at least 0."""
    var dampening: Float64
    """How much less than 1 a new gradient weighs in the buffer."""
    var weight_decay: Float64
    """The weight decay, at least 0."""
    var trust_coefficient: Float64
    """How long a step is relative to the parameter, at `lr` 1; at least 0."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        momentum_decay: Float64 = 0.9 if Self.momentum else 0.0,
        dampening: Float64 = 0.0,
        weight_decay: Float64 = 0.0,
        trust_coefficient: Float64 = 1e-3,
        eps: Float64 = 1e-8,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters.

        Args:
            lr: The learning rate, at least 0.
            momentum_decay: The decay of the buffer, called momentum by torch.
            dampening: How much less than 1 a new gradient weighs in the buffer.
            weight_decay: The weight decay, at least 0.
            trust_coefficient: How long a step is relative to the parameter, at
                `lr` 1; at least 0.
            eps: Added to the denominator, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.momentum_decay = momentum_decay
        self.dampening = dampening
        self.weight_decay = weight_decay
        self.trust_coefficient = trust_coefficient
        self.eps = eps
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants, for the first pass.
        """
        var sgd = SGD[Self.momentum, Self.nesterov](
            lr=self.lr,
            momentum_decay=self.momentum_decay,
            dampening=self.dampening,
        )
        return Self.Update(
            maximize=self.maximize,
            weight_decay=self.weight_decay,
            local_lr=1,
            sgd=sgd.at_step(step, scalars),
        )

    def finish(self, mut update: Self.Update, sums: Sums, numel: Int):
        """Computes the learning rate of a tensor.

        It stays 1 where the parameter or the gradient is 0, so that parameters
        that start at 0 move.

        Args:
            update: The constants.
            sums: The squares of a tensor and of its gradient.
            numel: Not used.
        """
        if sums[0] == 0 or sums[1] == 0:
            return
        var param_norm = sqrt(sums[0])
        update.local_lr = (
            self.trust_coefficient
            * param_norm
            / (sqrt(sums[1]) + self.weight_decay * param_norm + self.eps)
        )
