"""The kernels that the extension carries, by number."""

from shared.training.core import (
    Context,
    Executor,
    FactoredRule,
    UpdateRule,
    update,
    update_factored,
    update_quantized,
)
from shared.training.optimizers import (
    ADOPT,
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    LAMB,
    LARS,
    Lion,
    MuonMomentum,
    NAdam,
    Prodigy,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SophiaG,
)

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
    comptime ADAM_FAST = 7
    """Adam that approximates in float32."""
    comptime ADAMW_FAST = 8
    """AdamW that approximates in float32."""
    comptime ADAMW_8BIT = 9
    """AdamW with moments of 8 bits; no float64."""
    comptime LION_8BIT = 10
    """Lion with a momentum of 8 bits; no float64."""
    comptime LION_WIDE_STATE = 11
    """Lion on bfloat16 with a float32 momentum."""
    comptime ADAM_WIDE_STATE = 12
    """Adam on bfloat16 with float32 moments."""
    comptime ADAMW_WIDE_STATE = 13
    """AdamW on bfloat16 with float32 moments."""
    comptime ADAM_MASTER = 14
    """Adam on float32 copies of bfloat16 parameters."""
    comptime ADAMW_MASTER = 15
    """AdamW on float32 copies of bfloat16 parameters."""
    comptime RMSPROP = 16
    """RMSprop."""
    comptime RMSPROP_MOMENTUM = 17
    """RMSprop with momentum."""
    comptime RMSPROP_CENTERED = 18
    """Centered RMSprop."""
    comptime RMSPROP_CENTERED_MOMENTUM = 19
    """Centered RMSprop with momentum."""
    comptime ADAGRAD = 20
    """Adagrad."""
    comptime ADADELTA = 21
    """Adadelta."""
    comptime ADAMAX = 22
    """Adamax."""
    comptime NADAM = 23
    """NAdam."""
    comptime RADAM = 24
    """RAdam."""
    comptime RPROP = 25
    """Rprop."""
    comptime ASGD = 26
    """ASGD."""
    comptime LION = 27
    """Lion."""
    comptime ADAN = 28
    """Adan."""
    comptime ADOPT = 29
    """ADOPT."""
    comptime SOPHIAG = 30
    """Sophia-G."""
    comptime SCHEDULE_FREE_SGD = 31
    """Schedule-free SGD."""
    comptime SCHEDULE_FREE_ADAMW = 32
    """Schedule-free AdamW."""
    comptime ADAMW_8BIT_FAST = 33
    """AdamW with moments of 8 bits that approximates; no float64."""
    comptime LAMB = 34
    """LAMB."""
    comptime LARS = 35
    """LARS without a buffer."""
    comptime LARS_MOMENTUM = 36
    """LARS with momentum."""
    comptime LARS_NESTEROV = 37
    """LARS with Nesterov momentum."""
    comptime PRODIGY = 38
    """Prodigy."""
    comptime MUON_MOMENTUM = 39
    """Muon's momentum."""
    comptime MUON_NESTEROV = 40
    """Muon's Nesterov momentum, with what it orthogonalizes in bfloat16."""
    comptime ADAFACTOR = 41
    """Adafactor with a second moment for each element."""
    comptime ADAFACTOR_FACTORED = 42
    """Adafactor with a second moment for each row and column."""
    comptime ADAFACTOR_POINTS = 43
    """Adafactor with a row and a column of each element."""
    comptime END = 44
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
    _run[Adam[fast=True], Kernel.ADAM_FAST](number, context, executor)
    _run[AdamW[fast=True], Kernel.ADAMW_FAST](number, context, executor)
    _run[RMSprop[], Kernel.RMSPROP](number, context, executor)
    _run[RMSprop[momentum=True], Kernel.RMSPROP_MOMENTUM](
        number, context, executor
    )
    _run[RMSprop[centered=True], Kernel.RMSPROP_CENTERED](
        number, context, executor
    )
    _run[
        RMSprop[centered=True, momentum=True], Kernel.RMSPROP_CENTERED_MOMENTUM
    ](number, context, executor)
    _run[Adagrad, Kernel.ADAGRAD](number, context, executor)
    _run[Adadelta, Kernel.ADADELTA](number, context, executor)
    _run[Adamax, Kernel.ADAMAX](number, context, executor)
    _run[NAdam, Kernel.NADAM](number, context, executor)
    _run[RAdam, Kernel.RADAM](number, context, executor)
    _run[Rprop, Kernel.RPROP](number, context, executor)
    _run[ASGD, Kernel.ASGD](number, context, executor)
    _run[Lion, Kernel.LION](number, context, executor)
    _run[Adan, Kernel.ADAN](number, context, executor)
    _run[ADOPT, Kernel.ADOPT](number, context, executor)
    _run[SophiaG, Kernel.SOPHIAG](number, context, executor)
    _run[ScheduleFreeSGD, Kernel.SCHEDULE_FREE_SGD](number, context, executor)
    _run[ScheduleFreeAdamW, Kernel.SCHEDULE_FREE_ADAMW](
        number, context, executor
    )
    _run[LAMB, Kernel.LAMB](number, context, executor)
    _run[LARS[momentum=False], Kernel.LARS](number, context, executor)
    _run[LARS[], Kernel.LARS_MOMENTUM](number, context, executor)
    _run[LARS[nesterov=True], Kernel.LARS_NESTEROV](number, context, executor)
    _run[Prodigy, Kernel.PRODIGY](number, context, executor)
    _run[MuonMomentum[nesterov=False], Kernel.MUON_MOMENTUM](
        number, context, executor
    )
    _run_narrow[MuonMomentum[], Kernel.MUON_NESTEROV](number, context, executor)
    _run[Adafactor[], Kernel.ADAFACTOR](number, context, executor)
    _run_factored[Adafactor[], Kernel.ADAFACTOR_FACTORED](
        number, context, executor
    )
    _run[Adafactor[points=True], Kernel.ADAFACTOR_POINTS](
        number, context, executor
    )
    _run_quantized[AdamW[], Kernel.ADAMW_8BIT](number, context, executor)
    _run_quantized[AdamW[fast=True], Kernel.ADAMW_8BIT_FAST](
        number, context, executor
    )
    _run_quantized[Lion, Kernel.LION_8BIT](number, context, executor)
    _run_wide[Lion, Kernel.LION_WIDE_STATE](number, context, executor)
    _run_wide[Adam[], Kernel.ADAM_WIDE_STATE](number, context, executor)
    _run_wide[AdamW[], Kernel.ADAMW_WIDE_STATE](number, context, executor)
    _run_wide[Adam[], Kernel.ADAM_MASTER, True](number, context, executor)
    _run_wide[AdamW[], Kernel.ADAMW_MASTER, True](number, context, executor)


@always_inline
def _run_quantized[
    Rule: UpdateRule, kernel: Int, Runner: Executor
](number: Int, context: Context, executor: Runner):
    if number == kernel * DTYPES:
        update_quantized[Rule, DType.float32](context, executor)
    elif number == kernel * DTYPES + 2:
        update_quantized[Rule, DType.bfloat16](context, executor)


@always_inline
def _run_factored[
    Rule: FactoredRule, kernel: Int, Runner: Executor
](number: Int, context: Context, executor: Runner):
    comptime first = kernel * DTYPES
    if number == first:
        update_factored[Rule, DType.float32](context, executor)
    elif number == first + 1:
        update_factored[Rule, DType.float64](context, executor)
    elif number == first + 2:
        update_factored[Rule, DType.bfloat16](context, executor)


@always_inline
def _run_wide[
    Runner: Executor,
    //,
    Rule: UpdateRule,
    kernel: Int,
    has_master: Bool = False,
](number: Int, context: Context, executor: Runner):
    if number == kernel * DTYPES + 2:
        update[Rule, DType.bfloat16, DType.float32, has_master](
            context, executor
        )


@always_inline
def _run_narrow[
    Rule: UpdateRule, kernel: Int, Runner: Executor
](number: Int, context: Context, executor: Runner):
    comptime first = kernel * DTYPES
    if number == first:
        update[Rule, DType.float32, DType.bfloat16](context, executor)
    elif number == first + 1:
        update[Rule, DType.float64, DType.bfloat16](context, executor)
    elif number == first + 2:
        update[Rule, DType.bfloat16](context, executor)


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
