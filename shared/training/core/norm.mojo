"""The norm of all gradients, and zeroing those that must not be used."""

from std.sys import size_of

from .executor import Executor
from .lanes import load, prefetch_at
from .memory import Address, pointer_at
from .table import (
    BLOCK,
    Context,
    ContextWord,
    RowRanges,
    TensorRow,
    block_count,
)

comptime LANES = 8
"""Lanes of float64 that squares are summed in, whatever the CPU."""

comptime CHAINS = 4
"""Independent sums of a block."""

comptime PREFETCH_AHEAD = 512
"""Elements between the one in work and the one asked of memory."""

comptime STREAMS = 4
"""How many places of a tensor are read in turn."""

comptime LINE = 64
"""Bytes of a cache line."""

comptime Lanes = SIMD[DType.float64, LANES]
"""Squares on their way to the sum."""


def sum_squares[
    dtype: DType, Runner: Executor
](context: Context, executor: Runner) -> Float64:
    """Sums the squares of all gradients of the table.

    Each block is summed in float64 in one order, and so are the blocks, so that
    the number of threads does not change the bits. float32 and bfloat16 squares
    do not overflow in float64, hence the sum is finite unless a gradient is not;
    float64 gradients beyond 1e154 count as infinite, as in torch's norm.

    Parameters:
        dtype: The dtype of the gradients.
        Runner: The type of the executor.

    Args:
        context: The table and its scratch for partial sums.
        executor: Who runs the blocks.

    Returns:
        The sum, infinite or NaN if any gradient is.
    """
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        _sum_squares_of_blocks[dtype],
        context.words.unsafe_bitcast[NoneType](),
    )
    var partials = pointer_at[Float64](context.word(ContextWord.PARTIALS))
    var sum = Float64(0)
    var ranges = RowRanges(context, 0, context.word(ContextWord.BLOCKS))
    while ranges.advance():
        if ranges.row.grad() == 0:
            continue
        sum += sum_blocks(partials, ranges.row)
    return sum


def sum_blocks(
    partials: MutPointer[Float64, MutUntrackedOrigin], row: TensorRow
) -> Float64:
    """Adds up what the blocks of a tensor sum to.

    Args:
        partials: The sum of each block of the table.
        row: The tensor.

    Returns:
        The sum, 0 for a tensor without elements.
    """
    var start = row.first_block()
    var end = start + block_count(row.numel())
    var whole = start + (end - start) // LANES * LANES
    var lanes = Lanes(0)
    for i in range(start, whole, LANES):
        lanes += partials.unsafe_load[width=LANES](i)
    var sum = lanes.reduce_add()
    for i in range(whole, end):
        sum += partials[unsafe_offset=i]
    return sum


def _sum_squares_of_blocks[
    dtype: DType
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    var context = Context(address.unsafe_bitcast[Int64]())
    var partials = pointer_at[Float64](context.word(ContextWord.PARTIALS))
    var ranges = RowRanges(context, Int(begin), Int(end))
    while ranges.advance():
        if ranges.row.grad() == 0:
            continue
        var block = ranges.row.first_block() + ranges.first // BLOCK
        var blocks = block_count(ranges.last - ranges.first)
        # Several places at once keep more of memory's requests in flight.
        var share = (blocks + STREAMS - 1) // STREAMS
        for i in range(share):
            comptime for s in range(STREAMS):
                var b = s * share + i
                if b < min(blocks, (s + 1) * share):
                    var first = ranges.first + b * BLOCK
                    partials[unsafe_offset=block + b] = sum_range[dtype](
                        ranges.row.grad(),
                        first,
                        min(ranges.last, first + BLOCK),
                        ranges.last,
                    )


@always_inline
def sum_range[
    dtype: DType
](grad: Int, first: Int, last: Int, end: Int) -> Float64:
    """Sums the squares of some elements.

    Parameters:
        dtype: Their dtype.

    Args:
        grad: Address of the tensor.
        first: The first element.
        last: Behind the last one.
        end: Behind the last one that memory may be asked for.

    Returns:
        The sum, in float64.
    """
    var memory = pointer_at[Scalar[dtype]](grad)
    # Several sums, since each addition waits for the one before it.
    var sums = Array[Lanes, CHAINS](fill=0)
    comptime stride = CHAINS * LANES
    var whole = first + (last - first) // stride * stride
    for i in range(first, whole, stride):
        var ahead = min(i + PREFETCH_AHEAD, end)
        comptime for offset in range(
            0, stride, LINE // size_of[Scalar[dtype]]()
        ):
            prefetch_at(memory, ahead + offset)
        comptime for c in range(CHAINS):
            var value = load[dtype, LANES](memory, i + c * LANES)
            var wide = value.cast[DType.float64]()
            sums[c] = wide.fma(wide, sums[c])
    var sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_add()
    for i in range(whole, last):
        var value = load[dtype, 1](memory, i).cast[DType.float64]()
        sum = value.fma(value, sum)
    return sum


def clip_factor(norm: Float64, max_norm: Float64) -> Float64:
    """Computes what gradients are multiplied with to have at most a norm.

    Args:
        norm: The norm of all gradients, finite.
        max_norm: The largest norm allowed; infinite to allow any.

    Returns:
        `min(1, max_norm / (norm + 1e-6))`, as torch's `clip_grad_norm_`.
    """
    return min(1.0, max_norm / (norm + 1e-6))


def zero_grads[
    dtype: DType, Runner: Executor
](context: Context, executor: Runner):
    """Sets all gradients of the table to 0.

    Parameters:
        dtype: The dtype of the gradients.
        Runner: The type of the executor.

    Args:
        context: The table.
        executor: Who runs the blocks.
    """
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        _zero_blocks[dtype],
        context.words.unsafe_bitcast[NoneType](),
    )


def _zero_blocks[
    dtype: DType
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    var context = Context(address.unsafe_bitcast[Int64]())
    var ranges = RowRanges(context, Int(begin), Int(end))
    while ranges.advance():
        if ranges.row.grad() == 0:
            continue
        var memory = pointer_at[Scalar[dtype]](ranges.row.grad())
        for i in range(ranges.first, ranges.last):
            memory[unsafe_offset=i] = 0
