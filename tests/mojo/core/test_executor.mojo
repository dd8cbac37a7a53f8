"""Executors: every block once, whatever the threads, and the same bits."""

from std.memory import bitcast
from std.testing import TestSuite, assert_equal, assert_true

from shared.training.core import (
    Address,
    Executor,
    SerialExecutor,
    TorchExecutor,
    update,
    words_at,
)
from shared.training.core.executor import BlockBody, TorchParallelFor
from shared.training.core.parallel_executor import ParallelExecutor

from tensors import Sum, Tensors


def count_blocks(begin: Int64, end: Int64, address: Address) abi("C") -> None:
    """Counts each block in its own word; threads never share one."""
    var counts = address.unsafe_bitcast[Int64]()
    for block in range(Int(begin), Int(end)):
        counts[unsafe_offset=block] += 1


def check_coverage[
    Runner: Executor
](executor: Runner, blocks: Int, grain: Int) raises:
    # One word more on either side would show a range that is too wide.
    var counts = List[Int64](length=blocks + 2, fill=0)
    var first = words_at(Int(counts.unsafe_ptr())).unsafe_offset(1)
    executor.execute(
        blocks, grain, count_blocks, first.unsafe_bitcast[NoneType]()
    )
    assert_equal(counts[0], 0)
    assert_equal(counts[blocks + 1], 0)
    for block in range(blocks):
        assert_equal(
            counts[block + 1],
            1,
            String(t"block {block} of {blocks}, grain {grain}"),
        )


def split_in_pieces(
    begin: Int64, end: Int64, grain: Int64, body: BlockBody, address: Address
) abi("C") -> Int32:
    """Stands for `torch_parallel_for` and runs the last piece first."""
    var pieces = (end - begin + grain - 1) // grain
    for piece in reversed(range(Int(pieces))):
        var first = begin + Int64(piece) * grain
        body(first, min(first + grain, end), address)
    return 0


def torch_executor() -> TorchExecutor:
    var function: TorchParallelFor = split_in_pieces
    return TorchExecutor(Pointer(to=function).unsafe_bitcast[Int]()[])


def test_every_block_runs_once() raises:
    for blocks in range(40):
        for grain in [1, 2, 5, 39, 64]:
            check_coverage(SerialExecutor(), blocks, grain)
            check_coverage(ParallelExecutor(), blocks, grain)
            check_coverage(torch_executor(), blocks, grain)
    check_coverage(ParallelExecutor(), 100_001, 1)


def write_range(begin: Int64, end: Int64, address: Address) abi("C") -> None:
    var words = address.unsafe_bitcast[Int64]()
    words[unsafe_offset=0] += 1
    words[unsafe_offset=1] = begin
    words[unsafe_offset=2] = end


def ranges[Runner: Executor](executor: Runner, grain: Int) -> List[Int64]:
    """Gives the number of ranges that ten blocks make and the last of them."""
    var words = List[Int64](length=3, fill=0)
    executor.execute(
        10,
        grain,
        write_range,
        words_at(Int(words.unsafe_ptr())).unsafe_bitcast[NoneType](),
    )
    return words^


def test_the_serial_executor_makes_one_range() raises:
    assert_equal(ranges(SerialExecutor(), 1), [Int64(1), 0, 10])


def test_few_blocks_stay_on_the_calling_thread() raises:
    assert_equal(ranges(ParallelExecutor(), 10), [Int64(1), 0, 10])
    assert_equal(ranges(torch_executor(), 10), [Int64(1), 0, 10])


def test_torch_is_given_the_grain() raises:
    assert_equal(ranges(torch_executor(), 4), [Int64(3), 0, 4])


def check_same_bits[
    dtype: DType, Runner: Executor
](executor: Runner, scale: Scalar[dtype]) raises:
    var lengths: List[Int] = [40_001, 7, 0, 300, 20_000]
    var serial = Tensors[dtype](lengths.copy())
    var other = Tensors[dtype](lengths^)
    for t in range(5):
        for i in range(serial.numels[t]):
            serial.params[t][i] = scale / Scalar[dtype](3 + i)
            serial.grads[t][i] = scale / Scalar[dtype](7 + 3 * i + t)
        other.params[t] = serial.params[t].copy()
        other.grads[t] = serial.grads[t].copy()
    serial.rules = [Sum(weight=0.3, bias=0)]
    other.rules = [Sum(weight=0.3, bias=0)]
    for _ in range(3):
        update[Sum, dtype](serial.context(), SerialExecutor())
        update[Sum, dtype](other.context(), executor)
    for t in range(5):
        for i in range(serial.numels[t]):
            assert_equal(other.params[t][i], serial.params[t][i])
            assert_equal(other.states[2 * t][i], serial.states[2 * t][i])
            assert_true(serial.states[2 * t][i] != 0)


def test_threads_give_the_bits_of_one_thread() raises:
    check_same_bits[DType.float32](ParallelExecutor(), 1)
    check_same_bits[DType.bfloat16](ParallelExecutor(), 1)
    check_same_bits[DType.float32](torch_executor(), 1)


def test_threads_keep_subnormal_numbers() raises:
    check_same_bits[DType.float32](ParallelExecutor(), 1e-38)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
