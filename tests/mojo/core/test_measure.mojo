"""The measuring pass: what it sums, of which tensors, in which order."""

from std.sys import size_of
from std.testing import TestSuite, assert_equal

from shared.training.core import (
    LaneUpdate,
    Scalars,
    Sums,
    UpdateRule,
    measure_blocks,
    run_blocks,
)
from shared.training.core.driver import conclude, prepare
from shared.training.core.table import ContextWord

from tensors import SENTINEL, Tensors, gradient, start_value


@fieldwise_init
struct MeasureUpdate[moves: Bool](LaneUpdate):
    """Sums elements and products; adds both to the parameter, all exact."""

    comptime STATES = 2
    comptime SUMS = 2
    comptime MEASURES_STATE = Self.moves

    var total: Float64

    @always_inline
    def measure[
        dtype: DType, width: Int
    ](
        self,
        param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
        mut sums: Array[SIMD[DType.float64, width], Self.SUMS],
    ):
        sums[0] += grad.cast[DType.float64]()
        sums[1] += (param * grad).cast[DType.float64]()
        comptime if Self.moves:
            state[0] = state[0] + grad

    @always_inline
    def apply[
        dtype: DType, width: Int
    ](
        self,
        mut param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
    ):
        comptime if not Self.moves:
            state[0] = state[0] + grad
        param = state[0] + SIMD[dtype, width](self.total.cast[dtype]())


@fieldwise_init
struct Measure[moves: Bool, shares: Bool](UpdateRule):
    """Keeps the sums that it was told last in its two fields."""

    comptime Update = MeasureUpdate[Self.moves]
    comptime SHARES_SUMS = Self.shares

    var first: Float64
    var second: Float64

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        return Self.Update(total=0)

    def take_sums(mut self, sums: Sums):
        self.first += sums[0]
        self.second += sums[1]

    def finish(self, mut update: Self.Update, sums: Sums, numel: Int):
        update.total = sums[0] + sums[1]


comptime LENGTHS: List[Int] = [0, 1, 7, 8, 9, 255, 256, 257, 3000, 0]


def expected_sum(tensors: Tensors, t: Int) -> Float64:
    if not tensors.has_grad[t]:
        return 0
    var scale = 1.0
    if len(tensors.grad_scale) > 0:
        scale = Float64(tensors.grad_scale[0])
    var sum = 0.0
    for i in range(tensors.numels[t]):
        var grad = Float64(gradient(t, i)) / scale
        sum += grad + Float64(start_value(t, i)) * grad
    return sum


def check_step[
    dtype: DType, moves: Bool, shares: Bool
](size: Int, scale: Float32, zero_grad: Bool) raises:
    """Runs both passes in pieces of `size` blocks, from the last to the first."""
    comptime Rule = Measure[moves, shares]
    var tensors = Tensors[dtype](materialize[LENGTHS]())
    tensors.grad_scale = [scale]
    tensors.has_grad[5] = False
    var context = tensors.context()
    var rules: List[Rule] = [Rule(first=0, second=0), Rule(first=1, second=2)]
    var partials = List[Float64](length=2 * tensors.blocks, fill=-1e9)
    var words = context.words
    words[unsafe_offset=ContextWord.HYPERPARAMETERS] = Int64(
        Int(rules.unsafe_ptr())
    )
    words[unsafe_offset=ContextWord.HYPERPARAMETERS_STRIDE] = Int64(
        size_of[Rule]() // 8
    )
    words[unsafe_offset=ContextWord.GROUPS] = 2
    words[unsafe_offset=ContextWord.PARTIALS] = Int64(
        Int(partials.unsafe_ptr())
    )
    words[unsafe_offset=ContextWord.ZERO_GRAD] = Int64(1) if zero_grad else 0
    var address = words.unsafe_bitcast[NoneType]()
    prepare[Rule](context)
    var pieces = (tensors.blocks + size - 1) // size
    for piece in reversed(range(pieces)):
        var end = min((piece + 1) * size, tensors.blocks)
        measure_blocks[Rule, dtype](Int64(piece * size), Int64(end), address)
    conclude[Rule](context)
    for piece in reversed(range(pieces)):
        var end = min((piece + 1) * size, tensors.blocks)
        run_blocks[Rule, dtype](Int64(piece * size), Int64(end), address)

    var of_all = 0.0
    for t in range(len(tensors.numels)):
        of_all += expected_sum(tensors, t)
    comptime if shares:
        assert_equal(rules[0].first + rules[0].second, of_all)
        assert_equal(rules[1].first + rules[1].second, of_all + 3)
    for t in range(len(tensors.numels)):
        var sum = of_all if shares else expected_sum(tensors, t)
        for i in range(tensors.numels[t]):
            var place = String(t"tensor {t}, element {i}")
            var grad = Float64(gradient(t, i))
            var param = Float64(start_value(t, i))
            var state = 0.0
            if tensors.has_grad[t]:
                grad /= Float64(scale)
                state = grad
                param = grad + sum
                if zero_grad:
                    grad = 0
            assert_equal(Float64(tensors.states[2 * t][i]), state, place)
            assert_equal(Float64(tensors.params[t][i]), param, place)
            assert_equal(Float64(tensors.grads[t][i]), grad, place)
        assert_equal(tensors.params[t][tensors.numels[t]], SENTINEL)
        assert_equal(tensors.grads[t][tensors.numels[t]], SENTINEL)
        assert_equal(tensors.states[2 * t][tensors.numels[t]], SENTINEL)
    _ = rules^
    _ = partials^


def check_dtype[dtype: DType]() raises:
    for size in [1, 3, 40]:
        check_step[dtype, False, False](size, 1, False)
        check_step[dtype, True, False](size, 1, False)
        check_step[dtype, True, True](size, 1, True)
        check_step[dtype, False, True](size, 2, True)
        check_step[dtype, True, False](size, 2, True)
        check_step[dtype, False, False](size, 2, False)


def test_sums_are_exact_and_everything_happens_once() raises:
    check_dtype[DType.float32]()
    check_dtype[DType.float64]()


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
