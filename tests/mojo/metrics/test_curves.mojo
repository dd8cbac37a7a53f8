"""Metrics of scores against plain counts and against the values of their peers."""

from std.memory import bitcast
from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_raises,
    assert_true,
)
from std.utils.numerics import inf, isnan, nan

from shared.training.metrics.auroc import AUROC, BinnedAUROC
from shared.training.metrics.average_precision import (
    AveragePrecision,
    BinnedAveragePrecision,
)
from shared.training.metrics.brier_score import BrierScore
from shared.training.metrics.calibration_error import CalibrationError
from shared.training.metrics.log_loss import LogLoss

from golden import numbers_of

comptime FILE = "tests/golden/metrics_curves.json"
"""Written by `tests/golden/generate_metrics_curves.py`, an entry a line."""

comptime BINS = 10
"""Bins of calibration in the file."""

comptime UNIFORM = 11
"""Thresholds from 0 to 1 in the file."""

comptime CLASSES = 3
"""Classes in the file."""


def listed() -> List[Float32]:
    return [0.25, 0.5, 0.5, 0.75]


def scores_of(task: String) raises -> List[Float32]:
    return [
        v.cast[DType.float32]()
        for v in numbers_of(FILE, String(task, " scores"), '"values": ')
    ]


def target_of(task: String) raises -> List[Int32]:
    return [
        v.cast[DType.int32]()
        for v in numbers_of(FILE, String(task, " target"), '"values": ')
    ]


def check(
    value: Float64, task: String, name: String, tolerance: Float64
) raises:
    var entry = String(task, " ", name)
    var expected = numbers_of(FILE, entry, '"values": ')
    assert_equal(len(expected), 1, entry)
    assert_almost_equal(
        value, expected[0], atol=tolerance, rtol=tolerance, msg=entry
    )


def next_random(mut state: UInt64) -> Int:
    state = state * 6364136223846793005 + 1442695040888963407
    return Int(state >> 33)


def reference_area(scores: List[Float64], target: List[Int]) -> Float64:
    """Looks at each pair of a positive and a negative."""
    var twice = 0
    var pairs = 0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if target[i] == 1 and target[j] == 0:
                pairs += 1
                if scores[i] > scores[j]:
                    twice += 2
                elif scores[i] == scores[j]:
                    twice += 1
    return Float64(twice) / (2 * Float64(pairs))


def reference_precision(scores: List[Float64], target: List[Int]) -> Float64:
    """Looks at what is at or above each positive."""
    var sum = Float64(0)
    var positives = 0
    for i in range(len(scores)):
        if target[i] != 1:
            continue
        positives += 1
        var above = 0
        var hits = 0
        for j in range(len(scores)):
            if scores[j] >= scores[i]:
                above += 1
                hits += target[j]
        sum += Float64(hits) / Float64(above)
    return sum / Float64(positives) if positives > 0 else 0


def check_ranking[dtype: DType](grid: Int, signed: Bool) raises:
    var state = UInt64(grid)
    for count in range(1, 68):
        var scores: List[Scalar[dtype]] = []
        var wide: List[Float64] = []
        var target: List[Int] = []
        var labels: List[UInt8] = []
        var positives = 0
        for _ in range(count):
            var value = Float64(next_random(state) % (grid + 1))
            if signed:
                value -= Float64(grid // 2)
                # Zeros of both signs are equal, and infinities are scores.
                if next_random(state) % 8 == 0:
                    value = -0.0
                elif next_random(state) % 16 == 0:
                    value = -inf[DType.float64]()
                elif next_random(state) % 16 == 0:
                    value = inf[DType.float64]()
            var score = (value / Float64(grid)).cast[dtype]()
            scores.append(score)
            wide.append(score.cast[DType.float64]())
            var label = next_random(state) % 2
            positives += label
            target.append(label)
            labels.append(UInt8(label))
        var area = AUROC[dtype]()
        var precision = AveragePrecision[dtype]()
        # In two parts, the second one merged.
        var other = AUROC[dtype]()
        var cut = count // 3
        area.update(Span(scores)[:cut], Span(labels)[:cut])
        other.update(Span(scores)[cut:], Span(labels)[cut:])
        area.merge(other)
        precision.update(scores, labels)
        var message = String("count ", count, ", grid ", grid)
        assert_almost_equal(
            precision.compute(),
            reference_precision(wide, target),
            atol=1e-14,
            msg=message,
        )
        if positives == 0 or positives == count:
            assert_true(isnan(area.compute()), message)
        else:
            assert_equal(area.compute(), reference_area(wide, target), message)


def test_areas_are_those_of_all_pairs() raises:
    for grid in [1, 3, 20, 100000]:
        check_ranking[DType.float32](grid, False)
        check_ranking[DType.float32](grid, True)
        check_ranking[DType.float64](grid, True)
    check_ranking[DType.bfloat16](20, True)
    check_ranking[DType.float16](20, False)


def test_areas_of_many_scores() raises:
    # Enough for more than one block, and for each digit of the sort.
    var scores: List[Float64] = []
    var target: List[Int] = []
    var labels: List[Int64] = []
    var state = UInt64(1)
    for _ in range(2000):
        var sign = Float64(1 - 2 * (next_random(state) % 2))
        var size = 2.0 ** Float64(next_random(state) % 600 - 300)
        scores.append(sign * size * Float64(next_random(state)))
        target.append(next_random(state) % 2)
        labels.append(Int64(target[len(target) - 1]))
    var metric = AUROC[DType.float64]()
    metric.update(scores, labels)
    assert_equal(metric.compute(), reference_area(scores, target))


def test_neighbours_are_not_equal() raises:
    # The last bit of a score counts, on both sides of 0.
    var scores: List[Float32] = []
    var target: List[Int32] = []
    for step in range(64):
        # In no order.
        var i = (step * 37 + 11) % 64
        var size = 1 + Float32(i) / 8388608
        for sign in [Float32(1), Float32(-1)]:
            scores.append(sign * size)
            target.append(Int32(Int(sign * Float32(2 * i - 63) > 0)))
    var wide = [score.cast[DType.float64]() for score in scores]
    var labels = [Int(label) for label in target]
    var metric = AUROC()
    metric.update(scores, target)
    assert_equal(metric.compute(), reference_area(wide, labels))


def test_thresholds_are_reached() raises:
    # Exactly by the thresholds themselves, and not by what is below them.
    for size in [2, 3, 11, 50, 200, 1000]:
        var metric = BinnedAUROC(size)
        var scores: List[Float32] = []
        for i in range(size):
            var threshold = metric.thresholds[i]
            scores.append(threshold)
            if i > 0:
                scores.append(
                    bitcast[DType.float32, 1](
                        bitcast[DType.uint32, 1](threshold) - 1
                    )
                )
        var target = List[Int32](length=len(scores), fill=1)
        metric.update(scores, target)
        for i in range(size):
            # Of the positives, one score at the threshold and one below the
            # next; the last threshold has but itself.
            var expected = 2 if i + 1 < size else 1
            assert_equal(
                Int(metric.counts[size + 1 + 1 + i]), expected, String(size)
            )


def test_binary_values_are_those_of_peers() raises:
    var scores = scores_of("binary")
    var target = target_of("binary")
    var area = AUROC()
    area.update(scores, target)
    check(area.compute(), "binary", "AUROC", 1e-12)
    var precision = AveragePrecision()
    precision.update(scores, target)
    check(precision.compute(), "binary", "AveragePrecision", 1e-12)
    var loss = LogLoss()
    loss.update(scores, target)
    check(loss.compute(), "binary", "LogLoss", 1e-6)
    var brier = BrierScore()
    brier.update(scores, target)
    check(brier.compute(), "binary", "BrierScore", 1e-12)
    var binned = BinnedAUROC(UNIFORM)
    binned.update(scores, target)
    check(binned.compute(), "binary", "auroc uniform", 1e-6)
    binned = BinnedAUROC(listed())
    binned.update(scores, target)
    check(binned.compute(), "binary", "auroc listed", 1e-6)
    var steps = BinnedAveragePrecision(UNIFORM)
    steps.update(scores, target)
    check(steps.compute(), "binary", "average_precision uniform", 1e-6)
    steps = BinnedAveragePrecision(listed())
    steps.update(scores, target)
    check(steps.compute(), "binary", "average_precision listed", 1e-6)


def test_values_of_classes_are_those_of_peers() raises:
    var scores = scores_of("multiclass")
    var target = target_of("multiclass")
    var loss = LogLoss(CLASSES)
    loss.update(scores, target)
    check(loss.compute(), "multiclass", "LogLoss", 1e-6)
    var brier = BrierScore(CLASSES)
    brier.update(scores, target)
    check(brier.compute(), "multiclass", "BrierScore", 1e-12)
    var area = BinnedAUROC(UNIFORM, CLASSES)
    area.update(scores, target)
    check(area.compute(), "multiclass", "auroc uniform", 1e-6)
    var precision = BinnedAveragePrecision(UNIFORM, CLASSES)
    precision.update(scores, target)
    check(precision.compute(), "multiclass", "average_precision uniform", 1e-6)


def test_calibration_errors_are_those_of_torchmetrics() raises:
    for norm in ["l1", "l2", "max"]:
        var name = String("CalibrationError ", norm)
        var binary = CalibrationError(bins=BINS, norm=String(norm))
        binary.update(scores_of("binary"), target_of("binary"))
        check(binary.compute(), "binary", name, 1e-6)
        var classes = CalibrationError(CLASSES, bins=BINS, norm=String(norm))
        classes.update(scores_of("multiclass"), target_of("multiclass"))
        check(classes.compute(), "multiclass", name, 1e-6)


def test_two_classes_are_one_label() raises:
    var scores = scores_of("binary")
    var target = target_of("binary")
    var both: List[Float64] = []
    for score in scores:
        both.append(1 - score.cast[DType.float64]())
        both.append(score.cast[DType.float64]())
    var brier = BrierScore(2)
    brier.update(both, target)
    check(brier.compute(), "binary", "BrierScore", 1e-12)
    var loss = LogLoss(2)
    loss.update(both, target)
    check(loss.compute(), "binary", "LogLoss", 1e-12)


def test_parts_count_as_the_whole() raises:
    var scores = scores_of("multiclass")
    var target = target_of("multiclass")
    var cut = 13
    var first = BinnedAUROC(UNIFORM, CLASSES)
    var second = first.copy()
    first.update(Span(scores)[: CLASSES * cut], Span(target)[:cut])
    second.update(Span(scores)[CLASSES * cut :], Span(target)[cut:])
    second.merge(first)
    check(second.compute(), "multiclass", "auroc uniform", 1e-6)
    var early = CalibrationError(CLASSES, bins=BINS)
    var late = early.copy()
    early.update(Span(scores)[: CLASSES * cut], Span(target)[:cut])
    late.update(Span(scores)[CLASSES * cut :], Span(target)[cut:])
    late.merge(early)
    check(late.compute(), "multiclass", "CalibrationError l1", 1e-6)
    var loss = LogLoss(CLASSES)
    var rest = loss.copy()
    loss.update(Span(scores)[: CLASSES * cut], Span(target)[:cut])
    rest.update(Span(scores)[CLASSES * cut :], Span(target)[cut:])
    loss.merge(rest)
    check(loss.compute(), "multiclass", "LogLoss", 1e-6)


def test_ignored_rows_do_not_count() raises:
    var scores = scores_of("multiclass")
    var target = target_of("multiclass")
    for _ in range(5):
        for _ in range(CLASSES):
            scores.append(nan[DType.float32]())
        target.append(-1)
    var area = BinnedAUROC(UNIFORM, CLASSES, ignore_index=-1)
    area.update(scores, target)
    check(area.compute(), "multiclass", "auroc uniform", 1e-6)
    var loss = LogLoss(CLASSES, ignore_index=-1)
    loss.update(scores, target)
    check(loss.compute(), "multiclass", "LogLoss", 1e-6)
    var error = CalibrationError(CLASSES, bins=BINS, ignore_index=-1)
    error.update(scores, target)
    check(error.compute(), "multiclass", "CalibrationError l1", 1e-6)


def test_a_reset_forgets() raises:
    var scores = scores_of("binary")
    var target = target_of("binary")
    var area = AUROC()
    area.update(scores, target)
    area.reset()
    with assert_raises(contains="nothing was counted"):
        _ = area.compute()
    var binned = BinnedAUROC(UNIFORM)
    binned.update(scores, target)
    binned.reset()
    with assert_raises(contains="nothing was counted"):
        _ = binned.compute()
    var error = CalibrationError()
    error.update(scores, target)
    error.reset()
    with assert_raises(contains="nothing was counted"):
        _ = error.compute()
    var brier = BrierScore()
    brier.update(scores, target)
    brier.reset()
    with assert_raises(contains="nothing was counted"):
        _ = brier.compute()


def test_bad_batches_are_refused_whole() raises:
    var scores: List[Float32] = [0.5, 1.5]
    var target: List[Int32] = [0, 1]
    var binned = BinnedAUROC(UNIFORM)
    with assert_raises(contains="scores[1] is 1.5, must be in [0.0, 1.0]"):
        binned.update(scores, target)
    with assert_raises(contains="nothing was counted"):
        _ = binned.compute()
    # Other thresholds take other scores.
    var other = BinnedAUROC(listed())
    other.update(scores, target)
    scores[0] = nan[DType.float32]()
    with assert_raises(contains="scores[0] is nan"):
        other.update(scores, target)
    target[1] = 2
    var area = AUROC()
    with assert_raises(contains="target[1] is 2, must be in [0, 2)"):
        area.update(scores, target)
    var loss = LogLoss(CLASSES)
    with assert_raises(contains="scores must have length 6, got 2"):
        loss.update(scores, target)


def test_bad_options_are_refused() raises:
    with assert_raises(contains="thresholds must be in [2, 65536], got 1"):
        _ = BinnedAUROC(1)
    with assert_raises(contains="thresholds must ascend, got 0.5 before 0.25"):
        _ = BinnedAUROC([Float32(0.5), Float32(0.25)])
    with assert_raises(contains="classes must be at least 1, got 0"):
        _ = BinnedAUROC(UNIFORM, 0)
    with assert_raises(contains="classes must be at least 1, got 0"):
        _ = LogLoss(0)
    with assert_raises(contains="norm must be l1, l2 or max, got l3"):
        _ = CalibrationError(norm="l3")
    var first = BinnedAUROC(UNIFORM)
    with assert_raises(contains="other must have the same thresholds"):
        first.merge(BinnedAUROC(UNIFORM + 1))
    with assert_raises(contains="other.classes must have length 1, got 3"):
        first.merge(BinnedAUROC(UNIFORM, CLASSES))


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
