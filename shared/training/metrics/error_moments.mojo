"""What regression metrics measure of predictions and targets, in one pass."""

from std.memory import unsafe_stack_allocation

from .column import BLOCK, LANES, Column, Doubles, Lanes, pad
from .moments import Moments, mean_of, moments_of

comptime EPSILON = Float64(2.220446049250313e-16)
"""The least size of a target that an error is divided by: that of scikit-learn."""


struct Part:
    """What is measured beside squared and absolute errors, as bits."""

    comptime RELATIVE = 1
    """Errors relative to the target."""
    comptime TARGET = 2
    """The moments of the targets."""
    comptime ERROR = 4
    """The moments of the errors."""
    comptime PRODUCT = 8
    """The moments of the predictions, and their products with the targets, whose
    moments are measured, too."""


@fieldwise_init
struct ErrorMoments(ImplicitlyCopyable, Movable):
    """What is known of an output; Python holds it as a row of float64.

    An error is a prediction minus its target.
    """

    var count: Float64
    """How many samples there were, those of weight 0 included."""
    var weight: Float64
    """The sum of their weights."""
    var squared: Float64
    """The sum of weighted squared errors."""
    var absolute: Float64
    """The sum of weighted sizes of errors."""
    var relative: Float64
    """The same, each divided by the size of its target, at least `EPSILON`."""
    var target: Moments
    """Mean and squared deviations of the targets."""
    var preds: Moments
    """Those of the predictions."""
    var error: Moments
    """Those of the errors."""
    var product: Float64
    """The sum of weighted products of the deviations of target and prediction."""

    def __init__(out self):
        """Starts with no samples."""
        self.count = 0
        self.weight = 0
        self.squared = 0
        self.absolute = 0
        self.relative = 0
        self.target = Moments()
        self.preds = Moments()
        self.error = Moments()
        self.product = 0

    def merge(mut self, other: Self):
        """Takes further samples in.

        Args:
            other: What is known of them.
        """
        self.count += other.count
        if other.weight == 0:
            return
        self.squared += other.squared
        self.absolute += other.absolute
        self.relative += other.relative
        var share = other.weight / (self.weight + other.weight)
        self.product += other.product + self.weight * share * (
            self.target.distance(other.target)
            * self.preds.distance(other.preds)
        )
        self.target.merge(other.target, self.weight, other.weight)
        self.preds.merge(other.preds, self.weight, other.weight)
        self.error.merge(other.error, self.weight, other.weight)
        self.weight += other.weight


def measure_errors(
    mut total: ErrorMoments,
    preds: Column,
    target: Column,
    weights: Column,
    first: Int,
    count: Int,
    parts: Int,
):
    """Counts a block of samples.

    Args:
        total: What is known so far.
        preds: The predictions.
        target: The targets.
        weights: The weights, finite and at least 0; or none, for weights of 1.
        first: The index of the first sample.
        count: How many samples there are, at most `BLOCK`.
        parts: What is measured, bits of `Part`.
    """
    var p = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var t = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var w = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var e = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    preds.read(first, count, p)
    target.read(first, count, t)
    weights.read(first, count, w, 1)
    var kept = count
    if not weights.is_none():
        kept = _keep_counted(p, t, w, count)
    var part = ErrorMoments()
    part.count = Float64(count)
    if kept != 0:
        pad(p, kept, 0)
        pad(t, kept, 0)
        pad(w, kept, 0)
        _measure_sizes(part, p, t, w, e, kept)
        if parts & Part.RELATIVE != 0:
            _measure_relative(part, t, w, e, kept)
        if parts & Part.ERROR != 0:
            var mean = mean_of(e, w, kept, part.weight)
            part.error = moments_of(e, w, kept, part.weight, mean)
        if parts & (Part.TARGET | Part.PRODUCT) != 0:
            var mean = mean_of(t, w, kept, part.weight)
            part.target = moments_of(t, w, kept, part.weight, mean)
            if parts & Part.PRODUCT != 0:
                _measure_product(part, p, t, w, kept, mean)
    total.merge(part)


def _keep_counted(p: Doubles, t: Doubles, w: Doubles, count: Int) -> Int:
    # What has a weight of 0 may be NaN.
    var kept = 0
    for i in range(count):
        var weight = w[unsafe_offset=i]
        if weight != 0:
            p[unsafe_offset=kept] = p[unsafe_offset=i]
            t[unsafe_offset=kept] = t[unsafe_offset=i]
            w[unsafe_offset=kept] = weight
            kept += 1
    return kept


def _measure_sizes(
    mut part: ErrorMoments,
    p: Doubles,
    t: Doubles,
    w: Doubles,
    e: Doubles,
    count: Int,
):
    var weight = Lanes(0)
    var squared = Lanes(0)
    var absolute = Lanes(0)
    for i in range(0, count, LANES):
        var pred = p.unsafe_load[width=LANES](i)
        var error = pred - t.unsafe_load[width=LANES](i)
        e.unsafe_store[width=LANES](i, error)
        var factor = w.unsafe_load[width=LANES](i)
        var weighted = factor * abs(error)
        weight += factor
        squared = weighted.fma(abs(error), squared)
        absolute += weighted
    part.weight = weight.reduce_add()
    part.squared = squared.reduce_add()
    part.absolute = absolute.reduce_add()


def _measure_relative(
    mut part: ErrorMoments, t: Doubles, w: Doubles, e: Doubles, count: Int
):
    var relative = Lanes(0)
    for i in range(0, count, LANES):
        var size = abs(t.unsafe_load[width=LANES](i))
        # A NaN is kept.
        size = size.lt(EPSILON).select(Lanes(EPSILON), size)
        var ratio = abs(e.unsafe_load[width=LANES](i)) / size
        relative = w.unsafe_load[width=LANES](i).fma(ratio, relative)
    part.relative = relative.reduce_add()


def _measure_product(
    mut part: ErrorMoments,
    p: Doubles,
    t: Doubles,
    w: Doubles,
    count: Int,
    t_mean: Float64,
):
    var p_mean = mean_of(p, w, count, part.weight)
    part.preds = moments_of(p, w, count, part.weight, p_mean)
    var p_rest = Lanes(0)
    var t_rest = Lanes(0)
    var product = Lanes(0)
    for i in range(0, count, LANES):
        var p_deviation = p.unsafe_load[width=LANES](i) - p_mean
        var t_deviation = t.unsafe_load[width=LANES](i) - t_mean
        var weighted = w.unsafe_load[width=LANES](i) * p_deviation
        p_rest += weighted
        t_rest = w.unsafe_load[width=LANES](i).fma(t_deviation, t_rest)
        product = weighted.fma(t_deviation, product)
    part.product = (
        product.reduce_add()
        - p_rest.reduce_add() * t_rest.reduce_add() / part.weight
    )
