"""Metrics of values, of predicted numbers and of tokens: edges and errors."""

from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_raises,
    assert_true,
)
from std.utils.numerics import inf, isinf, isnan, nan

from shared.training.metrics import (
    ExplainedVariance,
    Mean,
    MeanSquaredError,
    PearsonCorrCoef,
    Perplexity,
    Quantile,
    R2Score,
    RunningMoments,
)
from shared.training.metrics.compensated_sum import CompensatedSum
from shared.training.metrics.quantile_sketch import (
    GREATEST,
    LEAST,
    bucket_of,
    middle_of,
)


def test_sums_lose_nothing() raises:
    var sum = CompensatedSum()
    for value in [1e16, 1.0, -1e16, 1e-8, 1e16, 2.0, -1e16]:
        sum.add(value)
    assert_equal(sum.high, 3 + 1e-8)
    var other = CompensatedSum()
    other.add(-3)
    sum.merge(other)
    assert_almost_equal(sum.high, 1e-8, rtol=1e-8, atol=0)
    sum.add(inf[DType.float64]())
    sum.add(1)
    assert_true(isinf(sum.high))
    assert_equal(sum.low, 0)


def test_mean_counts_weights() raises:
    var mean = Mean()
    mean.update(2.0, 3.0)
    mean.update(nan[DType.float64](), 0)
    mean.update(8.0)
    assert_equal(mean.compute(), 3.5)
    with assert_raises(contains="weight must be at least 0, got -1.0"):
        mean.update(1.0, -1.0)
    assert_equal(mean.compute(), 3.5)
    mean.reset()
    with assert_raises(contains="nothing was counted; call update first"):
        _ = mean.compute()


def test_every_dtype_is_widened() raises:
    var mean = Mean()
    mean.update(Span[Float32](List[Float32](length=300, fill=0.5)))
    mean.update(Span[BFloat16](List[BFloat16](length=9, fill=0.5)))
    mean.update(Span[Float16](List[Float16](length=9, fill=0.5)))
    assert_equal(mean.compute(), 0.5)
    assert_equal(mean.weight.high, 318)


def test_values_far_from_0() raises:
    for size in range(1, 4):
        var values: List[Float64] = [1e8, 1e8 + 1, 1e8 + 2]
        var moments = RunningMoments()
        for first in range(0, 3, size):
            moments.update(Span(values)[first : min(first + size, 3)])
        assert_equal(moments.compute().variance(), 2.0 / 3.0)
        assert_equal(moments.compute().moments.mean, 1e8 + 1)


def test_what_is_not_finite_is_counted_apart() raises:
    var moments = RunningMoments()
    var values: List[Float64] = [
        nan[DType.float64](),
        1,
        inf[DType.float64](),
        3,
    ]
    moments.update(Span(values))
    var found = moments.compute()
    assert_equal(found.count, 2)
    assert_equal(found.nonfinite, 2)
    assert_equal(found.moments.mean, 2)
    assert_equal(found.greatest, 3)
    moments.reset()
    moments.update(Span(values)[:1])
    with assert_raises(contains="no finite value was counted"):
        _ = moments.compute()


def test_constant_targets() raises:
    var same = List[Float64](length=301, fill=0.1)
    var other = List[Float64](length=301, fill=1.1)
    var r2 = R2Score()
    var explained = ExplainedVariance()
    var pearson = PearsonCorrCoef()
    r2.update(Span(same), Span(same))
    explained.update(Span(other), Span(same))
    pearson.update(Span(other), Span(same))
    assert_equal(r2.compute(), 1)
    assert_equal(explained.compute(), 1)
    assert_true(isnan(pearson.compute()))
    r2.update(Span(other), Span(same))
    explained.update(Span(same), Span(same))
    assert_equal(r2.compute(), 0)
    assert_equal(explained.compute(), 0)
    r2.reset()
    r2.update(Span(other)[:1], Span(same)[:1])
    assert_true(isnan(r2.compute()))


def test_lengths_and_weights_that_are_refused() raises:
    var two: List[Float64] = [1, 2]
    var three: List[Float64] = [1, 2, -3]
    var metric = MeanSquaredError()
    with assert_raises(contains="must be equally many, got 2 and 3"):
        metric.update(Span(two), Span(three))
    with assert_raises(contains="weights must be as many as preds, 2, got 3"):
        metric.update(Span(two), Span(two), Span(three))
    with assert_raises(contains="weights[2] is -3.0, must be at least 0"):
        metric.update(Span(three), Span(three), Span(three))
    with assert_raises(contains="nothing was counted"):
        _ = metric.compute()


def test_quantiles_of_all_kinds_of_numbers() raises:
    var metric = Quantile(0)
    var values: List[Float64] = [
        5,
        -inf[DType.float64](),
        0,
        1e-310,
        inf[DType.float64](),
        -2,
    ]
    metric.update(Span(values))
    assert_true(isinf(metric.compute()))
    metric.q = 0.2
    assert_almost_equal(metric.compute(), -2, rtol=0.01, atol=0)
    for q in [0.4, 0.6]:
        metric.q = q
        assert_equal(metric.compute(), 0)
    metric.q = 0.8
    assert_almost_equal(metric.compute(), 5, rtol=0.01, atol=0)
    metric.q = 1
    assert_true(isinf(metric.compute()))
    var bad: List[Float64] = [nan[DType.float64]()]
    metric.update(Span(bad))
    assert_true(isnan(metric.compute()))
    metric.reset()
    with assert_raises(contains="nothing was counted"):
        _ = metric.compute()
    with assert_raises(
        contains="relative_accuracy=0.01 can be merged, got 0.1"
    ):
        metric.merge(Quantile(relative_accuracy=0.1))
    with assert_raises(contains="q must be in [0, 1], got 2.0"):
        _ = Quantile(2.0)
    with assert_raises(contains="relative_accuracy must be at least 0.0001"):
        _ = Quantile(relative_accuracy=0.0)


def test_the_middles_of_buckets() raises:
    # 0.7 / ln((1 + a) / (1 - a)) for a of 0.01.
    comptime DENSITY = 34.99883332
    for size in [LEAST, 1e-300, 0.1, 1.0, 1.9999, 2.0, 3.0, 1e300, GREATEST]:
        var bucket = Int(bucket_of[1](size, DENSITY))
        var middle = middle_of(bucket, DENSITY)
        assert_almost_equal(middle, size, rtol=0.010001, atol=0)
        assert_equal(Int(bucket_of[1](middle, DENSITY)), bucket)


def test_tokens() raises:
    var logits: List[Float32] = [0, 0, 0, 0, 1, 2]
    var target: List[Int64] = [1, 0]
    var metric = Perplexity()
    metric.update(Span(logits)[:3], Span(target)[:1])
    assert_almost_equal(metric.compute(), 3, rtol=1e-6, atol=0)
    with assert_raises(contains="for each of the 2 targets, got 5 numbers"):
        metric.update(Span(logits)[:5], Span(target))
    target[1] = 3
    with assert_raises(contains="target[1] is 3, must be in [0, 3)"):
        metric.update(Span(logits), Span(target))
    assert_almost_equal(metric.compute(), 3, rtol=1e-6, atol=0)
    metric.reset()
    metric.update_sum(90, 90)
    metric.update_sum(30, 10)
    assert_almost_equal(metric.compute(), 3.3201169227365472, rtol=1e-15)
    metric.update_sum(1e6, 1)
    assert_true(isinf(metric.compute()))


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
