"""Counters of classes: what they refuse, and that nothing of it counts."""

from std.testing import (
    TestSuite,
    assert_equal,
    assert_raises,
    assert_true,
)
from std.utils.numerics import nan

from shared.training.metrics import (
    F1,
    Accuracy,
    ClassCounts,
    Counter,
    LabelCounts,
)


def labels_of(count: Int, classes: Int) -> List[Int64]:
    """Makes labels that go round."""
    var labels: List[Int64] = []
    for i in range(count):
        labels.append(Int64(i * 7 % classes))
    return labels^


def expect[
    counter: Int
](counts: ClassCounts[counter], expected: List[Int64]) raises:
    """Compares counters."""
    assert_equal(len(counts.counts), len(expected))
    for i in range(len(expected)):
        assert_equal(counts.counts[i], expected[i])


def test_counters_of_any_length() raises:
    for count in [0, 1, 7, 8, 9, 67, 1023, 1024, 1025, 3000]:
        var target = labels_of(count, 5)
        var preds: List[Int32] = []
        var classes = List[Int64](length=15, fill=0)
        var confusion = List[Int64](length=25, fill=0)
        for i in range(count):
            var pred = (i * i) % 5
            var actual = Int(target[i])
            preds.append(Int32(pred))
            if pred == actual:
                classes[actual] += 1
            classes[5 + pred] += 1
            classes[10 + actual] += 1
            confusion[actual * 5 + pred] += 1
        var first = ClassCounts(5)
        first.update(Span(preds), Span(target))
        expect(first, classes)
        var second = ClassCounts[Counter.CONFUSION](5)
        second.update(Span(preds), Span(target))
        expect(second, confusion)
        assert_equal(first.samples(), Float64(count))
        for i in range(5):
            assert_equal(first.totals(i).correct, second.totals(i).correct)
            assert_equal(first.totals(i).predicted, second.totals(i).predicted)
            assert_equal(first.totals(i).actual, second.totals(i).actual)


def test_nothing_of_a_bad_batch_counts() raises:
    for index in [0, 7, 1030, 2999]:
        var target = labels_of(3000, 5)
        var preds = target.copy()
        var counts = ClassCounts(5)
        counts.update(Span(preds), Span(target))
        var before = counts.counts.copy()
        preds[index] = 5
        with assert_raises(
            contains=String("preds[", index, "] is 5, must be in [0, 5)")
        ):
            counts.update(Span(preds), Span(target))
        target[index] = -1
        with assert_raises(contains=String("target[", index, "] is -1")):
            counts.update(Span(preds), Span(target))
        expect(counts, before)

        var scores = List[Float32](length=15000, fill=0)
        with assert_raises(contains=String("target[", index, "] is -1")):
            counts.update_scores(Span(scores), Span(target))
        target[index] = 0
        scores[5 * index + 2] = nan[DType.float32]()
        with assert_raises(contains=String("row ", index, " of the scores")):
            counts.update_scores(Span(scores), Span(target))
        expect(counts, before)


def test_what_is_ignored() raises:
    var target: List[Int64] = [0, -100, 1, 2]
    var preds: List[Int64] = [0, 77, 2, 2]
    var counts = ClassCounts(3, ignore_index=-100)
    counts.update(Span(preds), Span(target))
    expect(counts, [1, 0, 1, 1, 0, 2, 1, 1, 1])
    target[1] = 1
    preds[1] = 0
    # A class may be ignored, too.
    var others = ClassCounts(3, ignore_index=0)
    others.update(Span(preds), Span(target))
    expect(others, [0, 0, 1, 1, 0, 2, 0, 2, 1])


def test_weights() raises:
    var labels: List[Int64] = [0, 1, 1]
    var weights: List[Float64] = [0.5, 2, 0.25]
    var counts = ClassCounts[dtype=DType.float64](2)
    counts.update(Span(labels), Span(labels), Span(weights))
    assert_equal(counts.totals(1).actual, 2.25)
    weights[1] = -1
    with assert_raises(contains="weights[1] must be finite and at least 0"):
        counts.update(Span(labels), Span(labels), Span(weights))
    with assert_raises(contains="weights must have length 3, got 2"):
        counts.update(Span(labels), Span(labels), Span(weights)[:2])
    assert_equal(counts.samples(), 2.75)


def test_what_is_refused() raises:
    var labels = labels_of(4, 3)
    var scores: List[Float64] = [0.5, 0.5]
    var counts = ClassCounts(3)
    with assert_raises(contains="preds must have length 4, got 2"):
        counts.update(Span(labels)[:2], Span(labels))
    with assert_raises(contains="scores must have length 12, got 2"):
        counts.update_scores(Span(scores), Span(labels))
    with assert_raises(contains="classes must be at least 1, got 0"):
        _ = ClassCounts(0)
    with assert_raises(contains="top_k must be in [1, 3], got 4"):
        _ = ClassCounts(3, top_k=4)
    var top = ClassCounts(3, top_k=2)
    with assert_raises(contains="top_k = 2 needs scores"):
        top.update(Span(labels), Span(labels))
    with assert_raises(contains="only counts with the same options"):
        counts.merge(ClassCounts(4))
    with assert_raises(contains="has counted nothing; call update first"):
        _ = F1[](3).compute()
    with assert_raises(contains="top_k must be in [1, 3], got 4"):
        _ = Accuracy[](3, top_k=4)


def test_labels_that_are_refused() raises:
    var scores: List[Float32] = [0.25, 0.75, 1.5, 0]
    var target: List[UInt8] = [0, 1, 0, 1]
    var counts = LabelCounts(2, ignore_index=9)
    with assert_raises(contains="preds[2] must be a probability"):
        counts.update_scores(Span(scores), Span(target))
    counts.update_scores(Span(scores), Span(target), logits=True)
    scores[1] = nan[DType.float32]()
    with assert_raises(contains="preds[1] must be a number"):
        counts.update_scores(Span(scores), Span(target), logits=True)
    target[0] = 2
    with assert_raises(contains="target[0] is 2, must be 0 or 1"):
        counts.update(Span(target), Span(target))
    with assert_raises(contains="target must have 2 labels for each sample"):
        counts.update(Span(target)[:3], Span(target)[:3])
    with assert_raises(contains="only counts with the same options"):
        counts.merge(LabelCounts(2))
    with assert_raises(contains="labels must be at least 1, got 0"):
        _ = LabelCounts(0)
    # 0.25 > 0 and 1.5 > 0 as logits of negatives, 0.75 and 0 of positives.
    var expected: List[Int64] = [0, 2, 0, 0, 0, 0, 1, 1]
    for i in range(8):
        assert_equal(counts.counts[i], expected[i])
    target[0] = 9
    scores[0] = 77
    scores[1] = 0.5
    scores[2] = 0.5
    counts.update_scores(Span(scores), Span(target))
    assert_true(counts.counts[1] == 2)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
