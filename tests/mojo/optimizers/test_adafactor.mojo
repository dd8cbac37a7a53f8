"""Adafactor's factored kernel against plain loops, whoever runs its parts."""

from std.math import sqrt
from std.sys import size_of
from std.testing import TestSuite, assert_almost_equal, assert_equal

from shared.training.core import (
    Context,
    Executor,
    SerialExecutor,
    update_factored,
    words_at,
)
from shared.training.core.executor import BlockBody
from shared.training.core.memory import Address
from shared.training.core.rule import SUMS_MAX
from shared.training.core.table import (
    RECORD_WORDS,
    ContextWord,
    RowWord,
    block_count,
)
from shared.training.optimizers import Adafactor, Optimizer

from reference import gradient, one_parameter

comptime SENTINEL = 77
"""What lies behind each array, where no kernel may write."""

comptime STEPS = 3


@fieldwise_init
struct Backwards(Executor):
    """Deals out pieces of `size` blocks, from the last to the first."""

    var size: Int

    def execute(
        self, blocks: Int, grain: Int, body: BlockBody, context: Address
    ):
        var pieces = (blocks + self.size - 1) // self.size
        for piece in reversed(range(pieces)):
            var end = min((piece + 1) * self.size, blocks)
            body(Int64(piece * self.size), Int64(end), context)


@fieldwise_init
struct Shape(Copyable, Movable):
    """A stack of matrices, and how it is divided."""

    var matrices: Int
    var rows: Int
    var columns: Int
    var parts: Int


struct State(Movable):
    """A parameter and its second moments."""

    var param: List[Float64]
    var rows: List[Float64]
    var columns: List[Float64]

    def __init__(out self, shape: Shape):
        var size = shape.rows * shape.columns
        self.param = [gradient(i, 1) + 2 for i in range(shape.matrices * size)]
        self.rows = List[Float64](length=shape.matrices * shape.rows, fill=0)
        self.columns = List[Float64](
            length=shape.matrices * shape.columns, fill=0
        )

    def step(mut self, shape: Shape, rule: Adafactor[], step: Int):
        """Takes a step as torch documents it."""
        var weight = 1.0
        if step > 1:
            weight = Float64(step) ** rule.beta2_decay
        var count = len(self.param)
        var updates = List[Float64](capacity=count)
        var squares = 0.0
        var update_squares = 0.0
        for m in range(shape.matrices):
            var mean = 0.0
            for r in range(shape.rows):
                var sum = 0.0
                for c in range(shape.columns):
                    var g = gradient(self.index(shape, m, r, c), step)
                    sum += g * g / Float64(shape.columns)
                ref row = self.rows[m * shape.rows + r]
                row += weight * (sum - row)
                mean += row / Float64(shape.rows)
            for c in range(shape.columns):
                var sum = 0.0
                for r in range(shape.rows):
                    var g = gradient(self.index(shape, m, r, c), step)
                    sum += g * g / Float64(shape.rows)
                ref column = self.columns[m * shape.columns + c]
                column += weight * (sum - column)
            for r in range(shape.rows):
                for c in range(shape.columns):
                    var i = self.index(shape, m, r, c)
                    var v = (
                        self.rows[m * shape.rows + r]
                        * self.columns[m * shape.columns + c]
                        / max(mean, rule.eps1)
                    )
                    var u = gradient(i, step) / max(sqrt(v), rule.eps1)
                    updates.append(u)
                    update_squares += u * u
                    squares += self.param[i] * self.param[i]
        var size = max(rule.eps2, sqrt(squares / Float64(count)))
        size *= min(rule.lr, 1 / sqrt(Float64(step)))
        size /= max(1.0, sqrt(update_squares / Float64(count)) / rule.d)
        for i in range(count):
            self.param[i] *= 1 - rule.lr * rule.weight_decay
            self.param[i] -= size * updates[i]

    @staticmethod
    def index(shape: Shape, matrix: Int, row: Int, column: Int) -> Int:
        return (matrix * shape.rows + row) * shape.columns + column


def train[
    Runner: Executor, //, dtype: DType
](shape: Shape, rule: Adafactor[], executor: Runner) raises -> List[
    List[Scalar[dtype]]
]:
    """Runs the kernel.

    Returns:
        The parameter, the moments of rows and those of columns.
    """
    var state = State(shape)
    var arrays: List[List[Scalar[dtype]]] = []
    for values in [
        state.param.copy(),
        state.rows.copy(),
        state.columns.copy(),
    ]:
        var array = [Scalar[dtype](value) for value in values]
        array.append(SENTINEL)
        arrays.append(array^)
    var count = len(state.param)
    var grad = List[Scalar[dtype]](length=count, fill=0)
    var step = List[Float32](length=1, fill=0)
    var rules: List[Adafactor[]] = [rule]
    var scratch_length = shape.parts * (shape.columns + SUMS_MAX)
    # Nothing may rely on what scratch held.
    var scratch = List[Float64](length=scratch_length + 1, fill=SENTINEL)
    var table = List[Int64](length=RowWord.END, fill=0)
    table[RowWord.PARAM] = Int64(Int(arrays[0].unsafe_ptr()))
    table[RowWord.STATE] = Int64(Int(arrays[1].unsafe_ptr()))
    table[RowWord.STATE + 1] = Int64(Int(arrays[2].unsafe_ptr()))
    table[RowWord.GRAD] = Int64(Int(grad.unsafe_ptr()))
    table[RowWord.STEP] = Int64(Int(step.unsafe_ptr()))
    table[RowWord.NUMEL] = Int64(count)
    table[RowWord.ROWS] = Int64(shape.rows)
    table[RowWord.COLUMNS] = Int64(shape.columns)
    table[RowWord.PARTS] = Int64(shape.parts)
    table[RowWord.SCRATCH] = Int64(Int(scratch.unsafe_ptr()))
    var records = List[Int64](length=RECORD_WORDS, fill=0)
    var words = List[Int64](length=ContextWord.END, fill=0)
    words[ContextWord.TABLE] = Int64(Int(table.unsafe_ptr()))
    words[ContextWord.TENSORS] = 1
    words[ContextWord.BLOCKS] = Int64(block_count(count))
    words[ContextWord.ELEMENTS] = Int64(count)
    words[ContextWord.HYPERPARAMETERS] = Int64(Int(rules.unsafe_ptr()))
    words[ContextWord.HYPERPARAMETERS_STRIDE] = Int64(
        size_of[Adafactor[]]() // 8
    )
    words[ContextWord.RECORDS] = Int64(Int(records.unsafe_ptr()))
    words[ContextWord.GROUPS] = 1
    var context = Context(words_at(Int(words.unsafe_ptr())))
    context.set_number(ContextWord.GRAD_FACTOR, 1)
    for t in range(1, STEPS + 1):
        for i in range(count):
            grad[i] = Scalar[dtype](gradient(i, t))
        update_factored[Adafactor[], dtype](context, executor)
    assert_equal(scratch[scratch_length], SENTINEL)
    for array in arrays:
        assert_equal(array[len(array) - 1], SENTINEL)
    assert_equal(step[0], STEPS)
    _ = scratch^
    _ = table^
    _ = records^
    _ = words^
    _ = rules^
    _ = grad^
    _ = step^
    return arrays^


def shapes() -> List[Shape]:
    """Gives stacks of parts that are whole matrices, or several, or strips."""
    return [
        Shape(1, 3, 5, 1),
        Shape(1, 1, 600, 1),
        Shape(1, 600, 1, 4),
        Shape(1, 50, 40, 1),
        Shape(1, 50, 40, 7),
        Shape(1, 53, 17, 50),
        Shape(7, 5, 33, 1),
        Shape(7, 5, 33, 3),
        Shape(100, 3, 3, 100),
        Shape(3, 40, 20, 9),
    ]


def check_plain[dtype: DType](rule: Adafactor[], tolerance: Float64) raises:
    for shape in shapes():
        var expected = State(shape)
        for t in range(1, STEPS + 1):
            expected.step(shape, rule, t)
        var arrays = train[dtype](shape, rule, SerialExecutor())
        var place = String(
            shape.matrices, " x ", shape.rows, " x ", shape.columns
        )
        for i in range(len(expected.param)):
            assert_almost_equal(
                Float64(arrays[0][i]),
                expected.param[i],
                String(t"{place}: element {i}"),
                atol=tolerance,
                rtol=tolerance,
            )
        for i in range(len(expected.rows)):
            assert_almost_equal(
                Float64(arrays[1][i]),
                expected.rows[i],
                String(t"{place}: row {i}"),
                atol=0,
                rtol=tolerance,
            )
        for i in range(len(expected.columns)):
            assert_almost_equal(
                Float64(arrays[2][i]),
                expected.columns[i],
                String(t"{place}: column {i}"),
                atol=0,
                rtol=tolerance,
            )


def test_plain_loops() raises:
    # float64: sums in another order, and a power that is exact to 111 units.
    check_plain[DType.float64](Adafactor(lr=0.5, weight_decay=0.1), 1e-12)
    check_plain[DType.float64](
        Adafactor(lr=0.5, beta2_decay=-0.5, eps1=1.5, eps2=5, d=2), 1e-12
    )
    # float32: some ten roundings of numbers up to 10.
    check_plain[DType.float32](Adafactor(lr=0.5, weight_decay=0.1), 3e-6)


def check_pieces[dtype: DType]() raises:
    var rule = Adafactor(lr=0.5)
    for shape in shapes():
        var expected = train[dtype](shape, rule, SerialExecutor())
        for size in [1, 3]:
            var arrays = train[dtype](shape, rule, Backwards(size))
            for a in range(len(arrays)):
                assert_equal(arrays[a], expected[a])


def test_pieces_do_not_change_the_bits() raises:
    check_pieces[DType.float32]()
    check_pieces[DType.float64]()


def test_a_step_is_relative_to_the_parameter() raises:
    # The first update of a vector is the gradient's sign.
    var parameters = one_parameter[DType.float64]([3, -4, 0])
    var optimizer = Optimizer[_, DType.float64](Adafactor(lr=0.1))
    parameters[0].grad = [2, -1, 5]
    optimizer.step(parameters)
    var size = 0.1 * sqrt(25 / 3.0)
    var expected: List[Float64] = [3 - size, -4 + size, -size]
    for i in range(3):
        assert_almost_equal(parameters[0].value[i], expected[i], atol=1e-14)
    # What is small counts as eps2.
    parameters = one_parameter[DType.float64]([0, 0])
    var other = Optimizer[_, DType.float64](Adafactor(lr=0.1, eps2=0.5))
    parameters[0].grad = [2, -1]
    other.step(parameters)
    assert_almost_equal(parameters[0].value[0], -0.05, atol=1e-14)
    assert_almost_equal(parameters[0].value[1], 0.05, atol=1e-14)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
