"""Schedule-free SGD (Defazio et al., 2024, arXiv:2405.15682)."""

from ..core import LaneUpdate, Scalars, UpdateRule, effective_gradient, lerp


@fieldwise_init
struct ScheduleFreeSGDUpdate(LaneUpdate):
    """One step of schedule-free SGD; the parameter holds y.

    With gradient g at y, plus `weight_decay` times y: `y += weight (z - y)`,
    `y += lr (momentum (1 - weight) - 1) g` and `z -= lr g`.
    """

    comptime STATES = 1
    """The point z, where plain SGD would be."""

    var maximize: Float64
    """1 to maximize, else 0."""
    var weight_decay: Float64
    """How much of the parameter joins the gradient."""
    var weight: Float64
    """How far y moves to z."""
    var y_step: Float64
    """The factor of the gradient in y."""
    var negative_lr: Float64
    """Minus the learning rate of this step."""

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
            state: The point z.
        """
        comptime Lanes = SIMD[dtype, width]
        var g = effective_gradient(
            param, grad, self.maximize, self.weight_decay
        )

        var y = lerp(param, state[0], self.weight.cast[dtype]())
        param = g.fma(Lanes(self.y_step.cast[dtype]()), y)
        state[0] = g.fma(Lanes(self.negative_lr.cast[dtype]()), state[0])


struct ScheduleFreeSGD(UpdateRule):
    """Hyperparameters of schedule-free SGD, of which the caller updates two each step."""

    comptime Update = ScheduleFreeSGDUpdate
    """The constants of one step."""

    var lr: Float64
    """The learning rate of this step, warm-up included, at least 0."""
    var momentum: Float64
    """The weight of x in y, in (0, 1)."""
    var weight: Float64
    """The weight of this step in the average x, in [0, 1]."""
    var weight_decay: Float64
    """The weight decay that joins the gradient, at least 0."""
    var maximize: Float64
    """1 to maximize the objective, 0 to minimize it."""

    def __init__(
        out self,
        *,
        lr: Float64 = 1.0,
        momentum: Float64 = 0.9,
        weight: Float64 = 1.0,
        weight_decay: Float64 = 0.0,
        maximize: Bool = False,
    ):
        """Sets the hyperparameters; the defaults are those of Python.

        Args:
            lr: The learning rate of this step, warm-up included, at least 0.
            momentum: The weight of x in y, in (0, 1).
            weight: The weight of this step in the average x, in [0, 1].
            weight_decay: The weight decay that joins the gradient, at least 0.
            maximize: Whether to climb instead of descend.
        """
        self.lr = lr
        self.momentum = momentum
        self.weight = weight
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
            weight=self.weight,
            y_step=self.lr * (self.momentum * (1 - self.weight) - 1),
            negative_lr=-self.lr,
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
            The parameter, where z starts.
        """
        return param
