"""Moments and what is made of them, against the digits of other libraries."""

from std.testing import TestSuite, assert_almost_equal, assert_equal

from shared.training.metrics import (
    ExplainedVariance,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    Perplexity,
    Quantile,
    R2Score,
    RootMeanSquaredError,
    RunningMoments,
)
from shared.training.metrics.regression import ErrorFormula, ErrorMetric

from golden import numbers_of

comptime FILE = "tests/golden/metrics_moments.json"
"""Written by `tests/golden/generate_metrics_moments.py`, an entry a line."""


def read(entry: String) raises -> List[Float64]:
    """Reads the numbers of an entry."""
    return numbers_of(FILE, entry, '": ')


def number(entry: String) raises -> Float64:
    """Reads an entry of one number."""
    return read(entry)[0]


def test_mean_and_variance() raises:
    var values = read("values")
    var mean = Mean()
    var moments = RunningMoments()
    var halves = RunningMoments()
    var rest = RunningMoments()
    var rest_mean = Mean()
    mean.update(Span(values)[:100])
    rest_mean.update(Span(values)[100:])
    mean.merge(rest_mean)
    moments.update(Span(values))
    halves.update(Span(values)[:7])
    rest.update(Span(values)[7:])
    halves.merge(rest)
    assert_equal(mean.compute(), number("mean"))
    var extremes = read("extremes")
    for state in [moments.compute(), halves.compute()]:
        assert_equal(state.count, Float64(len(values)))
        assert_almost_equal(state.moments.mean, number("mean"), rtol=1e-15)
        assert_almost_equal(state.variance(), number("variance"), rtol=1e-14)
        assert_equal(state.least, extremes[0])
        assert_equal(state.greatest, extremes[1])


def test_quantiles() raises:
    var values = read("spread")
    for q in [0.0, 0.1, 0.5, 0.9, 1.0]:
        var whole = Quantile(q, relative_accuracy=0.001)
        var parts = Quantile(q, relative_accuracy=0.001)
        var rest = Quantile(q, relative_accuracy=0.001)
        whole.update(Span(values))
        rest.update(Span(values)[:150])
        parts.update(Span(values)[150:])
        parts.merge(rest)
        var expected = number(String("quantile ", q))
        var found = whole.compute()
        assert_almost_equal(found, expected, rtol=1.001e-3, atol=0)
        assert_equal(parts.compute(), found)


def check_regression[
    Formula: ErrorFormula
](entry: String, tolerance: Float64) raises:
    """Compares a metric, with and without weights, whole and in parts."""
    var preds = read("preds")
    var target = read("target")
    var weights = read("weights")
    var whole = ErrorMetric[Formula]()
    var weighted = ErrorMetric[Formula]()
    var parts = ErrorMetric[Formula]()
    whole.update(Span(preds), Span(target))
    weighted.update(Span(preds), Span(target), Span(weights))
    for first in range(0, len(preds), 7):
        var last = min(first + 7, len(preds))
        var part = ErrorMetric[Formula]()
        part.update(Span(preds)[first:last], Span(target)[first:last])
        parts.merge(part)
    var expected = number(entry)
    assert_almost_equal(whole.compute(), expected, rtol=tolerance, atol=0)
    assert_almost_equal(parts.compute(), expected, rtol=tolerance, atol=0)
    assert_almost_equal(
        weighted.compute(),
        number(String("weighted ", entry)),
        rtol=tolerance,
        atol=0,
    )


def test_regression() raises:
    # scikit-learn's mean of targets near 1e6 is rounded, and so are the squares
    # about it, in the second order.
    check_regression[MeanSquaredError.Formula]("mse", 1e-14)
    check_regression[RootMeanSquaredError.Formula]("rmse", 1e-14)
    check_regression[MeanAbsoluteError.Formula]("mae", 1e-14)
    check_regression[MeanAbsolutePercentageError.Formula]("mape", 1e-14)
    check_regression[R2Score.Formula]("r2", 1e-13)
    check_regression[ExplainedVariance.Formula]("explained", 1e-13)
    check_regression[PearsonCorrCoef.Formula]("pearson", 1e-13)


def test_perplexity() raises:
    var logits = read("logits")
    var tokens = List[Int64]()
    for token in read("tokens"):
        tokens.append(Int64(token))
    var classes = len(logits) // len(tokens)
    var whole = Perplexity()
    var parts = Perplexity()
    var without = Perplexity(ignore_index=3)
    whole.update(Span(logits), Span(tokens))
    without.update(Span(logits), Span(tokens))
    for i in range(len(tokens)):
        var part = Perplexity()
        part.update(
            Span(logits)[i * classes : (i + 1) * classes],
            Span(tokens)[i : i + 1],
        )
        parts.merge(part)
    assert_almost_equal(
        whole.compute(), number("perplexity"), rtol=1e-14, atol=0
    )
    assert_equal(parts.compute(), whole.compute())
    assert_almost_equal(
        without.compute(), number("perplexity without 3"), rtol=1e-14, atol=0
    )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
