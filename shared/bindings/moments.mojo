"""The extension's functions for sums and moments of values."""

from shared.training.core.memory import Words, pointer_at
from shared.training.metrics.column import BLOCK, Column, Doubles
from shared.training.metrics.compensated_sum import CompensatedSum
from shared.training.metrics.error_moments import ErrorMoments, measure_errors
from shared.training.metrics.moments import (
    ValueMoments,
    measure_values,
    sum_values,
)
from shared.training.metrics.quantile_sketch import (
    Counts,
    Extremes,
    Window,
    bucket_of,
    count_values,
    measure_extremes,
)
from shared.training.metrics.token_sums import TokenSums, Units, sum_tokens

from .dtypes import Dtype
from .python import (
    Arguments,
    Methods,
    ReleasedGIL,
    has_error,
    new_int,
    raise_error,
)

comptime MANY = 16384
"""Numbers whose count takes longer than to release the GIL."""


def _column(address: Int, dtype: Int, stride: Int = 1) -> Column:
    if dtype == Dtype.FLOAT32:
        return Column.of[DType.float32](address, stride)
    if dtype == Dtype.BFLOAT16:
        return Column.of[DType.bfloat16](address, stride)
    if dtype == Dtype.FLOAT16:
        return Column.of[DType.float16](address, stride)
    return Column.of[DType.float64](address, stride)


def _sum_values(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 6:
        return raise_error("TypeError\0", "sum_values() takes 6 arguments\0")
    var given = Arguments(args)
    var sums = pointer_at[CompensatedSum](given.int(0))
    var values = _column(given.int(1), given.int(2))
    var size = given.int(3)
    var weight = given.number(4)
    var weights = Column.of[DType.float64](given.int(5))
    if has_error():
        return 0
    with ReleasedGIL(when=size > MANY):
        sum_values(sums[], sums[unsafe_offset=1], values, size, weight, weights)
    return new_int(size)


def _sum_tokens(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 8:
        return raise_error("TypeError\0", "sum_tokens() takes 8 arguments\0")
    var given = Arguments(args)
    var total = pointer_at[TokenSums](given.int(0))
    var ranks = pointer_at[Int32](given.int(1))
    var nll = _column(given.int(2), given.int(3))
    var weights = Column.of[DType.float64](given.int(4))
    var units = Units(given.int(5), given.int(6))
    var size = given.int(7)
    if has_error():
        return 0
    with ReleasedGIL(when=size > MANY):
        sum_tokens(total[], ranks, nll, weights, units, size)
    return new_int(size)


def _measure_values(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 5:
        return raise_error(
            "TypeError\0", "measure_values() takes 5 arguments\0"
        )
    var given = Arguments(args)
    var total = pointer_at[ValueMoments](given.int(0))
    var values = _column(given.int(1), given.int(2))
    var weights = Column.of[DType.float64](given.int(3))
    var size = given.int(4)
    if has_error():
        return 0
    with ReleasedGIL(when=size > MANY):
        measure_values(total[], values, weights, size)
    return new_int(size)


def _measure_errors(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 13:
        return raise_error(
            "TypeError\0", "measure_errors() takes 13 arguments\0"
        )
    var given = Arguments(args)
    var totals = pointer_at[ErrorMoments](given.int(0))
    var outputs = given.int(1)
    var samples = given.int(2)
    var parts = given.int(3)
    var preds = _column(given.int(4), given.int(5), given.int(6))
    var preds_step = given.int(7)
    var target = _column(given.int(8), given.int(9), given.int(10))
    var target_step = given.int(11)
    var weights = Column.of[DType.float64](given.int(12))
    if has_error():
        return 0
    with ReleasedGIL(when=samples * outputs > MANY):
        # All outputs of a block at a time, whose memory is in the cache then.
        for first in range(0, samples, BLOCK):
            for output in range(outputs):
                measure_errors(
                    totals[unsafe_offset=output],
                    preds.moved(output * preds_step),
                    target.moved(output * target_step),
                    weights,
                    first,
                    min(BLOCK, samples - first),
                    parts,
                )
    return new_int(samples)


def _count_values(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 12:
        return raise_error("TypeError\0", "count_values() takes 12 arguments\0")
    var given = Arguments(args)
    var values = _column(given.int(0), given.int(1))
    var size = given.int(2)
    var buckets_per_octave = given.number(3)
    var others = pointer_at[Int64](given.int(4))
    var positive = Window(
        pointer_at[Int64](given.int(5)), given.int(6), given.int(7)
    )
    var negative = Window(
        pointer_at[Int64](given.int(8)), given.int(9), given.int(10)
    )
    var needed = pointer_at[Int64](given.int(11))
    if has_error():
        return 0
    var is_counted = False
    with ReleasedGIL(when=size > MANY):
        var above = Extremes()
        var below = Extremes()
        measure_extremes(values, size, above, below)
        var fits = _fits(positive, above, buckets_per_octave, needed)
        var fits_below = _fits(
            negative, below, buckets_per_octave, needed.unsafe_offset(2)
        )
        if fits and fits_below:
            count_values(
                values, size, buckets_per_octave, positive, negative, others
            )
            is_counted = True
    return new_int(1 if is_counted else 0)


def _fits(
    window: Window,
    extremes: Extremes,
    buckets_per_octave: Float64,
    needed: Counts,
) -> Bool:
    needed[unsafe_offset=0] = 0
    needed[unsafe_offset=1] = -1
    if extremes.is_empty():
        return True
    var first = Int(bucket_of[1](extremes.least, buckets_per_octave))
    var last = Int(bucket_of[1](extremes.greatest, buckets_per_octave))
    needed[unsafe_offset=0] = Int64(first)
    needed[unsafe_offset=1] = Int64(last)
    return window.holds(first) and window.holds(last)


def add_moment_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    methods.add(
        "sum_values\0",
        _sum_values,
        (
            "sum_values(sums, values, dtype, count, weight, weights,"
            " /)\n--\n\nAdd weighted values and weights to two compensated"
            " sums. Return the count.\0"
        ),
    )
    methods.add(
        "sum_tokens\0",
        _sum_tokens,
        (
            "sum_tokens(sums, ranks, nll, dtype, weights, units, target, count,"
            " /)\n--\n\nAdd the likelihoods, the units and the correct"
            " predictions of rows to three compensated sums. Return the"
            " count.\0"
        ),
    )
    methods.add(
        "measure_values\0",
        _measure_values,
        (
            "measure_values(total, values, dtype, weights, count, /)\n--\n\nAdd"
            " values to their moments. Return the count.\0"
        ),
    )
    methods.add(
        "measure_errors\0",
        _measure_errors,
        (
            "measure_errors(totals, outputs, samples, parts, preds, dtype,"
            " stride, step, target, dtype, stride, step, weights, /)\n--\n\nAdd"
            " samples to the moments of each output. Return their number.\0"
        ),
    )
    methods.add(
        "count_values\0",
        _count_values,
        (
            "count_values(values, dtype, count, buckets_per_octave, others,"
            " positive, first, length, negative, first, length, needed,"
            " /)\n--\n\nCount values in buckets and return 1. If a bucket has"
            " no counter, count nothing, write the first and the last bucket of"
            " each sign to needed, and return 0.\0"
        ),
    )
