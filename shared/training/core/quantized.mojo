"""The loop over memory of rules whose state tensors are 8-bit codes.

Each block of 256 elements has one float32 for each state: the largest size of
the state in it, which the codes of the block are relative to. Threads are dealt
whole blocks, so no thread waits for another. State 0, a first moment, is coded
with a sign; further ones are second moments, which are not negative.

In a row of the table, words `STATE + s` hold the codes of state s, and words
`STATE + STATES + s` the float32s.
"""

from std.memory import bitcast, unsafe_stack_allocation
from std.sys import simd_width_of
from std.utils.numerics import nan

from .driver import PREFETCH_AHEAD, _Around, _average_range, prepare
from .executor import Executor
from .lanes import compute_dtype, lerp, load, prefetch_at, store
from .memory import Address, pointer_at
from .rule import LaneUpdate, UpdateRule
from .table import BLOCK, Context, ContextWord, RowRanges, TensorRow
from .tree_code import TreeCode

comptime WIDTH = simd_width_of[DType.float32]()
"""Lanes that work together; they divide a block."""

comptime SIZE = 0x7FFF_FFFF
"""The bits of a float32 but its sign."""

comptime LARGEST_FINITE = 0x7F7F_FFFF
"""The bits of the largest finite float32."""

comptime _Memory[dtype: DType] = MutPointer[Scalar[dtype], MutUntrackedOrigin]


@fieldwise_init
struct _Block[dtype: DType, states: Int](Copyable, Movable):
    """Where the arrays of one block begin."""

    var param: _Memory[Self.dtype]
    var grad: _Memory[Self.dtype]
    var average: _Memory[Self.dtype]
    """Not to be touched if there is no average."""
    var codes: Array[_Memory[DType.uint8], Self.states]
    var largest: Array[_Memory[DType.float32], Self.states]

    def __init__(out self, row: TensorRow, first: Int):
        self.param = pointer_at[Scalar[Self.dtype]](row.param())
        self.param = self.param.unsafe_offset(first)
        self.grad = pointer_at[Scalar[Self.dtype]](row.grad())
        self.grad = self.grad.unsafe_offset(first)
        self.average = self.param
        if row.average() != 0:
            self.average = pointer_at[Scalar[Self.dtype]](row.average())
            self.average = self.average.unsafe_offset(first)
        self.codes = {uninitialized = True}
        self.largest = {uninitialized = True}
        comptime for s in range(Self.states):
            self.codes[s] = pointer_at[UInt8](row.state(s)).unsafe_offset(first)
            self.largest[s] = pointer_at[Float32](
                row.state(Self.states + s)
            ).unsafe_offset(first // BLOCK)


def run_quantized_blocks[
    Rule: UpdateRule, dtype: DType
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    """Updates the elements of the blocks `[begin, end)`.

    The parameter is updated with the new states as they are computed; only what
    the next step reads of them is rounded to codes. A block in which any new
    state is infinite or NaN decodes to NaN from then on.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters and gradients, float32 or bfloat16.

    Args:
        begin: The first block.
        end: One past the last block.
        address: The context; `prepare` has been called on it.
    """
    var context = Context(address.unsafe_bitcast[Int64]())
    var ranges = RowRanges(context, Int(begin), Int(end))
    while ranges.advance():
        var row = ranges.row
        if row.grad() == 0:
            if row.average() != 0:
                _average_range[dtype](context, row, ranges.first, ranges.last)
            continue
        var update = context.record[Rule.Update](row.record())[]
        var around = _Around[dtype](context, row)
        for first in range(ranges.first, ranges.last, BLOCK):
            var count = min(BLOCK, ranges.last - first)
            var block = _Block[dtype, Rule.Update.STATES](row, first)
            if count % WIDTH == 0:
                var ahead = min(ranges.last - first, count + PREFETCH_AHEAD)
                _update_block(update, around, block, count, ahead)
            else:
                _update_short_block(update, around, block, count)


@no_inline
def _update_block[
    Update: LaneUpdate, dtype: DType, //
](
    update: Update,
    around: _Around[dtype],
    block: _Block[dtype, Update.STATES],
    count: Int,
    ahead: Int,
):
    # `count` is whole vectors, and `ahead` how far the tensor goes on.
    comptime compute = compute_dtype[dtype]()
    comptime Lanes = SIMD[DType.float32, WIDTH]
    comptime Bits = SIMD[DType.uint32, WIDTH]
    comptime assert dtype != DType.float64, "codes are less than float64"
    var moments = unsafe_stack_allocation[
        Update.STATES * BLOCK, Float32, alignment=64
    ]()
    var scales = Array[Float32, Update.STATES](uninitialized=True)
    var largest = Array[Bits, Update.STATES](fill=Bits(0))
    comptime for s in range(Update.STATES):
        scales[s] = block.largest[s][]
        for line in range(0, count, 64):
            prefetch_at(block.codes[s], min(line + PREFETCH_AHEAD, ahead))
    for i in range(0, count, WIDTH):
        prefetch_at(block.param, min(i + PREFETCH_AHEAD, ahead))
        prefetch_at(block.grad, min(i + PREFETCH_AHEAD, ahead))
        var param = load[dtype, WIDTH](block.param, i)
        var grad = load[dtype, WIDTH](block.grad, i)
        if around.is_needed:
            if around.grad_scale != 1:
                grad = grad / around.grad_scale
                store[dtype, WIDTH](block.grad, i, grad)
            grad = grad * around.grad_factor
        var state = Array[SIMD[compute, WIDTH], Update.STATES](
            uninitialized=True
        )
        comptime for s in range(Update.STATES):
            comptime Code = TreeCode[s == 0]
            var decoded = Code.decode(
                block.codes[s].unsafe_load[width=WIDTH](i)
            )
            state[s] = (Lanes(scales[s]) * decoded).cast[compute]()
        update.apply[compute, WIDTH](param, grad, state)
        store[dtype, WIDTH](block.param, i, param)
        comptime for s in range(Update.STATES):
            # As integers, NaN is above infinity, and that above the rest.
            var moment = state[s].cast[DType.float32]()
            largest[s] = max(largest[s], bitcast[DType.uint32](moment) & SIZE)
            moments.unsafe_store[width=WIDTH, alignment=4 * WIDTH](
                s * BLOCK + i, moment
            )
        if around.is_needed:
            if around.average != 0:
                # It follows what the parameter is in memory, after rounding.
                store[dtype, WIDTH](
                    block.average,
                    i,
                    lerp(
                        load[dtype, WIDTH](block.average, i),
                        load[dtype, WIDTH](block.param, i),
                        around.average_weight,
                    ),
                )
            if around.zero_grad:
                store[dtype, WIDTH](block.grad, i, 0)
    comptime for s in range(Update.STATES):
        comptime Code = TreeCode[s == 0]
        var bits = largest[s].reduce_max()
        var scale = bitcast[DType.float32](bits)
        # Of zeros, and of what is too small to have a finite inverse.
        var inverse = min(1 / scale, Float32.MAX_FINITE)
        if bits > LARGEST_FINITE:
            block.largest[s][] = nan[DType.float32]()
            for i in range(count):
                block.codes[s][unsafe_offset=i] = 0
            continue
        block.largest[s][] = scale
        for i in range(0, count, WIDTH):
            block.codes[s].unsafe_store(
                i,
                Code.encode(
                    moments.unsafe_load[width=WIDTH, alignment=4 * WIDTH](
                        s * BLOCK + i
                    ),
                    inverse,
                ),
            )


def _update_short_block[
    Update: LaneUpdate, dtype: DType, //
](
    update: Update,
    around: _Around[dtype],
    block: _Block[dtype, Update.STATES],
    count: Int,
):
    # In a copy, the end of a tensor is padded with zeros to whole vectors.
    var copy = block.copy()
    copy.param = _padded(block.param, count)
    copy.grad = _padded(block.grad, count)
    copy.average = _padded(block.average, count)
    comptime for s in range(Update.STATES):
        copy.codes[s] = _padded(block.codes[s], count, TreeCode[s == 0].ZERO)
    var whole = (count + WIDTH - 1) // WIDTH * WIDTH
    _update_block(update, around, copy, whole, whole)
    _copy(copy.param, block.param, count)
    comptime for s in range(Update.STATES):
        _copy(copy.codes[s], block.codes[s], count)
    if around.is_needed:
        _copy(copy.grad, block.grad, count)
        if around.average != 0:
            _copy(copy.average, block.average, count)


@always_inline
def _padded[
    dtype: DType
](source: _Memory[dtype], count: Int, padding: Scalar[dtype] = 0) -> _Memory[
    dtype
]:
    # In the caller's frame, since this is inlined.
    var copy = unsafe_stack_allocation[BLOCK, Scalar[dtype], alignment=64]()
    for i in range(count):
        copy[unsafe_offset=i] = source[unsafe_offset=i]
    for i in range(count, BLOCK):
        copy[unsafe_offset=i] = padding
    return copy.unsafe_origin_cast[MutUntrackedOrigin]()


@always_inline
def _copy[dtype: DType](source: _Memory[dtype], to: _Memory[dtype], count: Int):
    for i in range(count):
        to[unsafe_offset=i] = source[unsafe_offset=i]


def update_quantized[
    Rule: UpdateRule, dtype: DType, Runner: Executor
](context: Context, executor: Runner):
    """Takes one optimizer step over every tensor of the table.

    Parameters:
        Rule: The update rule, with at most two states.
        dtype: The dtype of the parameters and gradients, float32 or bfloat16.
        Runner: The type of the executor.

    Args:
        context: What to update, valid until the call returns.
        executor: Who runs the blocks.
    """
    prepare[Rule](context)
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        run_quantized_blocks[Rule, dtype],
        context.words.unsafe_bitcast[NoneType](),
    )
