"""The driver: which elements a step touches, in which lanes, with which constants."""

from std.sys import size_of
from std.testing import TestSuite, assert_equal

from shared.training.core import SerialExecutor, run_blocks, update
from shared.training.core.driver import TORCH_VECTOR_BYTES, prepare
from shared.training.core.table import BLOCK, block_count

from tensors import (
    GUARD,
    SENTINEL,
    Sum,
    Tensors,
    gradient,
    start_value,
)


def every_length() -> List[Int]:
    """Lists lengths around the sizes of vectors and blocks, and 0."""
    var lengths = [n for n in range(68)]
    lengths += [255, 256, 257, 0, 1000, 512, 0]
    return lengths^


def step_serially[dtype: DType](mut tensors: Tensors[dtype]):
    update[Sum, dtype](tensors.context(), SerialExecutor())


def check_tensor[
    dtype: DType
](tensors: Tensors[dtype], t: Int, steps: Int) raises:
    """Compares a tensor with `steps` plain steps; all numbers are exact."""
    comptime torch_width = TORCH_VECTOR_BYTES // size_of[Scalar[dtype]]()
    ref rule = tensors.rules[tensors.groups[t]]
    var scale = 1.0
    if len(tensors.grad_scale) > 0:
        scale = Float64(tensors.grad_scale[0])
    var numel = tensors.numels[t]
    var vectors_end = numel // torch_width * torch_width
    assert_equal(tensors.steps[t], Float32(steps))
    for i in range(numel):
        var grad = Float64(gradient(t, i))
        var param = Float64(start_value(t, i))
        var sum = 0.0
        for step in range(1, steps + 1):
            grad /= scale
            sum += grad
            param += rule.weight * sum + rule.bias * Float64(step)
        var place = String(t"tensor {t} of {numel}, element {i}")
        assert_equal(Float64(tensors.params[t][i]), param, place)
        assert_equal(Float64(tensors.grads[t][i]), grad, place)
        assert_equal(Float64(tensors.states[2 * t][i]), sum, place)
        if steps > 0:
            # Rules tell torch's scalar loop by the width of the lanes.
            var width = tensors.states[2 * t + 1][i]
            assert_equal(width == 1, i >= vectors_end, place)
    for i in range(numel, numel + GUARD):
        assert_equal(tensors.params[t][i], SENTINEL)
        assert_equal(tensors.grads[t][i], SENTINEL)
        assert_equal(tensors.states[2 * t][i], SENTINEL)
        assert_equal(tensors.states[2 * t + 1][i], SENTINEL)


def check_equal[dtype: DType](a: Tensors[dtype], b: Tensors[dtype]) raises:
    for t in range(len(a.numels)):
        assert_equal(a.params[t], b.params[t])
        assert_equal(a.grads[t], b.grads[t])
        assert_equal(a.states[2 * t], b.states[2 * t])
        assert_equal(a.states[2 * t + 1], b.states[2 * t + 1])
        assert_equal(a.steps[t], b.steps[t])


def check_lengths[dtype: DType]() raises:
    var tensors = Tensors[dtype](every_length())
    step_serially(tensors)
    step_serially(tensors)
    for t in range(len(tensors.numels)):
        check_tensor(tensors, t, 2)


def test_every_element_of_every_length_is_updated_once() raises:
    check_lengths[DType.float32]()
    check_lengths[DType.float64]()
    check_lengths[DType.bfloat16]()


def test_block_count() raises:
    assert_equal(block_count(0), 0)
    assert_equal(block_count(1), 1)
    assert_equal(block_count(BLOCK), 1)
    assert_equal(block_count(BLOCK + 1), 2)


def test_an_empty_table_is_no_work() raises:
    var tensors = Tensors[DType.float32]([])
    step_serially(tensors)
    var without_elements = Tensors[DType.float32]([0, 0])
    step_serially(without_elements)
    assert_equal(without_elements.steps, [Float32(1), Float32(1)])


def test_rows_without_gradient_are_left_alone() raises:
    var tensors = Tensors[DType.float32]([300, 5, 40, 700, 9])
    for t in [0, 2, 4]:
        tensors.has_grad[t] = False
    step_serially(tensors)
    for t in range(5):
        check_tensor(tensors, t, 0 if t % 2 == 0 else 1)
    for t in [0, 2, 4]:
        tensors.has_grad[t] = True
    tensors.has_grad[1] = False
    step_serially(tensors)
    for t in range(5):
        check_tensor(tensors, t, 2 if t == 3 else 1)


def test_grad_scale_divides_gradients_in_place() raises:
    var lengths: List[Int] = [100, 3, 257]
    var float32 = Tensors[DType.float32](lengths.copy())
    float32.grad_scale = [4]
    step_serially(float32)
    step_serially(float32)
    var bfloat16 = Tensors[DType.bfloat16](lengths.copy())
    bfloat16.grad_scale = [0.5]
    step_serially(bfloat16)
    for t in range(3):
        check_tensor(float32, t, 2)
        check_tensor(bfloat16, t, 1)


def test_grad_scale_is_a_division() raises:
    # Torch divides, and a product with the reciprocal of 3 rounds otherwise.
    var tensors = Tensors[DType.float32]([200])
    tensors.grad_scale = [3]
    for i in range(200):
        tensors.grads[0][i] = Float32(i)
    step_serially(tensors)
    for i in range(200):
        assert_equal(tensors.grads[0][i], Float32(i) / 3)


def check_splits[dtype: DType]() raises:
    var whole = Tensors[dtype](every_length())
    whole.grad_scale = [3]
    step_serially(whole)
    for size in [1, 2, 3, 7, 40]:
        var split = Tensors[dtype](every_length())
        split.grad_scale = [3]
        var context = split.context()
        prepare[Sum](context)
        var address = context.words.unsafe_bitcast[NoneType]()
        # From the last piece to the first: the order is not promised either.
        for piece in reversed(range((split.blocks + size - 1) // size)):
            var end = min((piece + 1) * size, split.blocks)
            run_blocks[Sum, dtype](Int64(piece * size), Int64(end), address)
        check_equal(whole, split)


def test_the_result_does_not_depend_on_how_blocks_are_split() raises:
    check_splits[DType.float32]()
    check_splits[DType.float64]()
    check_splits[DType.bfloat16]()


def test_no_blocks_are_no_work() raises:
    var tensors = Tensors[DType.float32]([300, 300])
    var context = tensors.context()
    prepare[Sum](context)
    for begin in range(tensors.blocks + 1):
        run_blocks[Sum, DType.float32](
            Int64(begin),
            Int64(begin),
            context.words.unsafe_bitcast[NoneType](),
        )
    assert_equal(tensors.params[0][0], Float32(start_value(0, 0)))
    assert_equal(tensors.params[1][299], Float32(start_value(1, 299)))


def test_each_row_follows_its_group_and_its_own_step() raises:
    var tensors = Tensors[DType.float32]([10, 20, 30, 40, 50])
    tensors.rules = [Sum(weight=0.5, bias=1), Sum(weight=2, bias=-3)]
    tensors.groups = [0, 0, 1, 1, 0]
    tensors.has_grad[1] = False
    step_serially(tensors)
    tensors.has_grad[1] = True
    step_serially(tensors)
    for t in range(5):
        check_tensor(tensors, t, 1 if t == 1 else 2)


def test_neighbours_at_one_step_of_one_group_share_a_record() raises:
    var tensors = Tensors[DType.float32]([10, 20, 30, 40, 50, 60])
    tensors.rules = [Sum(weight=0.5, bias=1), Sum(weight=2, bias=-3)]
    tensors.groups = [0, 0, 0, 0, 1, 1]
    tensors.steps = [4, 9, 4, 7, 7, 7]
    tensors.has_grad[1] = False
    var context = tensors.context()
    prepare[Sum](context)
    var expected: List[Int] = [0, -1, 0, 1, 2, 2]
    for t in range(6):
        if t != 1:
            assert_equal(context.row(t).record(), expected[t])
    assert_equal(context.record[Sum.Update](1)[].step, 8)
    assert_equal(context.record[Sum.Update](2)[].step, -24)
    assert_equal(tensors.steps, [Float32(5), 9, 5, 8, 8, 8])


def test_grain_grows_as_tensors_shrink() raises:
    var large = Tensors[DType.float32]([1 << 20])
    assert_equal(large.context().grain(), 32)
    # Where blocks are nearly empty, a thread's worth is more of them.
    var small = Tensors[DType.float32](List[Int](length=1000, fill=8))
    assert_equal(small.context().grain(), 257)
    var none = Tensors[DType.float32]([])
    assert_equal(none.context().grain(), 1)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
