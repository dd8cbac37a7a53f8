"""The one loop over memory that every update rule runs in."""

from std.sys import simd_width_of, size_of

from .executor import Executor
from .lanes import compute_dtype, lerp, load, prefetch_at, store
from .memory import Address, pointer_at
from .rule import LaneUpdate, Scalars, UpdateRule
from .table import Context, ContextWord, RowRanges, TensorRow

comptime PREFETCH_AHEAD = 512
"""Elements between the one in work and the one asked of memory."""

comptime TORCH_VECTOR_BYTES = 32
"""Size of a vector in torch's fused kernels, which are built for AVX2 only.

What is left of a tensor after its last whole vector goes through torch's scalar
loop, where the compiler contracted multiplications and additions in another
order. Rules tell the two apart by the width of their lanes, so width 1 is used
for exactly the elements that torch treats so.
"""


@no_inline
def prepare[Rule: UpdateRule](context: Context):
    """Counts the step of every tensor with a gradient and derives its constants.

    Neighbours of one group at one step share a record, so that the powers of
    the bias corrections are taken once for the usual optimizer; with states of
    one element each tensor has a record of its own.

    Parameters:
        Rule: The update rule.

    Args:
        context: The table, the hyperparameters and the records to write.
    """
    var record = -1
    var group = -1
    var step = Float32(0)
    for index in range(context.tensors()):
        var row = context.row(index)
        if row.grad() == 0:
            continue
        var counter = row.step()
        counter[] += 1
        if (
            record < 0
            or Rule.SCALARS > 0
            or row.group() != group
            or counter[] != step
        ):
            record += 1
            group = row.group()
            step = counter[]
            var scalars = Scalars(fill=0)
            comptime for s in range(Rule.SCALARS):
                scalars[s] = row.scalar(s)[]
            context.record[Rule.Update](record).unsafe_write(
                context.rule[Rule](group).at_step(Float64(step), scalars)
            )
            comptime for s in range(Rule.SCALARS):
                row.scalar(s)[] = scalars[s]
        row.set_record(record)


@fieldwise_init
struct _Around[dtype: DType](ImplicitlyCopyable, Movable):
    """What a step does beside the update itself, the same for all elements."""

    comptime compute = compute_dtype[Self.dtype]()

    var is_needed: Bool
    """Whether there is anything of it."""
    var grad_scale: Scalar[Self.compute]
    """Divides the gradients in memory; 1 for none."""
    var grad_factor: Scalar[Self.compute]
    """Multiplies the gradients in registers; 1 for none."""
    var average: Int
    """Address of the moving average, or 0."""
    var average_weight: Scalar[Self.compute]
    """How far the average moves to the new parameter."""
    var zero_grad: Bool
    """Whether the gradients become 0."""

    def __init__(out self, context: Context, row: TensorRow):
        self.grad_scale = 1
        var scale = context.word(ContextWord.GRAD_SCALE)
        if scale != 0:
            self.grad_scale = pointer_at[Float32](scale)[].cast[Self.compute]()
        self.grad_factor = context.number(ContextWord.GRAD_FACTOR).cast[
            Self.compute
        ]()
        self.average_weight = context.number(ContextWord.AVERAGE_WEIGHT).cast[
            Self.compute
        ]()
        self.average = row.average() if self.average_weight != 0 else 0
        self.zero_grad = context.word(ContextWord.ZERO_GRAD) != 0
        self.is_needed = (
            scale != 0
            or self.grad_factor != 1
            or self.average != 0
            or self.zero_grad
        )


@always_inline
def _update_lanes[
    Update: LaneUpdate,
    dtype: DType,
    state_dtype: DType,
    has_master: Bool,
    width: Int,
](update: Update, row: TensorRow, index: Int, around: _Around[dtype]):
    comptime compute = compute_dtype[dtype]()
    var param_memory = pointer_at[Scalar[dtype]](row.param())
    var grad_memory = pointer_at[Scalar[dtype]](row.grad())
    var param: SIMD[compute, width]
    comptime if has_master:
        param = load[state_dtype, width](
            pointer_at[Scalar[state_dtype]](row.state(Update.STATES)), index
        ).cast[compute]()
    else:
        param = load[dtype, width](param_memory, index)
    var grad = load[dtype, width](grad_memory, index)
    if around.is_needed:
        if around.grad_scale != 1:
            grad = grad / around.grad_scale
            store[dtype, width](grad_memory, index, grad)
        grad = grad * around.grad_factor
    var state = Array[SIMD[compute, width], Update.STATES](uninitialized=True)
    comptime for i in range(Update.STATES):
        state[i] = load[state_dtype, width](
            pointer_at[Scalar[state_dtype]](row.state(i)), index
        ).cast[compute]()
    update.apply[compute, width](param, grad, state)
    store[dtype, width](param_memory, index, param)
    comptime for i in range(Update.STATES):
        _store_state[state_dtype](row.state(i), index, state[i])
    comptime if has_master:
        _store_state[state_dtype](row.state(Update.STATES), index, param)
    if around.is_needed:
        if around.average != 0:
            _average_lanes[dtype, width](row, index, around)
        if around.zero_grad:
            store[dtype, width](grad_memory, index, 0)


@always_inline
def _store_state[
    dtype: DType, width: Int, //, state_dtype: DType
](address: Int, index: Int, value: SIMD[dtype, width]):
    store[state_dtype, width](
        pointer_at[Scalar[state_dtype]](address),
        index,
        value.cast[compute_dtype[state_dtype]()](),
    )


def run_blocks[
    Rule: UpdateRule,
    dtype: DType,
    state_dtype: DType = dtype,
    has_master: Bool = False,
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    """Updates the elements of the blocks `[begin, end)`.

    Reads parameter, gradient and states once and writes parameter and states
    once. What the context asks for beside the update happens in the same pass:
    scaled gradients, the average of the new parameters, zeroed gradients.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters and gradients in memory.
        state_dtype: The dtype of the states in memory.
        has_master: Whether one more state holds the parameters in `state_dtype`:
            they are updated there, and the parameter is what they round to.

    Args:
        begin: The first block.
        end: One past the last block.
        address: The context; `prepare` has been called on it.
    """
    var context = Context(address.unsafe_bitcast[Int64]())
    var ranges = RowRanges(context, Int(begin), Int(end))
    while ranges.advance():
        var row = ranges.row
        if row.grad() != 0:
            _update_range[Rule, dtype, state_dtype, has_master](
                context, row, ranges.first, ranges.last
            )
        elif row.average() != 0:
            _average_range[dtype](context, row, ranges.first, ranges.last)


def _average_range[
    dtype: DType
](context: Context, row: TensorRow, first: Int, last: Int):
    comptime width = simd_width_of[compute_dtype[dtype]()]()
    var around = _Around[dtype](context, row)
    if around.average == 0:
        return
    var whole = first + (last - first) // width * width
    for i in range(first, whole, width):
        _average_lanes[dtype, width](row, i, around)
    for i in range(whole, last):
        _average_lanes[dtype, 1](row, i, around)


@always_inline
def _average_lanes[
    dtype: DType, width: Int
](row: TensorRow, index: Int, around: _Around[dtype]):
    # The average follows what the parameter is in memory, after rounding.
    var value = load[dtype, width](
        pointer_at[Scalar[dtype]](row.param()), index
    )
    var memory = pointer_at[Scalar[dtype]](around.average)
    var average = load[dtype, width](memory, index)
    store[dtype, width](
        memory, index, lerp(average, value, around.average_weight)
    )


def _update_range[
    Rule: UpdateRule, dtype: DType, state_dtype: DType, has_master: Bool
](context: Context, row: TensorRow, first: Int, last: Int):
    comptime compute = compute_dtype[dtype]()
    comptime width = simd_width_of[compute]()
    var update = context.record[Rule.Update](row.record())[]
    var around = _Around[dtype](context, row)
    # Blocks are whole vectors, so only the tensor's end leaves a remainder.
    comptime torch_width = TORCH_VECTOR_BYTES // size_of[Scalar[state_dtype]]()
    comptime remainder_width = torch_width if Rule.Update.HAS_SCALAR_ROUNDING else width
    comptime states = Rule.Update.STATES + (1 if has_master else 0)
    var vectors_end = (
        first + (last - first) // remainder_width * remainder_width
    )
    var wide_end = first + (vectors_end - first) // width * width
    var param = pointer_at[Scalar[dtype]](row.param())
    var grad = pointer_at[Scalar[dtype]](row.grad())
    for i in range(first, wide_end, width):
        # Not past the end: asking for an unmapped page costs a page walk.
        var ahead = min(i + PREFETCH_AHEAD, last)
        prefetch_at(param, ahead)
        prefetch_at(grad, ahead)
        comptime for s in range(states):
            prefetch_at(pointer_at[Scalar[state_dtype]](row.state(s)), ahead)
        if around.average != 0:
            prefetch_at(pointer_at[Scalar[dtype]](around.average), ahead)
        _update_lanes[Rule.Update, dtype, state_dtype, has_master, width](
            update, row, i, around
        )
    comptime if Rule.Update.HAS_SCALAR_ROUNDING and width > torch_width:
        for i in range(wide_end, vectors_end, torch_width):
            _update_lanes[
                Rule.Update, dtype, state_dtype, has_master, torch_width
            ](update, row, i, around)
    for i in range(vectors_end, last):
        _update_lanes[Rule.Update, dtype, state_dtype, has_master, 1](
            update, row, i, around
        )


def update[
    Runner: Executor,
    //,
    Rule: UpdateRule,
    dtype: DType,
    state_dtype: DType = dtype,
    has_master: Bool = False,
](context: Context, executor: Runner):
    """Takes one optimizer step over every tensor of the table.

    Parameters:
        Runner: The type of the executor.
        Rule: The update rule.
        dtype: The dtype of the parameters and gradients in memory.
        state_dtype: The dtype of the states in memory.
        has_master: Whether the parameters are updated in a state; see
            `run_blocks`.

    Args:
        context: What to update, valid until the call returns.
        executor: Who runs the blocks.
    """
    prepare[Rule](context)
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        run_blocks[Rule, dtype, state_dtype, has_master],
        context.words.unsafe_bitcast[NoneType](),
    )
