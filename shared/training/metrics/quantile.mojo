"""A quantile of values, from counts in buckets."""

from std.math import floor, log1p
from std.utils.numerics import inf, nan

from .column import Column
from .quantile_sketch import (
    Counts,
    Extremes,
    Other,
    Window,
    bucket_of,
    count_values,
    measure_extremes,
    middle_of,
)


struct Quantile(Copyable, Movable):
    """The value at place `floor(q (n - 1))` of n values in ascending order.

    Its relative error is at most `relative_accuracy`. Every split and every
    order of merges gives the same value, to the bit; `quantile_sketch` tells of
    the buckets.
    """

    var q: Float64
    """Which part of the values are smaller, in [0, 1]."""
    var relative_accuracy: Float64
    """The largest relative error."""
    var _buckets_per_octave: Float64
    var _positive: List[Int64]
    var _positive_first: Int
    var _negative: List[Int64]
    var _negative_first: Int
    var _others: List[Int64]

    def __init__(
        out self, q: Float64 = 0.5, *, relative_accuracy: Float64 = 0.01
    ) raises:
        """Starts with nothing counted.

        Args:
            q: Which part of the values are smaller, in [0, 1].
            relative_accuracy: The largest relative error, in [0.0001, 1).

        Raises:
            Error: If an argument is out of range.
        """
        if not (q >= 0 and q <= 1):
            raise Error("q must be in [0, 1], got ", q)
        if not (relative_accuracy >= 1e-4 and relative_accuracy < 1):
            raise Error(
                "relative_accuracy must be at least 0.0001 and below 1, got ",
                relative_accuracy,
            )
        self.q = q
        self.relative_accuracy = relative_accuracy
        # Where the polynomial rises least, by 1 / 0.7 for each ln(x), a bucket
        # is as wide as gamma allows.
        self._buckets_per_octave = 0.7 / (
            log1p(relative_accuracy) - log1p(-relative_accuracy)
        )
        self._positive = []
        self._positive_first = 0
        self._negative = []
        self._negative_first = 0
        self._others = [0, 0, 0, 0]

    def update[
        dtype: DType
    ](mut self, values: Span[mut=False, Scalar[dtype], _]):
        """Counts values.

        Parameters:
            dtype: A float dtype.

        Args:
            values: The values.
        """
        var column = Column.of(values)
        var above = Extremes()
        var below = Extremes()
        measure_extremes(column, len(values), above, below)
        var density = self._buckets_per_octave
        if not above.is_empty():
            _widen(
                self._positive,
                self._positive_first,
                Int(bucket_of[1](above.least, density)),
                Int(bucket_of[1](above.greatest, density)),
            )
        if not below.is_empty():
            _widen(
                self._negative,
                self._negative_first,
                Int(bucket_of[1](below.least, density)),
                Int(bucket_of[1](below.greatest, density)),
            )
        count_values(
            column,
            len(values),
            density,
            Window(
                _counts(self._positive),
                self._positive_first,
                len(self._positive),
            ),
            Window(
                _counts(self._negative),
                self._negative_first,
                len(self._negative),
            ),
            _counts(self._others),
        )

    def compute(self) raises -> Float64:
        """Computes the quantile.

        Returns:
            The value; NaN if one of the values is.

        Raises:
            Error: If nothing was counted.
        """
        var below = self._others[Other.NEGATIVE_INFINITY]
        var negative = _sum(self._negative)
        var zeros = self._others[Other.ZERO]
        var positive = _sum(self._positive)
        var count = (
            below + negative + zeros + positive + self._others[Other.INFINITY]
        )
        if count + self._others[Other.NAN] == 0:
            raise Error("nothing was counted; call update first")
        if self._others[Other.NAN] > 0:
            return nan[DType.float64]()
        var place = Int64(floor(self.q * Float64(count - 1)))
        if place < below:
            return -inf[DType.float64]()
        place -= below
        if place < negative:
            # The largest magnitude comes first.
            var index = _index_of(negative - 1 - place, self._negative)
            return -middle_of(
                self._negative_first + index, self._buckets_per_octave
            )
        place -= negative
        if place < zeros:
            return 0
        place -= zeros
        if place >= positive:
            return inf[DType.float64]()
        var index = _index_of(place, self._positive)
        return middle_of(self._positive_first + index, self._buckets_per_octave)

    def reset(mut self):
        """Forgets everything counted."""
        self._positive = []
        self._negative = []
        self._others = [0, 0, 0, 0]

    def merge(mut self, other: Self) raises:
        """Counts what another has counted, which is left as it is.

        Args:
            other: One with the same relative accuracy.

        Raises:
            Error: If it has another. Nothing is counted then.
        """
        if other.relative_accuracy != self.relative_accuracy:
            raise Error(
                "only a sketch with relative_accuracy=",
                self.relative_accuracy,
                " can be merged, got ",
                other.relative_accuracy,
            )
        _add(
            self._positive,
            self._positive_first,
            other._positive,
            other._positive_first,
        )
        _add(
            self._negative,
            self._negative_first,
            other._negative,
            other._negative_first,
        )
        for i in range(len(self._others)):
            self._others[i] += other._others[i]


def _counts(mut counts: List[Int64]) -> Counts:
    return counts.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()


def _widen(mut counts: List[Int64], mut first: Int, low: Int, high: Int):
    var start = low
    var end = high
    if len(counts) > 0:
        start = min(low, first)
        end = max(high, first + len(counts) - 1)
    if start == first and end - start + 1 == len(counts):
        return
    var wider = List[Int64](length=end - start + 1, fill=0)
    for i in range(len(counts)):
        wider[first - start + i] = counts[i]
    counts = wider^
    first = start


def _add(
    mut counts: List[Int64],
    mut first: Int,
    others: List[Int64],
    others_first: Int,
):
    if len(others) == 0:
        return
    _widen(counts, first, others_first, others_first + len(others) - 1)
    for i in range(len(others)):
        counts[others_first - first + i] += others[i]


def _sum(counts: List[Int64]) -> Int64:
    var total = Int64(0)
    for count in counts:
        total += count
    return total


def _index_of(place: Int64, counts: List[Int64]) -> Int:
    var seen = Int64(0)
    for i in range(len(counts)):
        seen += counts[i]
        if place < seen:
            return i
    return len(counts) - 1
