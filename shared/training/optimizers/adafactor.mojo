"""Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235), with torch's variations."""

from std.ffi import external_call
from std.math import sqrt

from ..core import (
    FactoredRule,
    FactoredUpdate,
    Scalars,
    Sums,
    lerp,
    maximum,
)


@fieldwise_init
struct AdafactorUpdate[points: Bool](FactoredUpdate):
    """One step of Adafactor, with a second moment for each element or factored.

    With gradient g, parameter p and second moment v: `v += weight (g^2 - v)`,
    `u = g / max(sqrt(v), eps1)` and `p = (1 - lr weight_decay) p - size u`. A
    first pass moves v and measures p and u, on which the size depends.

    Parameters:
        points: Whether each element is a matrix of its own, with a row and a column.
    """

    comptime STATES = 2 if Self.points else 1
    """The second moment, or those of the row and of the column."""
    comptime SUMS = 2
    """The squares of p and of u."""
    comptime MEASURES_STATE = True
    """The first pass moves the second moment."""
    comptime APPLIES_GRAD = True
    """The second pass computes u again."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight: Float64
    """`1 - beta2`, the weight of new squares."""
    var eps1: Float64
    """The least root of a second moment, and the least mean of its rows."""
    var decay: Float64
    """`1 - lr weight_decay`."""
    var rate: Float64
    """The learning rate relative to the size of the parameter."""
    var negative_step_size: Float64
    """The factor of u; 0 until the sums are known."""

    @always_inline
    def average[
        dtype: DType, width: Int
    ](self, moment: SIMD[dtype, width], squares: SIMD[dtype, width]) -> SIMD[
        dtype, width
    ]:
        """Moves second moments.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            moment: Second moments of elements, rows or columns.
            squares: The squared gradients, or means of them.

        Returns:
            The new moments.
        """
        return lerp(moment, squares, self.weight.cast[dtype]())

    def least_mean(self) -> Float64:
        """Gives what the mean of the rows' moments counts at least as.

        Returns:
            The first eps.
        """
        return self.eps1

    @always_inline
    def direction[
        dtype: DType, width: Int
    ](self, grad: SIMD[dtype, width], inverse_root: SIMD[dtype, width]) -> SIMD[
        dtype, width
    ]:
        """Computes the update before it is clipped.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            grad: The gradients.
            inverse_root: 1 by the square roots of the second moments.

        Returns:
            The update.
        """
        # The square is rounded first, to 0 where torch's is.
        var largest = SIMD[dtype, width](
            1 / sqrt((self.eps1 * self.eps1).cast[dtype]())
        )
        # NaN stays, unlike with `min`.
        var scale = inverse_root.gt(largest).select(largest, inverse_root)
        var u = grad * scale
        if self.maximize != 0:
            u = -u
        return u

    @always_inline
    def move[
        dtype: DType, width: Int
    ](self, param: SIMD[dtype, width], direction: SIMD[dtype, width]) -> SIMD[
        dtype, width
    ]:
        """Takes the step.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            direction: The update before it is clipped.

        Returns:
            The new parameters.
        """
        comptime Lanes = SIMD[dtype, width]
        var size = Lanes(self.negative_step_size.cast[dtype]())
        return direction.fma(size, param * Lanes(self.decay.cast[dtype]()))

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
        """Moves the second moment of each element and adds up squares.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            grad: The gradients.
            state: The second moments.
            sums: The squares of the parameters and of the update.
        """
        comptime for s in range(Self.STATES):
            state[s] = self.average(state[s], grad * grad)
        var p = param.cast[DType.float64]()
        var root = self._inverse_root(state)
        var u = self.direction(grad, root).cast[DType.float64]()
        sums[0] = p.fma(p, sums[0])
        sums[1] = u.fma(u, sums[1])

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
            state: The second moments.
        """
        var direction = self.direction(grad, self._inverse_root(state))
        param = self.move(param, direction)

    @always_inline
    def _inverse_root[
        dtype: DType, width: Int
    ](self, state: Array[SIMD[dtype, width], Self.STATES]) -> SIMD[
        dtype, width
    ]:
        var moment = state[0]
        comptime if Self.points:
            var least = SIMD[dtype, width](self.eps1.cast[dtype]())
            moment *= state[1] / maximum(state[0], least)
        return 1 / sqrt(moment)


struct Adafactor[points: Bool = False](FactoredRule):
    """Hyperparameters of Adafactor.

    An `Optimizer` takes parameters without shape, hence a second moment for each
    element; `update_factored` keeps one for each row and each column.

    Parameters:
        points: Whether each element is a matrix of its own, with a row and a column.
    """

    comptime Update = AdafactorUpdate[Self.points]
    """The constants of one step."""

    var lr: Float64
    """The largest relative learning rate, at least 0."""
    var beta2_decay: Float64
    """The exponent of `1 - beta2`, at most 0."""
    var eps1: Float64
    """The least root of a second moment, at least 0."""
    var eps2: Float64
    """The least size of a parameter, at least 0."""
    var d: Float64
    """The largest root mean square of an update, at least 1."""
    var weight_decay: Float64
    """The decoupled weight decay, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-2,
        beta2_decay: Float64 = -0.8,
        eps1: Float64 = 2.0**-23,
        eps2: Float64 = 1e-3,
        d: Float64 = 1.0,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's for float32.

        Args:
            lr: The largest relative learning rate, at least 0.
            beta2_decay: The exponent of `1 - beta2`, at most 0.
            eps1: The least root of a second moment, at least 0.
            eps2: The least size of a parameter, at least 0.
            d: The largest root mean square of an update, at least 1.
            weight_decay: The decoupled weight decay, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.beta2_decay = beta2_decay
        self.eps1 = eps1
        self.eps2 = eps2
        self.d = d
        self.weight_decay = weight_decay
        self.maximize = 1.0 if maximize else 0.0

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants, for the first pass.
        """
        return Self.Update(
            maximize=self.maximize,
            weight=external_call["pow", Float64](step, self.beta2_decay),
            eps1=self.eps1,
            decay=1 - self.lr * self.weight_decay,
            rate=min(self.lr, 1 / sqrt(step)),
            negative_step_size=0,
        )

    def finish(self, mut update: Self.Update, sums: Sums, numel: Int):
        """Scales the step to the parameter, and clips the update.

        Args:
            update: The constants.
            sums: The squares of a tensor and of its update.
            numel: The number of elements of the tensor.
        """
        # As in torch, a root mean square that is NaN counts as small.
        var param_size = sqrt(sums[0] / Float64(numel))
        if not param_size > self.eps2:
            param_size = self.eps2
        var excess = sqrt(sums[1] / Float64(numel)) / self.d
        if not excess > 1:
            excess = 1
        update.negative_step_size = -update.rate * param_size / excess
