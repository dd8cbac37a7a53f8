"""Counts of scores between thresholds, apart for positives and negatives."""

from std.math import align_up
from std.memory import unsafe_stack_allocation
from std.sys import simd_width_of

from ..core import Words, pointer_at
from .scores import BLOCK, ScoreBatch


def bin_scores[
    dtype: DType, is_uniform: Bool
](batch: ScoreBatch, thresholds: Int, size: Int, counts: Words):
    """Adds each score to the counter of its bin, in one pass.

    Bin `b` holds the scores that `b` of the thresholds do not exceed. The
    counters are of shape (classes, 2, size + 1): negatives, then positives.

    Parameters:
        dtype: The dtype in which scores and thresholds are compared.
        is_uniform: Whether threshold `i` is about `i / (size - 1)`, for no
            more than 65536 thresholds, and scores lie in [0, 1].

    Args:
        batch: Labels that name classes, and scores that are not NaN unless their
            label is ignored.
        thresholds: The address of the thresholds, in order, and infinity.
        size: How many thresholds there are without the infinity.
        counts: The counters.
    """
    var scores = unsafe_stack_allocation[BLOCK, Scalar[dtype], alignment=64]()
    var bins = unsafe_stack_allocation[BLOCK, Int32, alignment=64]()
    var labels = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var classes = batch.classes
    var width = min(classes, BLOCK)
    var height = BLOCK // width
    for row in range(0, batch.rows, height):
        var rows = min(height, batch.rows - row)
        # Rows that are longer than a block come one at a time, in pieces.
        for column in range(0, classes, width):
            var columns = min(width, classes - column)
            var start = row * classes + column
            var count = rows * columns
            batch.scores.read(start, count, scores.unsafe_bitcast[NoneType]())
            _find_bins[dtype, is_uniform](scores, count, thresholds, size, bins)
            var first = counts.unsafe_offset(column * 2 * (size + 1))
            if batch.has_classes:
                batch.labels.read(row, rows, labels.unsafe_bitcast[NoneType]())
                _add_rows(
                    bins,
                    labels,
                    rows,
                    column,
                    columns,
                    batch.ignore,
                    size,
                    first,
                )
            else:
                batch.labels.read(
                    start, count, labels.unsafe_bitcast[NoneType]()
                )
                _add_scores(
                    bins, labels, count, columns, batch.ignore, size, first
                )


@always_inline
def _find_bins[
    dtype: DType, is_uniform: Bool
](
    scores: MutPointer[Scalar[dtype], _],
    count: Int,
    thresholds: Int,
    size: Int,
    bins: MutPointer[Int32, _],
):
    comptime W = simd_width_of[dtype]()
    comptime Bins = SIMD[DType.int32, W]
    var edges = pointer_at[Scalar[dtype]](thresholds)
    # Bins are found in whole vectors.
    for i in range(count, align_up(count, W)):
        scores[unsafe_offset=i] = 0
    for i in range(0, count, W):
        var score = scores.unsafe_load[width=W](i)
        var bin: Bins
        comptime if is_uniform:
            # Of samples that are ignored, scores may be anything.
            score = (score.ge(0) & score.le(1)).select(score, 0)
            bin = (score * Scalar[dtype](size - 1)).cast[DType.int32]()
            # The product is rounded, and so are the thresholds.
            bin += edges.unsafe_gather(bin + 1).le(score).cast[DType.int32]()
            bin -= edges.unsafe_gather(bin).gt(score).cast[DType.int32]()
            bin += 1
        else:
            bin = Bins(0)
            var left = size
            while left > 0:
                var step = (left + 1) // 2
                var is_above = edges.unsafe_gather(bin + Int32(step - 1)).le(
                    score
                )
                bin += is_above.select(Bins(Int32(step)), Bins(0))
                left -= step
        bins.unsafe_store(i, bin)


@always_inline
def _add_rows(
    bins: MutPointer[Int32, _],
    labels: MutPointer[Int64, _],
    rows: Int,
    column: Int,
    columns: Int,
    ignore: Int,
    size: Int,
    counts: Words,
):
    var stride = size + 1
    for row in range(rows):
        var label = Int(labels[unsafe_offset=row])
        if label == ignore:
            continue
        var own = bins.unsafe_offset(row * columns)
        var counters = counts
        for c in range(columns):
            counters[unsafe_offset=Int(own[unsafe_offset=c])] += 1
            counters = counters.unsafe_offset(2 * stride)
        # The class of the row was counted as the others were.
        var c = label - column
        if 0 <= c < columns:
            var bin = 2 * c * stride + Int(own[unsafe_offset=c])
            counts[unsafe_offset=bin] -= 1
            counts[unsafe_offset=bin + stride] += 1


@always_inline
def _add_scores(
    bins: MutPointer[Int32, _],
    labels: MutPointer[Int64, _],
    count: Int,
    columns: Int,
    ignore: Int,
    size: Int,
    counts: Words,
):
    var stride = size + 1
    var column = 0
    for i in range(count):
        var label = Int(labels[unsafe_offset=i])
        if label != ignore:
            var bin = (2 * column + label) * stride + Int(bins[unsafe_offset=i])
            counts[unsafe_offset=bin] += 1
        column = column + 1 if column + 1 < columns else 0
