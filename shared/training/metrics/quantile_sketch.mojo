"""Counts of values in buckets of relative width: DDSketch.

Masson, Rim and Lee, 2019, "DDSketch: A fast and fully-mergeable quantile sketch
with relative-error guarantees" (arXiv:1908.10693). Bucket k holds the magnitudes
with `k - 1 < m(x) <= k`. Where the paper has the logarithm to base gamma for m,
here a cubic polynomial of the mantissa stands for the logarithm in each octave,
as in its authors' library sketches-java: it needs no more than multiplications
and additions, so that every implementation finds the same bucket, and takes 1 %
more buckets.
"""

from std.math import ceil, floor, ldexp
from std.memory import bitcast, unsafe_stack_allocation

from .column import BLOCK, LANES, Column, Doubles, Lanes, pad

comptime LEAST = Float64(2.2250738585072014e-308)
"""The least magnitude that is not counted as 0: the least normal number."""

comptime GREATEST = Float64(1.7976931348623157e308)
"""The greatest finite magnitude."""

comptime Counts = MutPointer[Int64, MutUntrackedOrigin]
"""Counters in memory."""


struct Other:
    """The counters of what is in no bucket."""

    comptime ZERO = 0
    """Magnitudes below `LEAST`."""
    comptime NEGATIVE_INFINITY = 1
    """Negative infinities."""
    comptime INFINITY = 2
    """Positive infinities."""
    comptime NAN = 3
    """What is not a number."""


@always_inline
def bucket_of[
    width: Int
](magnitude: SIMD[DType.float64, width], buckets_per_octave: Float64) -> SIMD[
    DType.int32, width
]:
    """Finds the buckets of magnitudes.

    Parameters:
        width: How many lanes.

    Args:
        magnitude: Normal positive numbers.
        buckets_per_octave: How many buckets there are from x to 2 x.

    Returns:
        The number of the bucket of each, of either sign.
    """
    comptime Numbers = SIMD[DType.float64, width]
    var bits = bitcast[DType.int64](magnitude)
    var octave = (bits >> 52).cast[DType.int32]() - 1023
    var mantissa = (bits & 0xF_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000
    var s = bitcast[DType.float64](mantissa) - 1
    var fraction = (
        (s * Numbers(6.0 / 35.0) + Numbers(-3.0 / 5.0)) * s
        + Numbers(10.0 / 7.0)
    ) * s
    var position = (octave.cast[DType.float64]() + fraction) * Numbers(
        buckets_per_octave
    )
    return ceil(position).cast[DType.int32]()


def middle_of(bucket: Int, buckets_per_octave: Float64) -> Float64:
    """Finds the number that is equally far from both ends of a bucket.

    Args:
        bucket: The number of the bucket.
        buckets_per_octave: As in `bucket_of`.

    Returns:
        The number with the least relative distance from both ends.
    """
    var low_octave = 0
    var high_octave = 0
    var low = _end_of(bucket - 1, buckets_per_octave, low_octave)
    var high = _end_of(bucket, buckets_per_octave, high_octave)
    var ratio = high / low * ldexp(Float64(1), Int32(high_octave - low_octave))
    var middle = low * (2 * ratio / (1 + ratio))
    if low_octave > 1000:
        # The end of the last bucket is above all numbers.
        var half = ldexp(middle / 4, Int32(low_octave + 1))
        return GREATEST if half > GREATEST / 2 else half * 2
    return max(ldexp(middle, Int32(low_octave)), LEAST)


def _end_of(
    bucket: Int, buckets_per_octave: Float64, mut octave: Int
) -> Float64:
    # The upper end, as a number from 1 to 2 and its octave, by Newton's method:
    # the polynomial is increasing, and near to s.
    var position = Float64(bucket) / buckets_per_octave
    var whole = floor(position)
    octave = Int(whole)
    var fraction = position - whole
    var s = fraction
    for _ in range(8):
        var value = (
            (s * (6.0 / 35.0) + -3.0 / 5.0) * s + 10.0 / 7.0
        ) * s - fraction
        s -= value / ((s * (18.0 / 35.0) + -6.0 / 5.0) * s + 10.0 / 7.0)
    return 1 + s


@fieldwise_init
struct Window(ImplicitlyCopyable, Movable):
    """The counters of a range of buckets."""

    var counts: Counts
    """Those counters."""
    var first: Int
    """The number of the first bucket."""
    var length: Int
    """How many buckets there are; 0 before there are any."""

    @always_inline
    def holds(self, bucket: Int) -> Bool:
        """Tells whether there is a counter for a bucket.

        Args:
            bucket: The number of the bucket.

        Returns:
            Whether it is in the range.
        """
        return 0 <= bucket - self.first < self.length


struct Extremes(ImplicitlyCopyable, Movable):
    """The range of magnitudes of one sign."""

    var least: Float64
    """The least one."""
    var greatest: Float64
    """The greatest one; below `least` if there is none."""

    def __init__(out self):
        """Starts with none."""
        self.least = GREATEST
        self.greatest = 0

    def is_empty(self) -> Bool:
        """Tells whether there is none.

        Returns:
            Whether there is none.
        """
        return self.greatest < self.least


def measure_extremes(
    values: Column, count: Int, mut positive: Extremes, mut negative: Extremes
):
    """Finds the ranges of the magnitudes that are to be counted in buckets.

    Args:
        values: The values.
        count: How many there are.
        positive: Widened to the positive ones.
        negative: Widened to the negative ones.
    """
    var x = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var low = Lanes(positive.least)
    var high = Lanes(positive.greatest)
    var low_negative = Lanes(negative.least)
    var high_negative = Lanes(negative.greatest)
    for first in range(0, count, BLOCK):
        var read = min(BLOCK, count - first)
        values.read(first, read, x)
        pad(x, read, 0)
        for i in range(0, read, LANES):
            var value = x.unsafe_load[width=LANES](i)
            var is_positive = value.ge(LEAST) & value.le(GREATEST)
            var is_negative = value.le(-LEAST) & value.ge(-GREATEST)
            low = (is_positive & value.lt(low)).select(value, low)
            high = (is_positive & value.gt(high)).select(value, high)
            low_negative = (is_negative & (-value).lt(low_negative)).select(
                -value, low_negative
            )
            high_negative = (is_negative & (-value).gt(high_negative)).select(
                -value, high_negative
            )
    positive.least = low.reduce_min()
    positive.greatest = high.reduce_max()
    negative.least = low_negative.reduce_min()
    negative.greatest = high_negative.reduce_max()


def count_values(
    values: Column,
    count: Int,
    buckets_per_octave: Float64,
    positive: Window,
    negative: Window,
    others: Counts,
):
    """Counts values in their buckets.

    Args:
        values: The values.
        count: How many there are.
        buckets_per_octave: As in `bucket_of`.
        positive: Counters for all positive values.
        negative: Counters for all negative values, by their magnitude.
        others: The counters of `Other`.
    """
    # Every counter has an offset from the first of them, so that a value takes
    # no branch to be counted.
    comptime Offsets = SIMD[DType.int64, LANES]
    var base = positive.counts
    var above = Offsets(-positive.first)
    var below = Offsets(_offset(base, negative.counts) - negative.first)
    var beside = Offsets(_offset(base, others))
    var x = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var offsets = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    for first in range(0, count, BLOCK):
        var read = min(BLOCK, count - first)
        values.read(first, read, x)
        pad(x, read, 0)
        for i in range(0, read, LANES):
            var value = x.unsafe_load[width=LANES](i)
            var size = abs(value)
            var is_in_bucket = size.ge(LEAST) & size.le(GREATEST)
            var bucket = bucket_of[LANES](
                is_in_bucket.select(size, Lanes(1)), buckets_per_octave
            ).cast[DType.int64]()
            var kind = size.lt(LEAST).select(
                Offsets(Other.ZERO), Offsets(Other.NAN)
            )
            kind = value.gt(GREATEST).select(Offsets(Other.INFINITY), kind)
            kind = value.lt(-GREATEST).select(
                Offsets(Other.NEGATIVE_INFINITY), kind
            )
            var signed = bucket + value.gt(0).select(above, below)
            offsets.unsafe_store[width=LANES](
                i, is_in_bucket.select(signed, kind + beside)
            )
        for i in range(read):
            base[unsafe_offset=Int(offsets[unsafe_offset=i])] += 1


def _offset(base: Counts, counts: Counts) -> Int:
    return (Int(counts) - Int(base)) // 8
