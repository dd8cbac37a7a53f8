"""A step of a whole optimizer: check that nothing moved, then run the kernels.

A plan is words that Python wrote once (`python/hotloop/optimizers/plan.py`). Each
step reads the tensors' addresses anew and compares everything else that the
program may have changed since, so that Python rebuilds a plan only when it has to.
"""

from std.math import sqrt
from std.utils.numerics import isfinite

from shared.training.core import (
    Context,
    TensorRow,
    TorchExecutor,
    Words,
    clip_factor,
    sum_squares,
    words_at,
    zero_grads,
)
from shared.training.core.rule import SCALARS_MAX
from shared.training.core.table import (
    STATES_MAX,
    ContextWord,
    RowWord,
)

from .kernels import run_kernel
from .python import ReleasedGIL, dict_matches, list_matches
from .torch import RuntimeWord, Torch

comptime GIL_WORK = 16384
"""Steps of less work, some 5 microseconds, keep the GIL."""

comptime NO_DATA = 1
"""Stands for the address of an existing gradient without elements."""


struct PlanWord:
    """Where each field of a plan lies, in words."""

    comptime RUNTIME = 0
    """Address of the runtime's words, `RuntimeWord`."""
    comptime OBJECTS = 1
    """Address of the recorded Python objects, or 0 to check nothing."""
    comptime STATE_IS_SHARED = 2
    """Whether anybody else may hold the optimizer's state, and so change it."""
    comptime IS_NORM_MEASURED = 3
    """Whether to measure the norm of all gradients, and with one that is not finite
    to leave the parameters alone."""
    comptime IS_UPDATED = 4
    """Whether to update the parameters, or only to measure."""
    comptime MAX_NORM = 5
    """A float64, the largest norm of the gradients that enter the update."""
    comptime GRAD_SCALE = 6
    """Address of a float32 that divides the gradients in place, or 0."""
    comptime GRAD_FACTOR = 7
    """A float64 that multiplies the gradients before they are measured."""
    comptime AVERAGE_WEIGHT = 8
    """A float64, how far the averages move to the new parameters; 0 for none."""
    comptime ZERO_GRAD = 9
    """Whether the gradients become 0 once they are used."""
    comptime NORM = 10
    """A float64, the measured norm."""
    comptime LAUNCHES = 11
    """Number of launches; the addresses of their contexts follow."""
    comptime END = 12
    """Number of words before the launches."""


struct LaunchWord:
    """What a launch's context holds behind the words that kernels read."""

    comptime KERNEL = ContextWord.END
    """Which kernel to run."""
    comptime KERNEL_DTYPE = ContextWord.END + 1
    """The tensors' dtype as kernels count them: float32, float64, bfloat16."""
    comptime DTYPE = ContextWord.END + 2
    """libtorch's number of the tensors' dtype."""
    comptime HANDLES = ContextWord.END + 3
    """Address of the handles, `HandleWord`, of each tensor."""
    comptime HELD = ContextWord.END + 4
    """Address of scratch for one handle of each tensor."""
    comptime STATE_DTYPE = ContextWord.END + 5
    """libtorch's number of the dtype of each of up to `STATES_MAX` state tensors."""
    comptime STATE_SPAN = ContextWord.END + 9
    """How many elements of a parameter share one of each state tensor; 0 if that is
    the size of its rows for the first one, and of its columns for the second."""
    comptime FLOAT32 = ContextWord.END + 13
    """libtorch's number of float32."""
    comptime END = ContextWord.END + 14
    """Number of words."""


struct HandleWord:
    """Where each handle of a tensor's row lies, in words."""

    comptime PARAM = 0
    """The parameter."""
    comptime STATE = 1
    """Up to `STATES_MAX` state tensors; 0 where there is none."""
    comptime STEP = 5
    """The count of applied steps; 0 if the plan counts, for want of a tensor."""
    comptime SCALAR = 6
    """Up to `SCALARS_MAX` states with one element; 0 where there is none."""
    comptime AVERAGE = 8
    """The moving average; 0 if none is kept."""
    comptime END = 9
    """Number of words."""


struct Outcome:
    """What a step reports to Python."""

    comptime DONE = 0
    """Every tensor with a gradient was updated."""
    comptime CHANGED = 1
    """Something differs from what the plan recorded; nothing was touched."""
    comptime NOT_FINITE = 2
    """The norm is not finite; no parameter and no state was touched."""


def run_plan(plan: Words) -> Int:
    """Takes one step, unless something changed since the plan was made.

    Args:
        plan: The words of the plan.

    Returns:
        One of `Outcome`.
    """
    var torch = Torch(words_at(Int(plan[unsafe_offset=PlanWord.RUNTIME])))
    var launches = Int(plan[unsafe_offset=PlanWord.LAUNCHES])
    var objects = Int(plan[unsafe_offset=PlanWord.OBJECTS])
    var is_checked = objects != 0
    var is_shared = plan[unsafe_offset=PlanWord.STATE_IS_SHARED] != 0
    var work = 0
    if is_checked and not _objects_match(
        words_at(objects), is_shared, torch.scratch()
    ):
        return Outcome.CHANGED
    for i in range(launches):
        var launch = _launch(plan, i)
        if is_checked and not _refresh(torch, launch, is_shared):
            return Outcome.CHANGED
        work += launch.work()

    if work < GIL_WORK:
        var outcome = run_launches(plan)
        if is_checked and outcome == Outcome.DONE:
            _bump_versions(torch, plan, launches)
        return outcome

    # Another thread may drop a gradient as soon as the GIL is released.
    if is_checked:
        for i in range(launches):
            _hold_grads(torch, _launch(plan, i))
    var outcome: Int
    with ReleasedGIL():
        outcome = run_launches(plan)
    if is_checked:
        for i in range(launches):
            _release_grads(torch, _launch(plan, i))
        if outcome == Outcome.DONE:
            _bump_versions(torch, plan, launches)
    return outcome


def _launch(plan: Words, index: Int) -> Context:
    return Context(words_at(Int(plan[unsafe_offset=PlanWord.END + index])))


def plan_work(plan: Words) -> Int:
    """Estimates the work of a step.

    Args:
        plan: The words of the plan.

    Returns:
        The time it takes, in elements' worth.
    """
    var work = 0
    for i in range(Int(plan[unsafe_offset=PlanWord.LAUNCHES])):
        work += _launch(plan, i).work()
    return work


def run_launches(plan: Words, is_serial: Bool = False) -> Int:
    """Takes one step without a look at what may have changed, and without the GIL.

    Args:
        plan: The words of the plan.
        is_serial: Whether to stay on the calling thread.

    Returns:
        One of `Outcome`.
    """
    var launches = Int(plan[unsafe_offset=PlanWord.LAUNCHES])
    var runtime = words_at(Int(plan[unsafe_offset=PlanWord.RUNTIME]))
    var executor = TorchExecutor(
        0 if is_serial else Int(runtime[unsafe_offset=RuntimeWord.PARALLEL_FOR])
    )
    var numbers = plan.unsafe_bitcast[Float64]()
    var factor = numbers[unsafe_offset=PlanWord.GRAD_FACTOR]
    if plan[unsafe_offset=PlanWord.IS_NORM_MEASURED] != 0:
        var sum = Float64(0)
        for i in range(launches):
            sum += _sum_squares(_launch(plan, i), executor)
        var norm = sqrt(sum) * factor
        numbers[unsafe_offset=PlanWord.NORM] = norm
        if not isfinite(norm):
            if plan[unsafe_offset=PlanWord.ZERO_GRAD] != 0:
                for i in range(launches):
                    _zero_grads(_launch(plan, i), executor)
            return Outcome.NOT_FINITE
        factor *= clip_factor(norm, numbers[unsafe_offset=PlanWord.MAX_NORM])
    if plan[unsafe_offset=PlanWord.IS_UPDATED] == 0:
        return Outcome.DONE
    for i in range(launches):
        var launch = _launch(plan, i)
        var words = launch.words
        words[unsafe_offset=ContextWord.GRAD_SCALE] = plan[
            unsafe_offset=PlanWord.GRAD_SCALE
        ]
        words[unsafe_offset=ContextWord.ZERO_GRAD] = plan[
            unsafe_offset=PlanWord.ZERO_GRAD
        ]
        launch.set_number(ContextWord.GRAD_FACTOR, factor)
        launch.set_number(
            ContextWord.AVERAGE_WEIGHT,
            numbers[unsafe_offset=PlanWord.AVERAGE_WEIGHT],
        )
        run_kernel(
            launch.word(LaunchWord.KERNEL),
            launch.word(LaunchWord.KERNEL_DTYPE),
            launch,
            executor,
        )
    return Outcome.DONE


def _sum_squares(launch: Context, executor: TorchExecutor) -> Float64:
    var dtype = launch.word(LaunchWord.KERNEL_DTYPE)
    if dtype == 0:
        return sum_squares[DType.float32](launch, executor)
    if dtype == 1:
        return sum_squares[DType.float64](launch, executor)
    return sum_squares[DType.bfloat16](launch, executor)


def _zero_grads(launch: Context, executor: TorchExecutor):
    # Zeros of floats are zero bits, so the size alone matters.
    var dtype = launch.word(LaunchWord.KERNEL_DTYPE)
    if dtype == 0:
        zero_grads[DType.float32](launch, executor)
    elif dtype == 1:
        zero_grads[DType.float64](launch, executor)
    else:
        zero_grads[DType.bfloat16](launch, executor)


def _objects_match(recorded: Words, is_shared: Bool, scratch: Words) -> Bool:
    # The stream: a count of lists, each as its address and its items, then a
    # count of dicts, each as its address and its entries.
    var at = 1
    for _ in range(Int(recorded[unsafe_offset=0])):
        var list = Int(recorded[unsafe_offset=at])
        if not list_matches(list, recorded.unsafe_offset(at + 1)):
            return False
        at += 2 + Int(recorded[unsafe_offset=at + 1])
    if not is_shared:
        return True
    var dicts = Int(recorded[unsafe_offset=at])
    at += 1
    for _ in range(dicts):
        var dict = Int(recorded[unsafe_offset=at])
        if not dict_matches(dict, recorded.unsafe_offset(at + 1), scratch):
            return False
        at += 2 + 2 * Int(recorded[unsafe_offset=at + 1])
    return True


def _refresh(torch: Torch, launch: Context, is_shared: Bool) -> Bool:
    var dtype = launch.word(LaunchWord.DTYPE)
    var handles = words_at(launch.word(LaunchWord.HANDLES))
    for i in range(launch.tensors()):
        var row = launch.row(i)
        if not _refresh_row(torch, row, handles, dtype):
            return False
        if (
            is_shared
            and row.grad() != 0
            and not _refresh_state(torch, row, handles, launch)
        ):
            return False
        handles = handles.unsafe_offset(HandleWord.END)
    return True


@always_inline
def _refresh_row(
    torch: Torch, row: TensorRow, handles: Words, dtype: Int
) -> Bool:
    var param = Int(handles[unsafe_offset=HandleWord.PARAM])
    var average = Int(handles[unsafe_offset=HandleWord.AVERAGE])
    if average != 0 and not (
        _refresh_address(torch, row, RowWord.PARAM, param, row.numel(), dtype)
        and _refresh_address(
            torch, row, RowWord.AVERAGE, average, row.numel(), dtype
        )
    ):
        return False
    var grad = torch.grad(param)
    if grad == 0:
        row.words[unsafe_offset=RowWord.GRAD] = 0
        return True
    if row.words[unsafe_offset=RowWord.STEP] == 0:
        return False  # The first gradient of this parameter: no state yet.
    var numel = row.numel()
    if not (
        _refresh_address(torch, row, RowWord.PARAM, param, numel, dtype)
        and _refresh_address(torch, row, RowWord.GRAD, grad, numel, dtype)
    ):
        return False
    if row.grad() == 0:
        row.words[unsafe_offset=RowWord.GRAD] = NO_DATA
    return True


@always_inline
def _refresh_state(
    torch: Torch, row: TensorRow, handles: Words, launch: Context
) -> Bool:
    var float32 = launch.word(LaunchWord.FLOAT32)
    var step = Int(handles[unsafe_offset=HandleWord.STEP])
    if step != 0 and not _refresh_address(
        torch, row, RowWord.STEP, step, 1, float32
    ):
        return False
    for s in range(SCALARS_MAX):
        var scalar = Int(handles[unsafe_offset=HandleWord.SCALAR + s])
        if scalar != 0 and not _refresh_address(
            torch, row, RowWord.SCALAR + s, scalar, 1, float32
        ):
            return False
    for s in range(STATES_MAX):
        var state = Int(handles[unsafe_offset=HandleWord.STATE + s])
        if state == 0:
            continue
        var span = launch.word(LaunchWord.STATE_SPAN + s)
        if span == 0:
            span = row.columns() if s == 0 else row.rows()
        if not _refresh_address(
            torch,
            row,
            RowWord.STATE + s,
            state,
            (row.numel() + span - 1) // span,
            launch.word(LaunchWord.STATE_DTYPE + s),
        ):
            return False
    return True


@always_inline
def _refresh_address(
    torch: Torch, row: TensorRow, word: Int, handle: Int, numel: Int, dtype: Int
) -> Bool:
    # The same address may be other memory by now, allocated where the old was freed.
    if not (
        torch.numel(handle) == numel
        and torch.dtype(handle) == dtype
        and torch.is_contiguous(handle)
    ):
        return False
    var address = torch.data_pointer(handle)
    if address != Int(row.words[unsafe_offset=word]):
        if not torch.is_plain(handle):
            return False
        row.words[unsafe_offset=word] = Int64(address)
    return True


def _bump_versions(torch: Torch, plan: Words, launches: Int):
    if plan[unsafe_offset=PlanWord.IS_UPDATED] == 0:
        return
    for i in range(launches):
        var launch = _launch(plan, i)
        var handles = words_at(launch.word(LaunchWord.HANDLES))
        for j in range(launch.tensors()):
            if launch.row(j).grad() != 0:
                torch.bump_version(
                    Int(handles[unsafe_offset=j * HandleWord.END])
                )


def _hold_grads(torch: Torch, launch: Context):
    var handles = words_at(launch.word(LaunchWord.HANDLES))
    var held = words_at(launch.word(LaunchWord.HELD))
    for i in range(launch.tensors()):
        held[unsafe_offset=i] = 0
        if launch.row(i).grad() != 0:
            var param = Int(handles[unsafe_offset=i * HandleWord.END])
            held[unsafe_offset=i] = Int64(torch.hold(torch.grad(param)))


def _release_grads(torch: Torch, launch: Context):
    var held = words_at(launch.word(LaunchWord.HELD))
    for i in range(launch.tensors()):
        if held[unsafe_offset=i] != 0:
            torch.release(Int(held[unsafe_offset=i]))
