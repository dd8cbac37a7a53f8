"""A step that moves AdamW's memory and computes next to nothing.

It goes through the driver of the optimizers, so that what it takes is the least
that a rule with two states can take: read four numbers, write three.
"""

from shared.training.core import (
    Context,
    LaneUpdate,
    Scalars,
    TorchExecutor,
    UpdateRule,
    update,
    words_at,
)


struct StreamUpdate(LaneUpdate):
    """Adds the gradient to everything."""

    comptime STATES = 2
    """As many as AdamW's."""

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
            dtype: The compute dtype.
            width: How many lanes.

        Args:
            param: The parameters.
            grad: The gradients.
            state: Two state tensors.
        """
        param += grad
        state[0] += grad
        state[1] += grad

    def __init__(out self):
        """Needs nothing."""
        pass


struct Stream(UpdateRule):
    """A rule without hyperparameters."""

    comptime Update = StreamUpdate
    """The constants of one step."""

    def __init__(out self):
        """Needs nothing."""
        pass

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives nothing.

        Args:
            step: The number of the step.
            scalars: None.

        Returns:
            The update.
        """
        return Self.Update()


@export
def stream(context: Int, parallel_for: Int) abi("C"):
    """Takes one step on float32 tensors.

    Args:
        context: Address of a launch's context.
        parallel_for: Address of `torch_parallel_for`.
    """
    update[Stream, DType.float32](
        Context(words_at(context)), TorchExecutor(parallel_for)
    )
