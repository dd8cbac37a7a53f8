"""Means and sums of squared deviations that merge, and a pass over values.

Two parts with weights a and b, means m and n and sums of squared deviations S
and T make one with mean `m + d b / (a + b)` and `S + T + d^2 a b / (a + b)`,
where `d = n - m` (Chan, Golub and LeVeque, 1979, "Updating formulae and a
pairwise algorithm for computing sample variances"; Welford, 1962, for b = 1).
"""

from std.memory import unsafe_stack_allocation
from std.utils.numerics import inf, isfinite

from .column import BLOCK, LANES, Column, Doubles, Lanes, pad
from .compensated_sum import CompensatedSum, LaneSums


@fieldwise_init
struct Moments(ImplicitlyCopyable, Movable):
    """The mean of numbers and the sum of their squared deviations from it.

    The mean is held in two numbers: its rounding would else be an error of
    first order in the sum when parts are merged.
    """

    var mean: Float64
    """The mean."""
    var mean_low: Float64
    """What the rounding of `mean` lost."""
    var squares: Float64
    """The sum of weighted squared deviations."""

    def __init__(out self):
        """Starts with no numbers."""
        self.mean = 0
        self.mean_low = 0
        self.squares = 0

    @always_inline
    def __init__(
        out self, near: Float64, weight: Float64, sum: Float64, squares: Float64
    ):
        """Moves sums of deviations from a number near the mean to the mean.

        Args:
            near: The number.
            weight: The sum of all weights, above 0.
            sum: The sum of weighted deviations from `near`.
            squares: The sum of their weighted squares.
        """
        var mean = CompensatedSum(near, 0)
        mean.add(sum / weight)
        self.mean = mean.high
        self.mean_low = mean.low
        self.squares = squares - sum * sum / weight
        if self.squares < 0:
            self.squares = 0

    @always_inline
    def distance(self, other: Self) -> Float64:
        """Measures how far another mean is from this one.

        Args:
            other: The other.

        Returns:
            `other.mean - self.mean`, before either was rounded.
        """
        return (other.mean - self.mean) + (other.mean_low - self.mean_low)

    @always_inline
    def merge(mut self, other: Self, weight: Float64, other_weight: Float64):
        """Takes further numbers in.

        Args:
            other: Theirs.
            weight: The weight of the numbers so far.
            other_weight: The weight of the further ones, above 0.
        """
        if weight == 0:
            self = other
            return
        var share = other_weight / (weight + other_weight)
        var distance = self.distance(other)
        var mean = CompensatedSum(self.mean, self.mean_low)
        mean.add(distance * share)
        self.mean = mean.high
        self.mean_low = mean.low
        self.squares += other.squares + distance * distance * weight * share


def mean_of(x: Doubles, w: Doubles, count: Int, weight: Float64) -> Float64:
    """Computes the mean of a block.

    Args:
        x: Numbers, in whole lanes.
        w: Their weights, 0 in lanes behind the last number.
        count: How many numbers there are, at least 1.
        weight: The sum of their weights.

    Returns:
        The mean, and of equal numbers exactly that number.
    """
    var start = x[]
    var sum = Lanes(0)
    for i in range(0, count, LANES):
        var value = x.unsafe_load[width=LANES](i)
        sum = w.unsafe_load[width=LANES](i).fma(value - start, sum)
    return start + sum.reduce_add() / weight


def moments_of(
    x: Doubles, w: Doubles, count: Int, weight: Float64, near: Float64
) -> Moments:
    """Computes the moments of a block.

    Args:
        x: Numbers, in whole lanes.
        w: Their weights, 0 in lanes behind the last number.
        count: How many numbers there are, at least 1.
        weight: The sum of their weights.
        near: A number near their mean: deviations from it cancel least.

    Returns:
        The moments.
    """
    var sum = Lanes(0)
    var squares = Lanes(0)
    for i in range(0, count, LANES):
        var deviation = x.unsafe_load[width=LANES](i) - near
        var weighted = w.unsafe_load[width=LANES](i) * deviation
        sum += weighted
        squares = weighted.fma(deviation, squares)
    return Moments(near, weight, sum.reduce_add(), squares.reduce_add())


@fieldwise_init
struct ValueMoments(ImplicitlyCopyable, Movable):
    """What is known of values; Python holds it as a row of float64."""

    var count: Float64
    """How many finite values of positive weight there were."""
    var nonfinite: Float64
    """How many infinite and NaN ones, which count for nothing else."""
    var weight: Float64
    """The sum of the weights."""
    var moments: Moments
    """Their mean and squared deviations."""
    var least: Float64
    """The least one; infinite if there is none."""
    var greatest: Float64
    """The greatest one; negatively infinite if there is none."""

    def __init__(out self):
        """Starts with no values."""
        self.count = 0
        self.nonfinite = 0
        self.weight = 0
        self.moments = Moments()
        self.least = inf[DType.float64]()
        self.greatest = -inf[DType.float64]()

    def variance(self) -> Float64:
        """Computes the variance of the values.

        Returns:
            The mean of their squared deviations, NaN without any.
        """
        return self.moments.squares / self.weight

    def merge(mut self, other: Self):
        """Takes further values in.

        Args:
            other: What is known of them.
        """
        self.nonfinite += other.nonfinite
        if other.weight == 0:
            return
        self.moments.merge(other.moments, self.weight, other.weight)
        self.weight += other.weight
        self.count += other.count
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)


def measure_values(
    mut total: ValueMoments, values: Column, weights: Column, count: Int
):
    """Counts values, in one pass.

    Args:
        total: What is known so far.
        values: The values.
        weights: Their weights, finite and at least 0; or none, for weights of 1.
        count: How many values there are.
    """
    var x = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var w = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    for first in range(0, count, BLOCK):
        var read = min(BLOCK, count - first)
        values.read(first, read, x)
        weights.read(first, read, w, 1)
        var kept = _keep_finite(x, w, read, total.nonfinite)
        if kept != 0:
            total.merge(_measure_block(x, w, kept))


@always_inline
def _keep_finite(
    x: Doubles, w: Doubles, count: Int, mut nonfinite: Float64
) -> Int:
    # A value that is not finite minus itself is NaN.
    pad(x, count, 0)
    pad(w, count, 1)
    var is_counted = SIMD[DType.bool, LANES](fill=True)
    for i in range(0, count, LANES):
        var value = x.unsafe_load[width=LANES](i)
        is_counted &= (value - value).eq(0)
        is_counted &= w.unsafe_load[width=LANES](i).gt(0)
    if is_counted.reduce_and():
        return count
    var kept = 0
    for i in range(count):
        var value = x[unsafe_offset=i]
        var weight = w[unsafe_offset=i]
        if weight == 0:
            continue
        if not isfinite(value):
            nonfinite += 1
            continue
        x[unsafe_offset=kept] = value
        w[unsafe_offset=kept] = weight
        kept += 1
    return kept


def _measure_block(x: Doubles, w: Doubles, count: Int) -> ValueMoments:
    pad(x, count, x[])
    pad(w, count, 0)
    var least = Lanes(x[])
    var greatest = Lanes(x[])
    var weights = Lanes(0)
    for i in range(0, count, LANES):
        var value = x.unsafe_load[width=LANES](i)
        least = min(least, value)
        greatest = max(greatest, value)
        weights += w.unsafe_load[width=LANES](i)
    var weight = weights.reduce_add()
    var mean = mean_of(x, w, count, weight)
    return ValueMoments(
        count=Float64(count),
        nonfinite=0,
        weight=weight,
        moments=moments_of(x, w, count, weight, mean),
        least=least.reduce_min(),
        greatest=greatest.reduce_max(),
    )


def sum_values(
    mut total: CompensatedSum,
    mut total_weight: CompensatedSum,
    values: Column,
    count: Int,
    weight: Float64,
    weights: Column,
):
    """Adds up values times their weights, and the weights, in one pass.

    Args:
        total: The sum of weighted values so far.
        total_weight: The sum of weights so far.
        values: The values.
        count: How many values there are.
        weight: The weight of each value if there are no others, at least 0.
        weights: The weights, finite and at least 0; or none.
    """
    var x = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var w = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var sums = LaneSums[LANES]()
    var weight_sums = LaneSums[LANES]()
    for first in range(0, count, BLOCK):
        var read = min(BLOCK, count - first)
        values.read(first, read, x)
        pad(x, read, 0)
        weights.read(first, read, w, weight)
        pad(w, read, 0)
        for i in range(0, read, LANES):
            var factor = w.unsafe_load[width=LANES](i)
            # A value that does not count may be NaN.
            var value = x.unsafe_load[width=LANES](i)
            sums.add(factor.eq(0).select(Lanes(0), factor * value))
            weight_sums.add(factor)
    sums.add_to(total)
    weight_sums.add_to(total_weight)
