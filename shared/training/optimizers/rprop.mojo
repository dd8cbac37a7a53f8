"""Rprop (Riedmiller and Braun, 1993, "A direct adaptive method for faster
backpropagation learning"), without backtracking."""

from ..core import LaneUpdate, Scalars, UpdateRule, sign


@fieldwise_init
struct RpropUpdate(LaneUpdate):
    """One step of Rprop, rounded where torch's single-tensor loop rounds.

    With gradient g, the one before it g' and step size s: s grows by `etaplus` where
    `g g' > 0` and shrinks by `etaminus` where `g g' < 0`, within its bounds; where it
    shrank, g counts as 0. Then `p -= sign(g) s`.
    """

    comptime STATES = 2
    """The previous gradient and the step size."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var etaminus: Float64
    """Shrinks a step size."""
    var etaplus: Float64
    """Grows a step size."""
    var step_size_min: Float64
    """The least step size."""
    var step_size_max: Float64
    """The largest step size."""

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
            state: Previous gradient and step size.
        """
        comptime Lanes = SIMD[dtype, width]

        var g = grad
        if self.maximize != 0:
            g = -g
        var product = g * state[0]
        var factor = product.gt(0).select(
            Lanes(self.etaplus.cast[dtype]()), Lanes(1)
        )
        factor = product.lt(0).select(
            Lanes(self.etaminus.cast[dtype]()), factor
        )
        var size = state[1] * factor
        size = size.lt(Lanes(self.step_size_min.cast[dtype]())).select(
            Lanes(self.step_size_min.cast[dtype]()), size
        )
        size = size.gt(Lanes(self.step_size_max.cast[dtype]())).select(
            Lanes(self.step_size_max.cast[dtype]()), size
        )
        g = product.lt(0).select(Lanes(0), g)
        state[0] = g
        state[1] = size
        param = param - sign(g) * size


struct Rprop(UpdateRule):
    """Hyperparameters of Rprop."""

    comptime Update = RpropUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate, at least 0."""
    var etaminus: Float64
    """Shrinks a step size, in (0, 1)."""
    var etaplus: Float64
    """Grows a step size, above 1."""
    var step_size_min: Float64
    """The least step size."""
    var step_size_max: Float64
    """The largest step size."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-2,
        etaminus: Float64 = 0.5,
        etaplus: Float64 = 1.2,
        step_size_min: Float64 = 1e-6,
        step_size_max: Float64 = 50.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are torch's.

        Args:
            lr: The first step size, at least 0.
            etaminus: Shrinks a step size, in (0, 1).
            etaplus: Grows a step size, above 1.
            step_size_min: The least step size.
            step_size_max: The largest step size.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.etaminus = etaminus
        self.etaplus = etaplus
        self.step_size_min = step_size_min
        self.step_size_max = step_size_max
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
            etaminus=self.etaminus,
            etaplus=self.etaplus,
            step_size_min=self.step_size_min,
            step_size_max=self.step_size_max,
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
            0 for the gradient, the learning rate for the step size.
        """
        return 0 if index == 0 else self.lr.cast[dtype]()
