"""The one loop over memory that every update rule runs in."""

from std.sys import simd_width_of, size_of

from .executor import Executor
from .lanes import compute_dtype, lerp, load, prefetch_at, store
from .memory import Address, pointer_at
from .norm import LANES, sum_blocks
from .rule import LaneUpdate, Scalars, Sums, UpdateRule
from .table import BLOCK, Context, ContextWord, RowRanges, TensorRow

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
    one element or sums each tensor has a record of its own.

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
            or Rule.Update.SUMS > 0
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
                context.rule[Rule](group)[].at_step(Float64(step), scalars)
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
def _load_grad[
    dtype: DType, width: Int, is_scaled: Bool
](row: TensorRow, index: Int, around: _Around[dtype]) -> SIMD[
    compute_dtype[dtype](), width
]:
    # `is_scaled` tells that an earlier pass has divided the gradients in memory.
    var memory = pointer_at[Scalar[dtype]](row.grad())
    var grad = load[dtype, width](memory, index)
    if around.is_needed:
        comptime if not is_scaled:
            if around.grad_scale != 1:
                grad = grad / around.grad_scale
                store[dtype, width](memory, index, grad)
        grad = grad * around.grad_factor
    return grad


@always_inline
def _load_states[
    dtype: DType, width: Int, states: Int
](row: TensorRow, index: Int) -> Array[
    SIMD[compute_dtype[dtype](), width], states
]:
    var state = Array[SIMD[compute_dtype[dtype](), width], states](
        uninitialized=True
    )
    comptime for i in range(states):
        state[i] = load[dtype, width](
            pointer_at[Scalar[dtype]](row.state(i)), index
        )
    return state^


@always_inline
def _store_states[
    dtype: DType, width: Int, states: Int
](
    row: TensorRow,
    index: Int,
    state: Array[SIMD[compute_dtype[dtype](), width], states],
):
    comptime for i in range(states):
        store[dtype, width](
            pointer_at[Scalar[dtype]](row.state(i)), index, state[i]
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
    var param: SIMD[compute, width]
    comptime if has_master:
        param = load[state_dtype, width](
            pointer_at[Scalar[state_dtype]](row.state(Update.STATES)), index
        ).cast[compute]()
    else:
        param = load[dtype, width](param_memory, index)
    var grad = SIMD[compute, width](0)
    comptime if Update.APPLIES_GRAD:
        grad = _load_grad[dtype, width, is_scaled=Update.SUMS > 0](
            row, index, around
        )
    var state = Array[SIMD[compute, width], Update.STATES](uninitialized=True)
    comptime for i in range(Update.STATES):
        state[i] = load[state_dtype, width](
            pointer_at[Scalar[state_dtype]](row.state(i)), index
        ).cast[compute]()
    update.apply[compute, width](param, grad, state)
    store[dtype, width](param_memory, index, param)
    comptime if not Update.MEASURES_STATE:
        comptime for i in range(Update.STATES):
            _store_state[state_dtype](row.state(i), index, state[i])
    comptime if has_master:
        _store_state[state_dtype](row.state(Update.STATES), index, param)
    if around.is_needed:
        if around.average != 0:
            _average_lanes[dtype, width](row, index, around)
        comptime if Update.APPLIES_GRAD:
            if around.zero_grad:
                store[dtype, width](
                    pointer_at[Scalar[dtype]](row.grad()), index, 0
                )


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
        comptime if Rule.Update.APPLIES_GRAD:
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


def measure_blocks[
    Rule: UpdateRule, dtype: DType
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    """Measures the blocks `[begin, end)`, the first pass of a rule with sums.

    Each block is summed in float64 in one order, whatever the CPU, so that the
    number of threads does not change the bits.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters, gradients and states in memory.

    Args:
        begin: The first block.
        end: One past the last block.
        address: The context; `prepare` has been called on it.
    """
    var context = Context(address.unsafe_bitcast[Int64]())
    var ranges = RowRanges(context, Int(begin), Int(end))
    while ranges.advance():
        if ranges.row.grad() != 0:
            _measure_range[Rule.Update, dtype](
                context, ranges.row, ranges.first, ranges.last
            )


def _measure_range[
    Update: LaneUpdate, dtype: DType
](context: Context, row: TensorRow, first: Int, last: Int):
    var update = context.record[Update](row.record())[]
    var around = _Around[dtype](context, row)
    var partials = pointer_at[Float64](context.word(ContextWord.PARTIALS))
    var blocks = context.word(ContextWord.BLOCKS)
    var block = row.first_block() + first // BLOCK
    for start in range(first, last, BLOCK):
        var end = min(start + BLOCK, last)
        var whole = start + (end - start) // LANES * LANES
        var sums = Array[SIMD[DType.float64, LANES], Update.SUMS](fill=0)
        for i in range(start, whole, LANES):
            var ahead = min(i + PREFETCH_AHEAD, last)
            prefetch_at(pointer_at[Scalar[dtype]](row.param()), ahead)
            prefetch_at(pointer_at[Scalar[dtype]](row.grad()), ahead)
            comptime if Update.MEASURES_STATE:
                comptime for s in range(Update.STATES):
                    prefetch_at(pointer_at[Scalar[dtype]](row.state(s)), ahead)
            _measure_lanes[Update, dtype, LANES](update, row, i, around, sums)
        var rest = Array[Float64, Update.SUMS](fill=0)
        for i in range(whole, end):
            _measure_lanes[Update, dtype, 1](update, row, i, around, rest)
        comptime for s in range(Update.SUMS):
            partials[unsafe_offset=s * blocks + block] = (
                sums[s].reduce_add() + rest[s]
            )
        block += 1


@always_inline
def _measure_lanes[
    Update: LaneUpdate, dtype: DType, width: Int
](
    update: Update,
    row: TensorRow,
    index: Int,
    around: _Around[dtype],
    mut sums: Array[SIMD[DType.float64, width], Update.SUMS],
):
    comptime compute = compute_dtype[dtype]()
    var param = load[dtype, width](
        pointer_at[Scalar[dtype]](row.param()), index
    )
    var grad = _load_grad[dtype, width, is_scaled=False](row, index, around)
    comptime if Update.MEASURES_STATE:
        var state = _load_states[dtype, width, Update.STATES](row, index)
        update.measure[compute, width](param, grad, state, sums)
        _store_states[dtype, width, Update.STATES](row, index, state)
        comptime if not Update.APPLIES_GRAD:
            if around.is_needed and around.zero_grad:
                store[dtype, width](
                    pointer_at[Scalar[dtype]](row.grad()), index, 0
                )
    else:
        var state = Array[SIMD[compute, width], Update.STATES](
            uninitialized=True
        )
        update.measure[compute, width](param, grad, state, sums)


def conclude[Rule: UpdateRule](context: Context):
    """Adds up what the blocks measured and completes the constants of the step.

    Parameters:
        Rule: The update rule, one with sums.

    Args:
        context: The table; `measure_blocks` has been called on all its blocks.
    """
    comptime if Rule.SHARES_SUMS:
        var sums = Sums(fill=0)
        for index in range(context.tensors()):
            _add_sums[Rule.Update](context, context.row(index), sums)
        for group in range(context.word(ContextWord.GROUPS)):
            context.rule[Rule](group)[].take_sums(sums)
        for index in range(context.tensors()):
            _finish[Rule](context, context.row(index), sums)
    else:
        for index in range(context.tensors()):
            var sums = Sums(fill=0)
            _add_sums[Rule.Update](context, context.row(index), sums)
            _finish[Rule](context, context.row(index), sums)


def _add_sums[
    Update: LaneUpdate
](context: Context, row: TensorRow, mut sums: Sums):
    if row.grad() == 0:
        return
    var blocks = context.word(ContextWord.BLOCKS)
    var partials = pointer_at[Float64](context.word(ContextWord.PARTIALS))
    comptime for s in range(Update.SUMS):
        sums[s] += sum_blocks(partials.unsafe_offset(s * blocks), row)


def _finish[Rule: UpdateRule](context: Context, row: TensorRow, sums: Sums):
    if row.grad() != 0:
        context.rule[Rule](row.group())[].finish(
            context.record[Rule.Update](row.record())[], sums, row.numel()
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
    comptime if Rule.Update.SUMS > 0:
        executor.execute(
            context.word(ContextWord.BLOCKS),
            context.grain(),
            measure_blocks[Rule, dtype],
            context.words.unsafe_bitcast[NoneType](),
        )
        conclude[Rule](context)
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        run_blocks[Rule, dtype, state_dtype, has_master],
        context.words.unsafe_bitcast[NoneType](),
    )
