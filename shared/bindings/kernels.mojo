"""The kernels that the extension carries, by number."""

from shared.training.core import Context, Executor, UpdateRule, update
from shared.training.optimizers import SGD, Adam, AdamW


struct Kernel:
    """Numbers each rule's float32 kernel; float64 and bfloat16 follow it."""

    comptime SGD = 0
    """SGD without a buffer."""
    comptime SGD_MOMENTUM = 3
    """SGD with momentum."""
    comptime SGD_NESTEROV = 6
    """SGD with Nesterov momentum."""
    comptime ADAM = 9
    """Adam."""
    comptime ADAM_AMSGRAD = 12
    """AMSGrad."""
    comptime ADAMW = 15
    """AdamW."""
    comptime ADAMW_AMSGRAD = 18
    """AMSGrad with decoupled weight decay."""
    comptime END = 21
    """Number of kernels."""


def run_kernel[
    Runner: Executor
](kernel: Int, context: Context, executor: Runner):
    """Takes one step with the kernel of a number.

    Parameters:
        Runner: The type of the executor.

    Args:
        kernel: A number of `Kernel`, plus 1 for float64 or 2 for bfloat16.
        context: What to update.
        executor: Who runs the blocks.
    """
    _run[SGD[], Kernel.SGD](kernel, context, executor)
    _run[SGD[momentum=True], Kernel.SGD_MOMENTUM](kernel, context, executor)
    _run[SGD[momentum=True, nesterov=True], Kernel.SGD_NESTEROV](
        kernel, context, executor
    )
    _run[Adam[], Kernel.ADAM](kernel, context, executor)
    _run[Adam[amsgrad=True], Kernel.ADAM_AMSGRAD](kernel, context, executor)
    _run[AdamW[], Kernel.ADAMW](kernel, context, executor)
    _run[AdamW[amsgrad=True], Kernel.ADAMW_AMSGRAD](kernel, context, executor)


@always_inline
def _run[
    Rule: UpdateRule, first: Int, Runner: Executor
](kernel: Int, context: Context, executor: Runner):
    if kernel == first:
        update[Rule, DType.float32](context, executor)
    elif kernel == first + 1:
        update[Rule, DType.float64](context, executor)
    elif kernel == first + 2:
        update[Rule, DType.bfloat16](context, executor)
