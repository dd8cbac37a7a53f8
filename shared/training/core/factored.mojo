"""The loops over memory of rules that keep a second moment of rows and of columns.

A tensor of two and more dimensions is a stack of matrices. State 0 has a number for
each row, the mean of its squared gradients; state 1 has one for each column. The
second moment of an element is estimated as `row column / mean of the rows`.

A tensor is divided into parts, of whole matrices or of a few rows of one, whatever the
number of threads; a part belongs to the thread that has the block where it begins.
The first pass averages the squares of rows, and leaves in scratch what the columns of
each part sum to. Where parts are whole matrices it goes on with the columns and with
what the update measures, while the gradients are in the cache; elsewhere two more
passes do that. The last pass updates the parameters.
"""

from std.math import sqrt
from std.sys import simd_width_of

from .driver import (
    PREFETCH_AHEAD,
    _Around,
    _average_lanes,
    _average_range,
    _load_grad,
    prepare,
)
from .executor import Executor
from .lanes import compute_dtype, load, prefetch_at, store
from .memory import Address, pointer_at
from .norm import LANES, Lanes, sum_range
from .rule import SUMS_MAX, LaneUpdate, Sums, UpdateRule
from .table import Context, ContextWord, RowRanges, TensorRow

comptime _Numbers[dtype: DType] = MutPointer[Scalar[dtype], MutUntrackedOrigin]

comptime ROWS_AT_ONCE = 4
"""Rows that are summed together, to touch the sums of columns less often."""

comptime _Memory[dtype: DType] = MutPointer[Scalar[dtype], MutUntrackedOrigin]


trait FactoredUpdate(LaneUpdate):
    """The constants of one step of a rule whose second moment may be factored."""

    def average[
        dtype: DType, width: Int
    ](self, moment: SIMD[dtype, width], squares: SIMD[dtype, width]) -> SIMD[
        dtype, width
    ]:
        """Moves second moments.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            moment: Second moments of elements, rows or columns.
            squares: The squared gradients, or the means of rows or columns of them.

        Returns:
            The new moments.
        """
        ...

    def least_mean(self) -> Float64:
        """Gives what the mean of the rows' moments counts at least as.

        Returns:
            The least divisor of the estimate.
        """
        ...

    def direction[
        dtype: DType, width: Int
    ](self, grad: SIMD[dtype, width], inverse_root: SIMD[dtype, width]) -> SIMD[
        dtype, width
    ]:
        """Computes the update before it is scaled, whose squares `finish` is told.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            grad: The gradients.
            inverse_root: 1 by the square roots of the second moments.

        Returns:
            The update.
        """
        ...

    def move[
        dtype: DType, width: Int
    ](self, param: SIMD[dtype, width], direction: SIMD[dtype, width]) -> SIMD[
        dtype, width
    ]:
        """Takes the step.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The parameters.
            direction: The update before it is scaled.

        Returns:
            The new parameters.
        """
        ...


trait FactoredRule(UpdateRule):
    """A rule whose second moment may be factored.

    Its sums are the squares of the parameters and of the update.
    """

    comptime Update: FactoredUpdate
    """The constants that the rule derives for one step."""


struct _Division(ImplicitlyCopyable, Movable):
    """How a tensor with elements is divided into parts."""

    var row: TensorRow
    var rows: Int
    var columns: Int
    var matrices: Int
    var strips: Int
    """Parts of a matrix; 1 if parts are whole matrices."""
    var height: Int
    """Rows of a part in each of its matrices."""
    var group: Int
    """Matrices of a part."""
    var count: Int
    """Parts of the tensor."""

    def __init__(out self, row: TensorRow):
        self.row = row
        self.rows = row.rows()
        self.columns = row.columns()
        self.matrices = row.numel() // (self.rows * self.columns)
        var strips = max(1, row.parts() // self.matrices)
        self.height = (self.rows + strips - 1) // strips
        self.strips = (self.rows + self.height - 1) // self.height
        self.group = max(1, (self.matrices + row.parts() - 1) // row.parts())
        var groups = (self.matrices + self.group - 1) // self.group
        self.count = groups * self.strips

    def scratch(self, part: Int) -> _Numbers[DType.float64]:
        # A number for each column, then the sums over the part.
        return pointer_at[Float64](self.row.scratch()).unsafe_offset(
            part * (self.columns + SUMS_MAX)
        )


@fieldwise_init
struct _Strip[dtype: DType](ImplicitlyCopyable, Movable):
    """The rows of one matrix that belong to a part."""

    var division: _Division
    var around: _Around[Self.dtype]
    var matrix: Int
    var first_row: Int
    """In the matrix, as `end_row`."""
    var end_row: Int
    var part: Int

    def element(self, matrix_row: Int) -> Int:
        """Numbers the first element of a row."""
        var row = self.matrix * self.division.rows + matrix_row
        return row * self.division.columns

    def row_moments(self) -> _Numbers[Self.dtype]:
        """Points to the moments of the matrix's rows."""
        return pointer_at[Scalar[Self.dtype]](
            self.division.row.state(0)
        ).unsafe_offset(self.matrix * self.division.rows)

    def column_moments(self) -> _Numbers[Self.dtype]:
        """Points to the moments of the matrix's columns."""
        return pointer_at[Scalar[Self.dtype]](
            self.division.row.state(1)
        ).unsafe_offset(self.matrix * self.division.columns)

    def column_roots(self) -> _Numbers[compute_dtype[Self.dtype]()]:
        """Points to what `_write_column_roots` wrote."""
        return self.division.scratch(self.part).unsafe_bitcast[
            Scalar[compute_dtype[Self.dtype]()]
        ]()


struct _Stage:
    """Numbers the passes."""

    comptime ROWS = 0
    comptime COLUMNS = 1
    comptime DIRECTIONS = 2
    comptime UPDATE = 3


def _run_stage[
    Update: FactoredUpdate, dtype: DType, stage: Int
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    # Runs the parts that begin in the blocks `[begin, end)`.
    var context = Context(address.unsafe_bitcast[Int64]())
    var ranges = RowRanges(context, Int(begin), Int(end))
    while ranges.advance():
        var row = ranges.row
        if row.grad() == 0:
            comptime if stage == _Stage.UPDATE:
                if row.average() != 0:
                    _average_range[dtype](
                        context, row, ranges.first, ranges.last
                    )
            continue
        var update = context.record[Update](row.record())[]
        var division = _Division(row)
        comptime is_of_strips = (
            stage == _Stage.COLUMNS or stage == _Stage.DIRECTIONS
        )
        if is_of_strips and division.strips == 1:
            continue
        for part in range(division.count):
            var matrix = part // division.strips * division.group
            var first_row = part % division.strips * division.height
            var strip = _Strip[dtype](
                division=division,
                around=_Around[dtype](context, row),
                matrix=matrix,
                first_row=first_row,
                end_row=min(first_row + division.height, division.rows),
                part=part,
            )
            var start = strip.element(first_row)
            if start < ranges.first or start >= ranges.last:
                continue
            _run_part[Update, dtype, stage](update, strip)


def _run_part[
    Update: FactoredUpdate, dtype: DType, stage: Int
](update: Update, first: _Strip[dtype]):
    var strip = first
    var division = strip.division
    var scratch = division.scratch(strip.part)
    var sums = scratch.unsafe_offset(division.columns)
    comptime if stage == _Stage.COLUMNS:
        # Each part adds up its share of the columns.
        var share = strip.part % division.strips
        _average_columns[Update, dtype](
            update,
            strip,
            division.scratch(strip.part - share),
            division.columns * share // division.strips,
            division.columns * (share + 1) // division.strips,
        )
    elif stage == _Stage.DIRECTIONS:
        sums[unsafe_offset=1] = _sum_directions(update, strip)
    else:
        var param_squares = Float64(0)
        var update_squares = Float64(0)
        var end = min(strip.matrix + division.group, division.matrices)
        for matrix in range(strip.matrix, end):
            strip.matrix = matrix
            comptime if stage == _Stage.UPDATE:
                _update_strip(update, strip)
            else:
                _average_rows(update, strip)
                param_squares += sum_range[dtype](
                    division.row.param(),
                    strip.element(strip.first_row),
                    strip.element(strip.end_row),
                    strip.element(strip.end_row) - 1,
                )
                if division.strips == 1:
                    _average_columns[Update, dtype](
                        update, strip, scratch, 0, division.columns
                    )
                    update_squares += _sum_directions(update, strip)
        comptime if stage == _Stage.ROWS:
            sums[unsafe_offset=0] = param_squares
            sums[unsafe_offset=1] = update_squares


@always_inline
def _average_rows[
    Update: FactoredUpdate, dtype: DType, //
](update: Update, strip: _Strip[dtype]):
    var columns = strip.division.scratch(strip.part)
    for c in range(strip.division.columns):
        columns[unsafe_offset=c] = 0
    var rows = strip.end_row - strip.first_row
    var whole = strip.first_row + rows // ROWS_AT_ONCE * ROWS_AT_ONCE
    for r in range(strip.first_row, whole, ROWS_AT_ONCE):
        _average_some_rows[ROWS_AT_ONCE](update, strip, r, columns)
    for r in range(whole, strip.end_row):
        _average_some_rows[1](update, strip, r, columns)


@always_inline
def _average_some_rows[
    Update: FactoredUpdate, dtype: DType, //, rows: Int
](
    update: Update,
    strip: _Strip[dtype],
    first_row: Int,
    columns: _Numbers[DType.float64],
):
    comptime compute = compute_dtype[dtype]()
    var count = strip.division.columns
    var start = strip.element(first_row)
    var whole = count // LANES * LANES
    var lanes = Array[Lanes, rows](fill=0)
    var rest = Array[Float64, rows](fill=0)
    for c in range(0, whole, LANES):
        _add_squares[LANES](strip, start + c, c, columns, lanes)
    for c in range(whole, count):
        _add_squares[1](strip, start + c, c, columns, rest)
    var moments = strip.row_moments()
    comptime for r in range(rows):
        var mean = (lanes[r].reduce_add() + rest[r]) / Float64(count)
        var moment = load[dtype, 1](moments, first_row + r)
        moment = update.average[compute, 1](moment, mean.cast[compute]())
        store[dtype, 1](moments, first_row + r, moment)


@always_inline
def _add_squares[
    dtype: DType, rows: Int, //, width: Int
](
    strip: _Strip[dtype],
    first: Int,
    column: Int,
    columns: _Numbers[DType.float64],
    mut sums: Array[SIMD[DType.float64, width], rows],
):
    var sum = columns.unsafe_load[width=width](column)
    comptime for r in range(rows):
        var index = first + r * strip.division.columns
        var grad = _load_grad[dtype, width, is_scaled=False](
            strip.division.row, index, strip.around
        ).cast[DType.float64]()
        sums[r] = grad.fma(grad, sums[r])
        sum = grad.fma(grad, sum)
    columns.unsafe_store(column, sum)


def _average_columns[
    Update: FactoredUpdate, dtype: DType
](
    update: Update,
    strip: _Strip[dtype],
    scratch: _Numbers[DType.float64],
    first: Int,
    last: Int,
):
    # `scratch` is that of the matrix's first part.
    var whole = first + (last - first) // LANES * LANES
    for c in range(first, whole, LANES):
        _average_some_columns[LANES](update, strip, scratch, c)
    for c in range(whole, last):
        _average_some_columns[1](update, strip, scratch, c)


@always_inline
def _average_some_columns[
    Update: FactoredUpdate, dtype: DType, //, width: Int
](
    update: Update,
    strip: _Strip[dtype],
    scratch: _Numbers[DType.float64],
    column: Int,
):
    comptime compute = compute_dtype[dtype]()
    var stride = strip.division.columns + SUMS_MAX
    var sum = SIMD[DType.float64, width](0)
    for s in range(strip.division.strips):
        sum += scratch.unsafe_load[width=width](s * stride + column)
    var mean = sum / Float64(strip.division.rows)
    var moments = strip.column_moments()
    var moment = load[dtype, width](moments, column)
    moment = update.average[compute, width](moment, mean.cast[compute]())
    store[dtype, width](moments, column, moment)


def _write_column_roots[dtype: DType, //](strip: _Strip[dtype]):
    # Inverse ones, in the place of the sums.
    var count = strip.division.columns
    var roots = strip.column_roots()
    var moments = strip.column_moments()
    var whole = count // LANES * LANES
    for c in range(0, whole, LANES):
        roots.unsafe_store(c, 1 / sqrt(load[dtype, LANES](moments, c)))
    for c in range(whole, count):
        roots[unsafe_offset=c] = 1 / sqrt(load[dtype, 1](moments, c))


def _mean_of_rows[
    Update: FactoredUpdate, dtype: DType, //
](update: Update, strip: _Strip[dtype]) -> Scalar[compute_dtype[dtype]()]:
    comptime compute = compute_dtype[dtype]()
    var count = strip.division.rows
    var moments = strip.row_moments()
    var whole = count // LANES * LANES
    var lanes = Lanes(0)
    for r in range(0, whole, LANES):
        lanes += load[dtype, LANES](moments, r).cast[DType.float64]()
    var sum = lanes.reduce_add()
    for r in range(whole, count):
        sum += load[dtype, 1](moments, r).cast[DType.float64]()
    var mean = (sum / Float64(count)).cast[compute]()
    var least = update.least_mean().cast[compute]()
    return least if mean < least else mean  # NaN stays, unlike with `max`.


def _sum_directions[
    Update: FactoredUpdate, dtype: DType, //
](update: Update, strip: _Strip[dtype]) -> Float64:
    _write_column_roots(strip)
    var mean = _mean_of_rows(update, strip)
    var rows = strip.end_row - strip.first_row
    var whole = strip.first_row + rows // ROWS_AT_ONCE * ROWS_AT_ONCE
    var sum = Float64(0)
    for r in range(strip.first_row, whole, ROWS_AT_ONCE):
        sum += _sum_some_rows[ROWS_AT_ONCE](update, strip, r, mean)
    for r in range(whole, strip.end_row):
        sum += _sum_some_rows[1](update, strip, r, mean)
    return sum


@always_inline
def _sum_some_rows[
    Update: FactoredUpdate, dtype: DType, //, rows: Int
](
    update: Update,
    strip: _Strip[dtype],
    first_row: Int,
    mean: Scalar[compute_dtype[dtype]()],
) -> Float64:
    comptime compute = compute_dtype[dtype]()
    var count = strip.division.columns
    var start = strip.element(first_row)
    var whole = count // LANES * LANES
    var roots = Array[Scalar[compute], rows](uninitialized=True)
    comptime for r in range(rows):
        roots[r] = _row_root(strip, first_row + r, mean)
    var lanes = Array[Lanes, rows](fill=0)
    var rest = Array[Float64, rows](fill=0)
    for c in range(0, whole, LANES):
        _add_directions[LANES](update, strip, start + c, c, roots, lanes)
    for c in range(whole, count):
        _add_directions[1](update, strip, start + c, c, roots, rest)
    var sum = Float64(0)
    comptime for r in range(rows):
        sum += lanes[r].reduce_add() + rest[r]
    return sum


@always_inline
def _row_root[
    dtype: DType, //
](
    strip: _Strip[dtype],
    matrix_row: Int,
    mean: Scalar[compute_dtype[dtype]()],
) -> Scalar[compute_dtype[dtype]()]:
    return 1 / sqrt(load[dtype, 1](strip.row_moments(), matrix_row) / mean)


@always_inline
def _add_directions[
    Update: FactoredUpdate, dtype: DType, rows: Int, //, width: Int
](
    update: Update,
    strip: _Strip[dtype],
    first: Int,
    column: Int,
    roots: Array[Scalar[compute_dtype[dtype]()], rows],
    mut sums: Array[SIMD[DType.float64, width], rows],
):
    comptime compute = compute_dtype[dtype]()
    var root = strip.column_roots().unsafe_load[width=width](column)
    comptime for r in range(rows):
        var index = first + r * strip.division.columns
        var grad = _load_grad[dtype, width, is_scaled=True](
            strip.division.row, index, strip.around
        )
        var direction = update.direction[compute, width](
            grad, SIMD[compute, width](roots[r]) * root
        ).cast[DType.float64]()
        sums[r] = direction.fma(direction, sums[r])


def _update_strip[
    Update: FactoredUpdate, dtype: DType, //
](update: Update, strip: _Strip[dtype]):
    comptime width = simd_width_of[compute_dtype[dtype]()]()
    _write_column_roots(strip)
    var mean = _mean_of_rows(update, strip)
    var row = strip.division.row
    var count = strip.division.columns
    var whole = count // width * width
    var last = strip.element(strip.end_row) - 1
    for r in range(strip.first_row, strip.end_row):
        var start = strip.element(r)
        var root = _row_root(strip, r, mean)
        for c in range(0, whole, width):
            var ahead = min(start + c + PREFETCH_AHEAD, last)
            prefetch_at(pointer_at[Scalar[dtype]](row.param()), ahead)
            prefetch_at(pointer_at[Scalar[dtype]](row.grad()), ahead)
            _update_lanes[width](update, strip, start + c, c, root)
        for c in range(whole, count):
            _update_lanes[1](update, strip, start + c, c, root)


@always_inline
def _update_lanes[
    Update: FactoredUpdate, dtype: DType, //, width: Int
](
    update: Update,
    strip: _Strip[dtype],
    index: Int,
    column: Int,
    row_root: Scalar[compute_dtype[dtype]()],
):
    comptime compute = compute_dtype[dtype]()
    var row = strip.division.row
    var around = strip.around
    var grad = _load_grad[dtype, width, is_scaled=True](row, index, around)
    var root = strip.column_roots().unsafe_load[width=width](column)
    var direction = update.direction[compute, width](
        grad, SIMD[compute, width](row_root) * root
    )
    var memory = pointer_at[Scalar[dtype]](row.param())
    var param = load[dtype, width](memory, index)
    param = update.move[compute, width](param, direction)
    store[dtype, width](memory, index, param)
    if around.is_needed:
        if around.average != 0:
            _average_lanes[dtype, width](row, index, around)
        if around.zero_grad:
            store[dtype, width](pointer_at[Scalar[dtype]](row.grad()), index, 0)


def update_factored[
    Rule: FactoredRule, dtype: DType, Runner: Executor
](context: Context, executor: Runner):
    """Takes one optimizer step over every tensor of the table.

    Sums are float64, of fixed parts in a fixed order, so that the number of threads
    does not change the bits.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters, gradients and states in memory.
        Runner: The type of the executor.

    Args:
        context: What to update, valid until the call returns. Each row has two
            dimensions and more, states of its rows and columns, parts and scratch.
        executor: Who runs the blocks.
    """
    prepare[Rule](context)
    var has_strips = False
    for index in range(context.tensors()):
        var row = context.row(index)
        if row.grad() != 0 and row.numel() > 0:
            has_strips |= _Division(row).strips > 1
    _execute[Rule.Update, dtype, _Stage.ROWS](context, executor)
    if has_strips:
        _execute[Rule.Update, dtype, _Stage.COLUMNS](context, executor)
        _execute[Rule.Update, dtype, _Stage.DIRECTIONS](context, executor)
    for index in range(context.tensors()):
        var row = context.row(index)
        if row.grad() != 0 and row.numel() > 0:
            _finish[Rule](context, row)
    _execute[Rule.Update, dtype, _Stage.UPDATE](context, executor)


def _execute[
    Runner: Executor, //, Update: FactoredUpdate, dtype: DType, stage: Int
](context: Context, executor: Runner):
    executor.execute(
        context.word(ContextWord.BLOCKS),
        context.grain(),
        _run_stage[Update, dtype, stage],
        context.words.unsafe_bitcast[NoneType](),
    )


def _finish[Rule: FactoredRule](context: Context, row: TensorRow):
    var division = _Division(row)
    var sums = Sums(fill=0)
    for part in range(division.count):
        var of_part = division.scratch(part).unsafe_offset(division.columns)
        for s in range(SUMS_MAX):
            sums[s] += of_part[unsafe_offset=s]
    context.rule[Rule](row.group())[].finish(
        context.record[Rule.Update](row.record())[], sums, row.numel()
    )
