"""What an update rule is: hyperparameters, and one formula on SIMD lanes."""

from std.reflection import reflect

from .learning_rate import LearningRate

comptime SCALARS_MAX = 2
"""The most one-element states, beside the count of steps, that a rule may keep."""

comptime Scalars = Array[Float32, SCALARS_MAX]
"""A parameter's states with one element; the first `UpdateRule.SCALARS` count."""

comptime SUMS_MAX = 2
"""The most sums over whole tensors that a rule may measure."""

comptime Sums = Array[Float64, SUMS_MAX]
"""What a rule measured; the first `LaneUpdate.SUMS` count."""


trait LaneUpdate(Deinitable, ImplicitlyCopyable, Movable):
    """The constants of one step, and the update of a few elements with them."""

    comptime STATES: Int
    """How many state tensors the rule keeps for each parameter."""

    comptime HAS_SCALAR_ROUNDING: Bool = False
    """Whether width 1 rounds otherwise, as the scalar remainders of torch do."""

    comptime SUMS: Int = 0
    """How many sums over whole tensors the update needs: with any, a pass of
    `measure` goes before that of `apply`."""

    comptime MEASURES_STATE: Bool = False
    """Whether `measure` moves the state, so that `apply` only reads it. Otherwise
    `measure` sees no state."""

    comptime APPLIES_GRAD: Bool = not Self.MEASURES_STATE
    """Whether `apply` sees the gradient."""

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
            width: How many lanes. Any width must give the same bits; with
                `HAS_SCALAR_ROUNDING` any width above 1, and width 1 is used only
                for what torch leaves to a scalar loop.

        Args:
            param: The parameters, replaced by their new values.
            grad: The gradients.
            state: The state tensors' lanes, replaced by their new values.
        """
        ...

    def measure[
        dtype: DType, width: Int
    ](
        self,
        param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
        mut sums: Array[SIMD[DType.float64, width], Self.SUMS],
    ):
        """Adds what `width` elements contribute to each sum.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            grad: The gradients.
            state: With `MEASURES_STATE` the state tensors' lanes, replaced by their
                new values; otherwise nothing that may be read.
            sums: The sums so far of each lane.
        """
        pass


trait UpdateRule(Deinitable, ImplicitlyCopyable, LearningRate, Movable):
    """The hyperparameters of an optimizer, all of them Float64 fields, `lr` among them.

    A rule is also the record through which Python passes hyperparameters: its
    fields, in order, are the float64 row of `Context.hyperparameters`.
    """

    comptime Update: LaneUpdate
    """The constants that the rule derives for one step."""

    comptime SCALARS: Int = 0
    """How many states with one element the rule keeps for each parameter."""

    comptime SHARES_SUMS: Bool = False
    """Whether a sum runs over all tensors of all groups, and not over each one."""

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: The parameter's states with one element, replaced by their
                new values.

        Returns:
            The constants, valid for every element of a tensor at that step.
        """
        ...

    def take_sums(mut self, sums: Sums):
        """Derives new hyperparameters from the sums over all tensors.

        Called once a step for each group of a rule with `SHARES_SUMS`, between the
        passes.

        Args:
            sums: The sums, of all groups together.
        """
        pass

    def finish(self, mut update: Self.Update, sums: Sums, numel: Int):
        """Completes the constants of a step of `apply`, after that of `measure`.

        Args:
            update: What `at_step` returned for a tensor.
            sums: The sums over that tensor, with `SHARES_SUMS` over all.
            numel: The number of elements of the tensor.
        """
        pass

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
            -0.0, the one start that leaves every first gradient, +0.0 and
            -0.0 among them, as it is when it is added.
        """
        return -0.0

    def initial_scalar(self, index: Int) -> Float32:
        """Gives a state with one element before the first step.

        Args:
            index: Which one, from 0.

        Returns:
            1.
        """
        return 1

    def learning_rate(self) -> Float64:
        """Reads the field `lr`.

        Returns:
            The learning rate.
        """
        comptime fields = reflect[Self]
        comptime lr = fields.field_index["lr"]()
        return rebind[Float64](fields.field_ref[lr](self))

    def set_learning_rate(mut self, value: Float64):
        """Sets the field `lr`.

        Args:
            value: The learning rate.
        """
        comptime fields = reflect[Self]
        comptime lr = fields.field_index["lr"]()
        Pointer(to=fields.field_ref[lr](self)).unsafe_bitcast[
            Float64
        ]()[] = value
