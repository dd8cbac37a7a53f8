"""The kernels that the extension carries, by number."""

from shared.training.core import Context, Executor, UpdateRule, update
from shared.training.optimizers import LAMB, LARS, SGD, Adam, AdamW, Prodigy

comptime DTYPES = 3
"""How many dtypes each kernel comes in: float32, float64, bfloat16."""


struct Kernel:
    """Numbers the kernels; `KERNELS` in Python names them in the same order."""

    comptime SGD = 0
    """SGD without a buffer."""
    comptime SGD_MOMENTUM = 1
    """SGD with momentum."""
    comptime SGD_NESTEROV = 2
    """SGD with Nesterov momentum."""
    comptime ADAM = 3
    """Adam."""
    comptime ADAM_AMSGRAD = 4
    """AMSGrad."""
    comptime ADAMW = 5
    """AdamW."""
    comptime ADAMW_AMSGRAD = 6
    """AMSGrad with decoupled weight decay."""
    comptime LAMB = 7
    """LAMB."""
    comptime LARS = 8
    """LARS without a buffer."""
    comptime LARS_MOMENTUM = 9
    """LARS with momentum."""
    comptime LARS_NESTEROV = 10
    """LARS with Nesterov momentum."""
    comptime PRODIGY = 11
    """Prodigy."""
    comptime END = 12
    """Number of kernels."""


def run_kernel[
    Runner: Executor
](kernel: Int, dtype: Int, context: Context, executor: Runner):
    """Takes one step with the kernel of a number.

    Parameters:
        Runner: The type of the executor.

    Args:
        kernel: A number of `Kernel`.
        dtype: 0 for float32, 1 for float64, 2 for bfloat16.
        context: What to update.
        executor: Who runs the blocks.
    """
    var number = kernel * DTYPES + dtype
    _run[SGD[], Kernel.SGD](number, context, executor)
    _run[SGD[momentum=True], Kernel.SGD_MOMENTUM](number, context, executor)
    _run[SGD[momentum=True, nesterov=True], Kernel.SGD_NESTEROV](
        number, context, executor
    )
    _run[Adam[], Kernel.ADAM](number, context, executor)
    _run[Adam[amsgrad=True], Kernel.ADAM_AMSGRAD](number, context, executor)
    _run[AdamW[], Kernel.ADAMW](number, context, executor)
    _run[AdamW[amsgrad=True], Kernel.ADAMW_AMSGRAD](number, context, executor)
    _run[LAMB, Kernel.LAMB](number, context, executor)
    _run[LARS[momentum=False], Kernel.LARS](number, context, executor)
    _run[LARS[], Kernel.LARS_MOMENTUM](number, context, executor)
    _run[LARS[nesterov=True], Kernel.LARS_NESTEROV](number, context, executor)
    _run[Prodigy, Kernel.PRODIGY](number, context, executor)


@always_inline
def _run[
    Rule: UpdateRule, kernel: Int, Runner: Executor
](number: Int, context: Context, executor: Runner):
    comptime first = kernel * DTYPES
    if number == first:
        update[Rule, DType.float32](context, executor)
    elif number == first + 1:
        update[Rule, DType.float64](context, executor)
    elif number == first + 2:
        update[Rule, DType.bfloat16](context, executor)
