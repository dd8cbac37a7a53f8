"""One pass over rows of scores: the best class, the target's rank, its likelihood."""

from std.bit import count_trailing_zeros, pop_count
from std.math import iota
from std.memory import pack_bits
from std.sys import simd_width_of, size_of
from std.utils.numerics import inf, isnan

from .executor import Executor
from .exponential import exp, log
from .lanes import compute_dtype, load, load_part, prefetch_at
from .memory import Address, Elements

comptime ROW_BLOCKS = 64
"""The most parts that rows are dealt out in, whatever the number of threads."""

comptime GRAIN = 32768
"""The fewest elements worth a thread of their own."""

comptime FETCHED_AHEAD = 4096
"""Bytes from what is read to what memory is asked for."""

comptime SHORT_CHAIN = 8
"""Vectors that are added up in float32 before their sum goes on in float64."""

comptime NONE = -1
"""No class: of an ignored row, or of one with NaN."""


def lanes_of[dtype: DType]() -> Int:
    """Counts the lanes that rows of a dtype are computed in.

    Parameters:
        dtype: The dtype in memory.

    Returns:
        The width of this CPU's vectors of the compute dtype.
    """
    return simd_width_of[compute_dtype[dtype]()]()


@always_inline
def reduce_max[
    dtype: DType, width: SIMDLength, //
](lanes: SIMD[dtype, width]) -> Scalar[dtype]:
    """Finds the largest lane.

    Parameters:
        dtype: A float dtype.
        width: How many lanes.

    Args:
        lanes: The lanes.

    Returns:
        The largest; any of them if one is NaN, which spares a comparison a step.
    """
    comptime if width == 1:
        return lanes[0]
    else:
        comptime half = width // 2
        var low = lanes.slice[half]()
        var high = lanes.slice[half, offset=half]()
        return reduce_max(low.gt(high).select(low, high))


@always_inline
def _fetch_ahead[dtype: DType](row: Elements[dtype], index: Int):
    # The CPU's own prefetchers stop at the end of a page of 4 KiB: with this, a pass over
    # rows from memory takes half the time.
    prefetch_at[dtype](row, index + FETCHED_AHEAD // size_of[dtype]())


@always_inline
def highest_score[
    dtype: DType
](row: Elements[dtype], classes: Int) -> Scalar[compute_dtype[dtype]()]:
    """Finds the highest score of a row.

    Parameters:
        dtype: The dtype of the scores.

    Args:
        row: The scores, side by side.
        classes: How many there are.

    Returns:
        The highest; any of them if one is NaN.
    """
    comptime compute = compute_dtype[dtype]()
    comptime width = lanes_of[dtype]()
    comptime Lanes = SIMD[compute, width]
    comptime chains = 4
    var highest = Array[Lanes, chains](fill=Lanes(-inf[compute]()))
    var whole = classes // (chains * width) * (chains * width)
    for i in range(0, whole, chains * width):
        comptime for c in range(chains):
            _fetch_ahead(row, i + c * width)
            var scores = load[dtype, width](row, i + c * width)
            highest[c] = scores.gt(highest[c]).select(scores, highest[c])
    for i in range(whole, classes, width):
        var scores: Lanes
        if i + width <= classes:
            scores = load[dtype, width](row, i)
        else:
            scores = load_part[dtype, width](
                row, i, classes - i, -inf[compute]()
            )
        highest[0] = scores.gt(highest[0]).select(scores, highest[0])
    comptime for c in range(1, chains):
        highest[0] = highest[c].gt(highest[0]).select(highest[c], highest[0])
    return reduce_max(highest[0])


@fieldwise_init
struct RowScan[compute: DType](ImplicitlyCopyable, Movable):
    """What one pass over a row finds.

    Parameters:
        compute: The dtype of the arithmetic.
    """

    var highest: Scalar[Self.compute]
    """The highest score that is a number; -infinity without one."""
    var predicted: Int
    """The first class with that score."""
    var rank: Int
    """How many classes come before the target's: those with a higher score, and
    those with the same one and a lower index."""
    var has_nan: Bool
    """Whether a score is not a number."""


@fieldwise_init
struct _Lanes[compute: DType, width: Int](ImplicitlyCopyable, Movable):
    """What each lane of a row has found so far."""

    var highest: SIMD[Self.compute, Self.width]
    var vector: SIMD[DType.int32, Self.width]
    var before: SIMD[DType.int32, Self.width]
    var is_nan: SIMD[DType.bool, Self.width]

    @always_inline
    def add(
        mut self,
        scores: SIMD[Self.compute, Self.width],
        index: Int,
        is_before: SIMD[DType.bool, Self.width],
    ):
        comptime Integers = SIMD[DType.int32, Self.width]
        var is_higher = scores.gt(self.highest)
        self.highest = is_higher.select(scores, self.highest)
        self.vector = is_higher.select(Integers(index), self.vector)
        self.before = is_before.select(self.before + 1, self.before)
        self.is_nan = self.is_nan | isnan(scores)

    @always_inline
    def join(self) -> RowScan[Self.compute]:
        comptime Integers = SIMD[DType.int32, Self.width]
        var highest = reduce_max(self.highest)
        var places = self.highest.eq(
            SIMD[Self.compute, Self.width](highest)
        ).select(
            self.vector + iota[DType.int32, Self.width](),
            Integers(Int32.MAX),
        )
        return RowScan(
            highest,
            Int(places.reduce_min()),
            Int(self.before.reduce_add()),
            self.is_nan.reduce_or(),
        )


@always_inline
def scan_row[
    dtype: DType
](row: Elements[dtype], classes: Int, target: Int) -> RowScan[
    compute_dtype[dtype]()
]:
    """Finds the best class of a row and the rank of a class.

    Parameters:
        dtype: The dtype of the scores.

    Args:
        row: The scores, side by side.
        classes: How many there are, at least 1 and below 2^31.
        target: The class that is ranked, in [0, classes).

    Returns:
        What was found.
    """
    comptime compute = compute_dtype[dtype]()
    comptime width = lanes_of[dtype]()
    comptime Lanes = SIMD[compute, width]
    comptime lowest = -inf[compute]()
    var score = Lanes(load[dtype, 1](row, target)[0])
    var lane = iota[DType.int32, width]()
    if classes <= width:
        var scores = load_part[dtype, width](row, 0, classes, lowest)
        var is_equal = scores.eq(score) & lane.lt(Int32(target))
        var highest = reduce_max(scores)
        return RowScan(
            highest,
            Int(count_trailing_zeros(pack_bits(scores.eq(Lanes(highest))))),
            Int(pop_count(pack_bits(scores.gt(score) | is_equal))),
            pack_bits(isnan(scores)) != 0,
        )
    var found = _Lanes[compute, width](
        Lanes(lowest),
        SIMD[DType.int32, width](0),
        SIMD[DType.int32, width](0),
        SIMD[DType.bool, width](fill=False),
    )
    var whole = classes // width * width
    # Equal scores come before the target's up to its own vector.
    var own = target // width * width
    for i in range(0, min(own, whole), width):
        _fetch_ahead(row, i)
        var scores = load[dtype, width](row, i)
        found.add(scores, i, scores.ge(score))
    # The target's own vector and the last one, which may be shorter.
    var next = own
    if own < whole:
        var scores = load[dtype, width](row, own)
        var is_equal = scores.eq(score) & lane.lt(Int32(target - own))
        found.add(scores, own, scores.gt(score) | is_equal)
        next = own + width
    for i in range(next, whole, width):
        _fetch_ahead(row, i)
        var scores = load[dtype, width](row, i)
        found.add(scores, i, scores.gt(score))
    if whole < classes:
        var scores = load_part[dtype, width](
            row, whole, classes - whole, lowest
        )
        var is_equal = scores.eq(score) & lane.lt(Int32(target - whole))
        found.add(scores, whole, scores.gt(score) | is_equal)
    return found.join()


def sum_exponentials[
    dtype: DType
](
    row: Elements[dtype],
    classes: Int,
    highest: Scalar[compute_dtype[dtype]()],
) -> Float64:
    """Sums `e^(x - highest)` over the scores of a row.

    Parameters:
        dtype: The dtype of the scores.

    Args:
        row: The scores, side by side.
        classes: How many there are.
        highest: The highest of them.

    Returns:
        The sum, at least 1; NaN if a score is NaN or the highest is infinite.
    """
    comptime compute = compute_dtype[dtype]()
    comptime width = lanes_of[dtype]()
    comptime Lanes = SIMD[compute, width]
    comptime chain = SHORT_CHAIN * width
    var total = SIMD[DType.float64, width](0)
    var shift = Lanes(highest)
    var i = 0
    while i + chain <= classes:
        var even = Lanes(0)
        var odd = Lanes(0)
        comptime for v in range(0, SHORT_CHAIN, 2):
            even += exp(load[dtype, width](row, i + v * width) - shift)
            odd += exp(load[dtype, width](row, i + (v + 1) * width) - shift)
        total += (even + odd).cast[DType.float64]()
        i += chain
    while i + width <= classes:
        total += exp(load[dtype, width](row, i) - shift).cast[DType.float64]()
        i += width
    if i < classes:
        var scores = load_part[dtype, width](
            row, i, classes - i, -inf[compute]()
        )
        # Not e^-infinity, which is NaN where the highest is -infinity, too.
        var is_loaded = iota[DType.int32, width]().lt(Int32(classes - i))
        var powers = is_loaded.select(exp(scores - shift), Lanes(0))
        total += powers.cast[DType.float64]()
    return total.reduce_add()


@fieldwise_init
struct RowsJob(Copyable, Movable):
    """A batch of rows to scan, by addresses and sizes, and where results go."""

    var logits: Int
    """The first row."""
    var rows: Int
    """How many."""
    var classes: Int
    """Elements of a row."""
    var stride: Int
    """Elements from one row to the next."""
    var target: Int
    """The int64 class of each row."""
    var ignore_index: Int
    """The target of rows that are skipped."""
    var is_nan_reported: Bool
    """Whether rows with NaN count as problems."""
    var predicted: Int
    """Where the int64 first class with the highest score of each row goes."""
    var rank: Int
    """Where the int32 rank of each target goes."""
    var nll: Int
    """Where the negative log-likelihood of each target goes, in the compute dtype."""
    var problems: Array[Int, ROW_BLOCKS]
    """For each part the first of its rows that cannot be used, or `rows`."""

    def block_rows(self) -> Int:
        """Counts the rows of a part.

        Returns:
            The number; the last part may have fewer.
        """
        return (self.rows + ROW_BLOCKS - 1) // ROW_BLOCKS


def scan_rows[
    dtype: DType, has_nll: Bool, Runner: Executor
](mut job: RowsJob, executor: Runner) -> Int:
    """Scans all rows.

    A row with a target outside [0, classes) gets no results. One with NaN gets
    the class -1 and the rank `classes`. An ignored row gets -1 twice and a
    likelihood of 1, and is not looked at.

    Parameters:
        dtype: The dtype of the logits.
        has_nll: Whether negative log-likelihoods are computed.
        Runner: The type of the executor.

    Args:
        job: The rows.
        executor: Who runs the parts.

    Returns:
        The first row with a bad target or a reported NaN, or `job.rows`.
    """
    var block = job.block_rows()
    if block == 0:
        return 0
    var blocks = (job.rows + block - 1) // block
    executor.execute(
        blocks,
        max(1, GRAIN // max(1, block * job.classes)),
        _scan_blocks[dtype, has_nll],
        Pointer(to=job)
        .unsafe_bitcast[NoneType]()
        .unsafe_origin_cast[MutUntrackedOrigin](),
    )
    var first = job.rows
    for i in range(blocks):
        first = min(first, job.problems.unsafe_get(i))
    return first


def _scan_blocks[
    dtype: DType, has_nll: Bool
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    var job = address.unsafe_bitcast[RowsJob]()
    for i in range(Int(begin), Int(end)):
        job[].problems.unsafe_get(i) = _scan_block[dtype, has_nll](job[], i)


def _scan_block[dtype: DType, has_nll: Bool](job: RowsJob, block: Int) -> Int:
    comptime compute = compute_dtype[dtype]()
    var logits = Elements[dtype](unsafe_from_address=job.logits)
    var targets = Elements[DType.int64](unsafe_from_address=job.target)
    var predicted = Elements[DType.int64](unsafe_from_address=job.predicted)
    var ranks = Elements[DType.int32](unsafe_from_address=job.rank)
    var nll = Elements[compute](unsafe_from_address=job.nll)
    var classes = job.classes
    var problem = job.rows
    var first = block * job.block_rows()
    for i in range(first, min(first + job.block_rows(), job.rows)):
        var target = Int(targets[unsafe_offset=i])
        if target == job.ignore_index:
            predicted[unsafe_offset=i] = NONE
            ranks[unsafe_offset=i] = NONE
            comptime if has_nll:
                nll[unsafe_offset=i] = 0
            continue
        if target < 0 or target >= classes:
            problem = min(problem, i)
            continue
        var row = logits.unsafe_offset(i * job.stride)
        var scan = scan_row[dtype](row, classes, target)
        if scan.has_nan:
            if job.is_nan_reported:
                problem = min(problem, i)
            scan.predicted = NONE
            scan.rank = classes
        predicted[unsafe_offset=i] = Int64(scan.predicted)
        ranks[unsafe_offset=i] = Int32(scan.rank)
        comptime if has_nll:
            var sum = sum_exponentials[dtype](row, classes, scan.highest)
            var score = load[dtype, 1](row, target)[0]
            var below = (scan.highest - score).cast[DType.float64]()
            nll[unsafe_offset=i] = (log(sum) + below).cast[compute]()
    return problem
