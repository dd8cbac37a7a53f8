"""The metrics of classification against scikit-learn's values."""

from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_true,
)
from std.utils.numerics import isinf, isnan

from shared.training.metrics import (
    F1,
    Accuracy,
    BalancedAccuracy,
    ClassCounts,
    ClassFormula,
    ClassMetric,
    CohenKappa,
    ConfusionMatrix,
    FBeta,
    FBetaRatio,
    Jaccard,
    LabelCounts,
    MatthewsCorrCoef,
    Precision,
    Recall,
    Specificity,
    normalized,
)

from golden import numbers_of

comptime FILE = "tests/golden/metrics_counts.json"
"""Written by `tests/golden/generate_metrics_counts.py`, an entry a line."""

comptime CLASSES = 6
"""How many classes the file has."""

comptime TOLERANCE = 1e-12
"""What a sum in another order may differ by."""


def read(entry: String) raises -> List[Float64]:
    """Reads an entry."""
    return numbers_of(FILE, entry, '": ')


def read_as[dtype: DType](entry: String) raises -> List[Scalar[dtype]]:
    """Reads an entry in a dtype."""
    var values: List[Scalar[dtype]] = []
    for value in read(entry):
        values.append(value.cast[dtype]())
    return values^


def check_lists(
    actual: List[Float64], expected: List[Float64], name: String
) raises:
    """Compares lists."""
    assert_equal(len(actual), len(expected), name)
    for i in range(len(expected)):
        assert_almost_equal(
            actual[i], expected[i], name, atol=TOLERANCE, rtol=TOLERANCE
        )


def check[
    Formula: ClassFormula, //
](entry: String, var metric: ClassMetric[Formula]) raises:
    """Compares the value from labels, in parts, with the file's."""
    var preds = read_as[DType.int32]("preds")
    var target = read_as[DType.uint8]("target")
    var first = metric.copy()
    first.update(Span(preds)[:5], Span(target)[:5])
    metric.update(Span(preds)[5:11], Span(target)[5:11])
    metric.update(Span(preds)[11:], Span(target)[11:])
    metric.merge(first)
    assert_almost_equal(
        metric.compute(),
        read(entry)[0],
        entry,
        atol=TOLERANCE,
        rtol=TOLERANCE,
    )
    metric.reset()
    var scores = read_as[DType.float64]("scores")
    metric.update_scores(Span(scores), Span(target))
    assert_almost_equal(
        metric.compute(),
        read(entry)[0],
        entry,
        atol=TOLERANCE,
        rtol=TOLERANCE,
    )


def test_ratios() raises:
    comptime for average in ["micro", "macro", "weighted"]:
        check(String("precision ", average), Precision[average](CLASSES))
        check(String("recall ", average), Recall[average](CLASSES))
        check(String("f1 ", average), F1[average](CLASSES))
        check(String("jaccard ", average), Jaccard[average](CLASSES))
        var half = FBeta[average](CLASSES)
        half.formula.ratio.beta = 0.5
        check(String("fbeta ", average), half^)


def test_other_values() raises:
    check("accuracy", Accuracy[](CLASSES))
    check("recall macro", Accuracy["macro"](CLASSES))
    check("balanced", BalancedAccuracy[](CLASSES))
    check("adjusted", BalancedAccuracy[True](CLASSES))
    check("matthews", MatthewsCorrCoef(CLASSES))
    check("kappa none", CohenKappa[](CLASSES))
    check("kappa linear", CohenKappa["linear"](CLASSES))
    check("kappa quadratic", CohenKappa["quadratic"](CLASSES))


def test_values_of_classes() raises:
    var preds = read_as[DType.int8]("preds")
    var target = read_as[DType.int64]("target")
    var f1 = F1[](CLASSES)
    f1.update(Span(preds), Span(target))
    var values: List[Float64] = []
    var others: List[Float64] = []
    var specificity = Specificity[](CLASSES)
    for i in range(CLASSES):
        var totals = f1.counts.totals(i)
        values.append(f1.formula.ratio.value(totals))
        others.append(specificity.formula.ratio.value(totals))
    check_lists(values, read("f1 none"), "f1")
    check_lists(others, read("specificity none"), "specificity")
    # Metrics can be computed from what another has counted.
    assert_almost_equal(
        Recall[](CLASSES).formula.value(f1.counts), read("recall macro")[0]
    )


def test_confusion_matrix() raises:
    var preds = read_as[DType.int16]("preds")
    var target = read_as[DType.int64]("target")
    var matrix = ConfusionMatrix(CLASSES)
    matrix.update(Span(preds), Span(target))
    var counts: List[Float64] = []
    for count in matrix.counts:
        counts.append(Float64(count))
    check_lists(counts, read("confusion"), "confusion")
    check_lists(normalized["true"](matrix), read("confusion true"), "true")
    check_lists(normalized["pred"](matrix), read("confusion pred"), "pred")
    check_lists(normalized["all"](matrix), read("confusion all"), "all")


def test_top_k() raises:
    var target = read_as[DType.int32]("target")
    comptime for dtype in [DType.float32, DType.float64, DType.bfloat16]:
        var scores = read_as[dtype]("scores")
        var top = Accuracy[](CLASSES, top_k=3)
        top.update_scores(Span(scores), Span(target))
        assert_almost_equal(top.compute(), read("top 3")[0])


def test_weights() raises:
    var preds = read_as[DType.int64]("preds")
    var target = read_as[DType.int64]("target")
    var weights = read("weights")
    var f1 = F1["macro", DType.float64](CLASSES)
    f1.counts.update(Span(preds), Span(target), Span(weights))
    assert_almost_equal(
        f1.compute(), read("weighted f1")[0], atol=TOLERANCE, rtol=TOLERANCE
    )


def test_labels() raises:
    var target = read_as[DType.uint8]("labels")
    var chances = read_as[DType.float32]("chances")
    var counts = LabelCounts(3)
    counts.update_scores(Span(chances), Span(target))
    var cells: List[Float64] = []
    var values: List[Float64] = []
    for count in counts.counts:
        cells.append(Float64(count))
    for label in range(3):
        values.append(FBetaRatio().value(counts.totals(label)))
    check_lists(cells, read("label confusion"), "labels")
    check_lists(values, read("label f1"), "f1 of labels")

    var labels: List[Int8] = []
    for chance in chances:
        labels.append(Int8(1 if chance > 0.7 else 0))
    var first = LabelCounts(3)
    first.update(Span(labels)[:9], Span(target)[:9])
    var second = LabelCounts(3)
    second.update(Span(labels)[9:], Span(target)[9:])
    first.merge(second)
    second.reset()
    second.update_scores(Span(chances), Span(target), threshold=0.7)
    for i in range(12):
        assert_equal(
            Float64(first.counts[i]), read("label confusion at 0.7")[i]
        )
        assert_equal(second.counts[i], first.counts[i])


def test_degenerate_values() raises:
    var zeros: List[Int64] = [0, 0, 0]
    var ones: List[Int64] = [1, 1, 1]
    var kappa = CohenKappa[](2)
    kappa.update(Span(zeros), Span(zeros))
    assert_true(isnan(kappa.compute()))
    var matthews = MatthewsCorrCoef(2)
    matthews.update(Span(zeros), Span(ones))
    assert_equal(matthews.compute(), 0)
    var adjusted = BalancedAccuracy[True](2)
    adjusted.update(Span(zeros), Span(zeros))
    assert_true(isnan(adjusted.compute()))
    adjusted.reset()
    adjusted.update(Span(ones), Span(zeros))
    assert_true(isinf(adjusted.compute()) and adjusted.compute() < 0)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
