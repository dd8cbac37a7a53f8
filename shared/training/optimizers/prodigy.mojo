"""Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101): Adam that finds its rate."""

from std.math import sqrt

from ..core import LaneUpdate, Scalars, Sums, UpdateRule
from .adam import bias_correction


@fieldwise_init
struct ProdigyUpdate(LaneUpdate):
    """One step of Prodigy, in two passes.

    With gradient g, parameter p and its start p0, moments m and v, the average s
    of gradients and the distance d: the first pass takes
    `m = beta1 m + (1 - beta1) d g`, `v = beta2 v + (1 - beta2) d^2 g^2` and
    `s = beta3 s + (d / d0) r g` and sums `g (p0 - p)` and `|s|`; the second
    `p -= r (m / (sqrt(v) + d eps) + weight_decay p)`, with the new d. r is the
    old d times the learning rate.
    """

    comptime STATES = 4
    """The two moments, s, and p0."""
    comptime SUMS = 2
    """`g (p0 - p)` and `|s|`."""
    comptime MEASURES_STATE = True
    """The first pass moves the averages."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var grad_decay: Float64
    """How much of the parameter joins the gradient; 0 if decoupled."""
    var beta1: Float64
    """The decay of the first moment."""
    var first_weight: Float64
    """`(1 - beta1) d`."""
    var beta2: Float64
    """The decay of the second moment."""
    var second_weight: Float64
    """`(1 - beta2) d^2`."""
    var beta3: Float64
    """The decay of s."""
    var s_weight: Float64
    """What a gradient weighs in s."""
    var param_decay: Float64
    """`-r weight_decay`; 0 if not decoupled."""
    var eps: Float64
    """`d eps`, with the new d once that is known."""
    var negative_step_size: Float64
    """`-r`; 0 for no step at all."""

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
        """Moves the averages and adds up the parts of the distance.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            grad: The gradients.
            state: The moments, s, and the parameters' start.
            sums: `g (p0 - p)` and `|s|`.
        """
        if self.negative_step_size == 0:
            return
        comptime Lanes = SIMD[dtype, width]
        var g = grad
        if self.maximize != 0:
            g = -g
        if self.grad_decay != 0:
            g = param.fma(Lanes(self.grad_decay.cast[dtype]()), g)
        state[0] = g.fma(
            Lanes(self.first_weight.cast[dtype]()),
            state[0] * Lanes(self.beta1.cast[dtype]()),
        )
        var weighted = g * Lanes(self.second_weight.cast[dtype]())
        state[1] = weighted.fma(g, state[1] * Lanes(self.beta2.cast[dtype]()))
        state[2] = g.fma(
            Lanes(self.s_weight.cast[dtype]()),
            state[2] * Lanes(self.beta3.cast[dtype]()),
        )
        var way = (state[3] - param).cast[DType.float64]()
        sums[0] = way.fma(g.cast[DType.float64](), sums[0])
        sums[1] += abs(state[2]).cast[DType.float64]()

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
            grad: Not used.
            state: The moments; the rest is not used.
        """
        if self.negative_step_size == 0:
            return
        comptime Lanes = SIMD[dtype, width]
        var p = param
        if self.param_decay != 0:
            p = p.fma(Lanes(self.param_decay.cast[dtype]()), p)
        var denominator = sqrt(state[1]) + Lanes(self.eps.cast[dtype]())
        var step = state[0] * Lanes(self.negative_step_size.cast[dtype]())
        param = p + step / denominator


struct Prodigy(UpdateRule):
    """Hyperparameters of Prodigy, and the distance that it has estimated."""

    comptime Update = ProdigyUpdate
    """The constants of one step."""
    comptime SHARES_SUMS = True
    """There is one distance for all parameters."""

    var lr: Float64
    """The learning rate, a factor of the estimated one, at least 0."""
    var beta1: Float64
    """The decay of the first moment, in [0, 1)."""
    var beta2: Float64
    """The decay of the second moment, in [0, 1)."""
    var beta3: Float64
    """The decay of the sums that estimate the distance, in [0, 1)."""
    var eps: Float64
    """Added to the denominator, at least 0."""
    var weight_decay: Float64
    """The weight decay, at least 0."""
    var d0: Float64
    """The first distance, above 0."""
    var d_coef: Float64
    """A factor of the estimate, above 0."""
    var growth_rate: Float64
    """How many times larger one step may make the distance, at least 1."""
    var decouple: Float64
    """1 for weight decay that shrinks p, 0 for one that joins g."""
    var use_bias_correction: Float64
    """1 for Adam's bias corrections, 0 for none."""
    var safeguard_warmup: Float64
    """1 to keep the learning rate out of s, else 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""
    var k: Float64
    """The number of steps taken."""
    var d: Float64
    """The distance."""
    var d_max: Float64
    """The largest estimate so far."""
    var d_numerator: Float64
    """The decayed sum of `(d / d0) r g (p0 - p)`."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1.0,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.999,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0.0,
        d0: Float64 = 1e-6,
        d_coef: Float64 = 1.0,
        growth_rate: Float64 = Float64.MAX,
        decouple: Bool = True,
        use_bias_correction: Bool = False,
        safeguard_warmup: Bool = False,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are the authors'.

        Args:
            lr: A factor of the estimated learning rate, at least 0.
            beta1: The decay of the first moment, in [0, 1).
            beta2: The decay of the second moment, in [0, 1); that of the sums is
                its square root.
            eps: Added to the denominator, at least 0.
            weight_decay: The weight decay, at least 0.
            d0: The first distance, above 0.
            d_coef: A factor of the estimate, above 0.
            growth_rate: How many times larger one step may make the distance.
            decouple: Whether weight decay shrinks p, or joins g.
            use_bias_correction: Whether to correct the moments as Adam does.
            safeguard_warmup: Whether to keep the learning rate out of s.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.beta3 = sqrt(beta2)
        self.eps = eps
        self.weight_decay = weight_decay
        self.d0 = d0
        self.d_coef = d_coef
        self.growth_rate = growth_rate
        self.decouple = 1.0 if decouple else 0.0
        self.use_bias_correction = 1.0 if use_bias_correction else 0.0
        self.safeguard_warmup = 1.0 if safeguard_warmup else 0.0
        self.maximize = 1.0 if maximize else 0.0
        self.k = 0
        self.d = d0
        self.d_max = d0
        self.d_numerator = 0

    def rate(self) -> Float64:
        """Computes the length of the next step.

        Returns:
            `d lr`, with the bias corrections if they are asked for.
        """
        var correction = 1.0
        if self.use_bias_correction != 0:
            correction = sqrt(
                bias_correction(self.beta2, self.k + 1)
            ) / bias_correction(self.beta1, self.k + 1)
        return self.d * self.lr * correction

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: Not used: the rule counts the steps of all parameters together.
            scalars: None.

        Returns:
            The constants, for the first pass.
        """
        var rate = self.rate()
        var is_decoupled = self.decouple != 0
        return Self.Update(
            maximize=self.maximize,
            grad_decay=0.0 if is_decoupled else self.weight_decay,
            beta1=self.beta1,
            first_weight=self.d * (1 - self.beta1),
            beta2=self.beta2,
            second_weight=self.d * self.d * (1 - self.beta2),
            beta3=self.beta3,
            s_weight=self.d
            / self.d0
            * (self.d if self.safeguard_warmup != 0 else rate),
            param_decay=-self.weight_decay * rate if is_decoupled else 0.0,
            eps=self.d * self.eps,
            negative_step_size=-rate,
        )

    def take_sums(mut self, sums: Sums):
        """Estimates the distance anew, unless there were only zero gradients.

        Args:
            sums: `g (p0 - p)` and `|s|` of all parameters.
        """
        if sums[1] == 0:
            return
        self.d_numerator = (
            self.beta3 * self.d_numerator
            + self.d / self.d0 * self.rate() * sums[0]
        )
        var estimate = self.d_coef * self.d_numerator / sums[1]
        # Comparisons that a NaN fails leave the distance alone.
        if self.d == self.d0 and estimate > self.d:
            self.d = estimate
        if estimate > self.d_max:
            self.d_max = estimate
        self.d = min(self.d_max, self.d * self.growth_rate)
        self.k += 1

    def finish(self, mut update: Self.Update, sums: Sums, numel: Int):
        """Scales eps by the new distance.

        Args:
            update: The constants.
            sums: `g (p0 - p)` and `|s|` of all parameters.
            numel: Not used.
        """
        update.eps = self.d * self.eps
        if sums[1] == 0:
            update.negative_step_size = 0

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
            The parameter for the last one, else 0.
        """
        return param if index == 3 else 0
