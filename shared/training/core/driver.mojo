"""The one loop over memory that every update rule runs in."""

from std.sys import simd_width_of, size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .executor import Executor
from .lanes import compute_dtype, load, store
from .memory import Address, pointer_at
from .rule import LaneUpdate, UpdateRule
from .table import BLOCK, Context, ContextWord, TensorRow, block_count

comptime PREFETCH_AHEAD = 512
"""Elements between the one in work and the one asked of memory."""

comptime TORCH_VECTOR_BYTES = 32
"""Size of a vector in torch's fused kernels, which are built for AVX2 only.

What is left of a tensor after its last whole vector goes through torch's scalar
loop, where the compiler contracted multiplications and additions in another
order. Rules tell the two apart by the width of their lanes, so width 1 is used
for exactly the elements that torch treats so.
"""


def prepare[Rule: UpdateRule](context: Context):
    """Counts the step of every tensor with a gradient and derives its constants.

    Neighbours of one group at one step share a record, so that the powers of
    the bias corrections are taken once for the usual optimizer.

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
        if record < 0 or row.group() != group or counter[] != step:
            record += 1
            group = row.group()
            step = counter[]
            context.record[Rule.Update](record).unsafe_write(
                context.rule[Rule](group).at_step(Float64(step))
            )
        row.set_record(record)


@always_inline
def _update_lanes[
    Update: LaneUpdate, dtype: DType, width: Int
](
    update: Update,
    row: TensorRow,
    index: Int,
    grad_scale: Scalar[compute_dtype[dtype]()],
    is_scaled: Bool,
):
    comptime compute = compute_dtype[dtype]()
    var param_memory = pointer_at[Scalar[dtype]](row.param())
    var grad_memory = pointer_at[Scalar[dtype]](row.grad())
    var param = load[dtype, width](param_memory, index)
    var grad = load[dtype, width](grad_memory, index)
    if is_scaled:
        grad = grad / grad_scale
        store[dtype, width](grad_memory, index, grad)
    var state = Array[SIMD[compute, width], Update.STATES](uninitialized=True)
    comptime for i in range(Update.STATES):
        state[i] = load[dtype, width](
            pointer_at[Scalar[dtype]](row.state(i)), index
        )
    update.apply[compute, width](param, grad, state)
    store[dtype, width](param_memory, index, param)
    comptime for i in range(Update.STATES):
        store[dtype, width](
            pointer_at[Scalar[dtype]](row.state(i)), index, state[i]
        )


def run_blocks[
    Rule: UpdateRule, dtype: DType
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    """Updates the elements of the blocks `[begin, end)`.

    Reads parameter, gradient and states once and writes parameter and states
    once.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters, gradients and states in memory.

    Args:
        begin: The first block.
        end: One past the last block.
        address: The context; `prepare` has been called on it.
    """
    var context = Context(address.unsafe_bitcast[Int64]())
    var index = _row_of_block(context, Int(begin))
    var block = Int(begin)
    while block < Int(end):
        var row = context.row(index)
        var first = (block - row.first_block()) * BLOCK
        var last = min(row.numel(), (Int(end) - row.first_block()) * BLOCK)
        if row.grad() != 0:
            _update_range[Rule, dtype](context, row, first, last)
        index += 1
        block = row.first_block() + block_count(row.numel())


def _row_of_block(context: Context, block: Int) -> Int:
    # The last row that starts at or before the block; rows without elements
    # own no block and start where the next row does.
    var low = 0
    var high = context.tensors()
    while high - low > 1:
        var middle = (low + high) // 2
        if context.row(middle).first_block() <= block:
            low = middle
        else:
            high = middle
    return low


def _update_range[
    Rule: UpdateRule, dtype: DType
](context: Context, row: TensorRow, first: Int, last: Int):
    comptime compute = compute_dtype[dtype]()
    comptime width = simd_width_of[compute]()
    var update = context.record[Rule.Update](row.record())[]
    var scale_address = context.word(ContextWord.GRAD_SCALE)
    var is_scaled = scale_address != 0
    var grad_scale = Scalar[compute](1)
    if is_scaled:
        grad_scale = pointer_at[Float32](scale_address)[].cast[compute]()
    # Blocks are whole vectors, so only the tensor's end leaves a remainder.
    comptime torch_width = TORCH_VECTOR_BYTES // size_of[Scalar[dtype]]()
    var vectors_end = first + (last - first) // torch_width * torch_width
    var wide_end = first + (vectors_end - first) // width * width
    var param = pointer_at[Scalar[dtype]](row.param())
    var grad = pointer_at[Scalar[dtype]](row.grad())
    for i in range(first, wide_end, width):
        # Not past the end: asking for an unmapped page costs a page walk.
        var ahead = min(i + PREFETCH_AHEAD, last)
        _prefetch(param, ahead)
        _prefetch(grad, ahead)
        comptime for s in range(Rule.Update.STATES):
            _prefetch(pointer_at[Scalar[dtype]](row.state(s)), ahead)
        _update_lanes[Rule.Update, dtype, width](
            update, row, i, grad_scale, is_scaled
        )
    comptime if width > torch_width:
        for i in range(wide_end, vectors_end, torch_width):
            _update_lanes[Rule.Update, dtype, torch_width](
                update, row, i, grad_scale, is_scaled
            )
    for i in range(vectors_end, last):
        _update_lanes[Rule.Update, dtype, 1](
            update, row, i, grad_scale, is_scaled
        )


@always_inline
def _prefetch[
    dtype: DType
](pointer: MutPointer[Scalar[dtype], MutUntrackedOrigin], index: Int):
    prefetch[PrefetchOptions().for_read().high_locality().to_data_cache()](
        pointer.unsafe_offset(index).as_imm()
    )


def update[
    Rule: UpdateRule, dtype: DType, Runner: Executor
](context: Context, executor: Runner):
    """Takes one optimizer step over every tensor of the table.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters, gradients and states in memory.
        Runner: The type of the executor.

    Args:
        context: What to update, valid until the call returns.
        executor: Who runs the blocks.
    """
    prepare[Rule](context)
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        run_blocks[Rule, dtype],
        context.words.unsafe_bitcast[NoneType](),
    )
