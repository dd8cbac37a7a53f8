"""Losses and their gradients against torch's values."""

from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_raises,
)

from shared.training.core import (
    SerialExecutor,
    compute_dtype,
    exp,
    log,
    log1p,
)
from shared.training.core.parallel_executor import ParallelExecutor
from shared.training.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    HuberLoss,
    LossSum,
    PointwiseLoss,
    SigmoidFocal,
    SquaredError,
    evaluate,
)

from golden import numbers_of

comptime FILE = "tests/golden/losses.json"
"""Written by `tests/golden/generate_losses.py`, an entry a line."""


def read[dtype: DType](entry: String) raises -> List[Scalar[dtype]]:
    """Reads an entry in a dtype."""
    var values: List[Scalar[dtype]] = []
    for value in numbers_of(FILE, entry, '": '):
        values.append(value.cast[dtype]())
    return values^


def tolerance[dtype: DType]() -> Float64:
    """Allows a few roundings of numbers up to 10 or so."""
    comptime if dtype == DType.float64:
        return 1e-12
    elif dtype == DType.float32:
        return 3e-6
    else:
        return 0.05


def check[
    dtype: DType
](name: String, sum: LossSum, gradient: List[Scalar[dtype]]) raises:
    """Compares a loss and its gradient with an entry."""
    var expected = read[DType.float64](name)
    assert_almost_equal(
        sum.total, expected[0], rtol=tolerance[dtype](), atol=0, msg=name
    )
    assert_almost_equal(
        sum.count, expected[1], rtol=tolerance[dtype](), atol=0, msg=name
    )
    var slopes = read[DType.float64](name + " gradient")
    assert_equal(len(gradient), len(slopes), name)
    for i in range(len(slopes)):
        assert_almost_equal(
            gradient[i].cast[DType.float64](),
            slopes[i],
            atol=tolerance[dtype](),
            rtol=0,
            msg=String(name, " gradient ", i),
        )


def check_cross_entropy[dtype: DType](name: String, loss: CrossEntropy) raises:
    """Compares cross entropy, beside and over the logits."""
    var logits = read[dtype]("logits")
    var target = read[DType.int64]("target")
    var gradient = List[Scalar[dtype]](length=len(logits), fill=7)
    check(
        name,
        loss.evaluate(
            Span(logits), Span(target), Span(gradient), SerialExecutor()
        ),
        gradient,
    )
    var nothing: List[Scalar[dtype]] = []
    var alone = loss.evaluate(
        Span(logits), Span(target), Span(nothing), SerialExecutor()
    )
    check(name, alone, gradient)
    var sum = loss.overwrite(Span(logits), Span(target), SerialExecutor())
    assert_equal(sum.total, alone.total)
    for i in range(len(logits)):
        assert_equal(logits[i], gradient[i])


def check_classes[dtype: DType]() raises:
    """Compares the losses of classes in a dtype."""
    check_cross_entropy[dtype]("cross_entropy", CrossEntropy())
    check_cross_entropy[dtype](
        "cross_entropy smoothed",
        CrossEntropy(
            weight=numbers_of(FILE, "weight", '": '), label_smoothing=0.1
        ),
    )
    check_cross_entropy[dtype](
        "cross_entropy normalised", CrossEntropy(z_loss=0.01)
    )
    var logits = read[dtype]("logits")
    var target = read[DType.int64]("target")
    var gradient = List[Scalar[dtype]](length=len(logits), fill=7)
    var focal = Focal(gamma=1.5, alpha=numbers_of(FILE, "weight", '": '))
    check(
        "focal",
        focal.evaluate(
            Span(logits), Span(target), Span(gradient), SerialExecutor()
        ),
        gradient,
    )


def test_losses_of_classes_are_torchs() raises:
    check_classes[DType.float64]()
    check_classes[DType.float32]()
    check_classes[DType.bfloat16]()
    check_classes[DType.float16]()


def check_pointwise[
    dtype: DType, Loss: PointwiseLoss
](name: String, targets: String, rule: Loss) raises:
    """Compares a loss of elements."""
    var preds = read[dtype]("preds")
    var target = read[dtype](targets)
    var gradient = List[Scalar[dtype]](length=len(preds), fill=7)
    check(
        name,
        evaluate(
            rule, Span(preds), Span(target), Span(gradient), SerialExecutor()
        ),
        gradient,
    )


def check_elements[dtype: DType]() raises:
    """Compares the losses of elements in a dtype."""
    check_pointwise[dtype]("mse", "values", SquaredError())
    check_pointwise[dtype]("huber", "values", HuberLoss(0.7))
    check_pointwise[dtype]("bce_with_logits", "labels", BinaryCrossEntropy())
    check_pointwise[dtype]("sigmoid_focal", "labels", SigmoidFocal(2, 0.25))


def test_losses_of_elements_are_torchs() raises:
    check_elements[DType.float64]()
    check_elements[DType.float32]()


def test_focal_losses_have_their_golden_values() raises:
    # Of the specification, 5.7.
    var nothing: List[Float64] = []
    var logits: List[Float64] = [2, 0, -1, 0, 1, 0]
    var target: List[Int64] = [0, 2]
    var sum = Focal().evaluate(
        Span(logits), Span(target), Span(nothing), SerialExecutor()
    )
    assert_almost_equal(sum.total, 0.0041442573 + 0.9635031879, rtol=1e-9)
    assert_almost_equal(sum.mean(), sum.total / 2, rtol=1e-15)
    var preds: List[Float64] = [2, -1, 0.5]
    var labels: List[Float64] = [1, 0, 1]
    sum = evaluate(
        SigmoidFocal(2, 0.25),
        Span(preds),
        Span(labels),
        Span(nothing),
        SerialExecutor(),
    )
    assert_almost_equal(
        sum.total, 0.0004508907 + 0.0169935431 + 0.0168933726, rtol=1e-8
    )


def test_threads_change_nothing() raises:
    var rows = 500
    var classes = 300
    var logits: List[Float32] = []
    var target: List[Int64] = []
    for i in range(rows):
        target.append(Int64(i * 7 % classes))
        for j in range(classes):
            logits.append(Float32((i * 31 + j * 17) % 101) / 10)
    var alone = List[Float32](length=len(logits), fill=0)
    var shared = List[Float32](length=len(logits), fill=1)
    var loss = CrossEntropy(label_smoothing=0.1)
    var first = loss.evaluate(
        Span(logits), Span(target), Span(alone), SerialExecutor()
    )
    var second = loss.evaluate(
        Span(logits), Span(target), Span(shared), ParallelExecutor()
    )
    assert_equal(first.total, second.total)
    for i in range(len(logits)):
        assert_equal(alone[i], shared[i])
    first = evaluate(
        HuberLoss(1),
        Span(logits),
        Span(alone),
        Span(shared),
        SerialExecutor(),
    )
    var other = List[Float32](length=len(logits), fill=0)
    second = evaluate(
        HuberLoss(1),
        Span(logits),
        Span(alone),
        Span(other),
        ParallelExecutor(),
    )
    assert_equal(first.total, second.total)
    for i in range(len(logits)):
        assert_equal(other[i], shared[i])


def test_nothing_is_a_loss_of_nothing() raises:
    var nothing: List[Float32] = []
    var gradient: List[Float32] = []
    var none: List[Int64] = []
    var sum = CrossEntropy().evaluate(
        Span(nothing), Span(none), Span(gradient), SerialExecutor()
    )
    assert_equal(sum.mean(), 0)
    var logits: List[Float32] = [1, 2]
    var target: List[Int64] = [-100]
    sum = CrossEntropy().overwrite(Span(logits), Span(target), SerialExecutor())
    assert_equal(sum.mean(), 0)
    assert_equal(logits[0], 0)
    assert_equal(logits[1], 0)


def test_errors_name_what_is_wrong() raises:
    var logits: List[Float32] = [1, 2, 3, 4]
    var target: List[Int64] = [0, 2]
    var three: List[Int64] = [0, 1, 0]
    var nothing: List[Float32] = []
    var run = SerialExecutor()
    with assert_raises(
        contains="target[1] is 2, must be in [0, 2) or ignore_index=-100"
    ):
        _ = CrossEntropy().overwrite(Span(logits), Span(target), run)
    assert_equal(logits[0], 1)
    with assert_raises(contains="as many for each target, got 4 for 3"):
        _ = CrossEntropy().overwrite(Span(logits), Span(three), run)
    with assert_raises(contains="one for each of 2 classes, or none, got 1"):
        _ = CrossEntropy(weight=[1.0]).overwrite(
            Span(logits), Span(target), run
        )
    with assert_raises(contains="label_smoothing must be in [0, 1], got 2"):
        _ = CrossEntropy(label_smoothing=2).overwrite(
            Span(logits), Span(target), run
        )
    with assert_raises(contains="z_loss must be at least 0, got -1"):
        _ = CrossEntropy(z_loss=-1).overwrite(Span(logits), Span(target), run)
    with assert_raises(contains="gamma must be at least 0, got -1"):
        _ = Focal(gamma=-1).evaluate(
            Span(logits), Span(target), Span(nothing), run
        )
    var short: List[Float32] = [1]
    with assert_raises(contains="as long as the logits, 4, or empty, got 1"):
        _ = CrossEntropy().evaluate(
            Span(logits), Span(target), Span(short), run
        )
    with assert_raises(contains="target must be as long as preds, 4, got 1"):
        _ = evaluate(
            SquaredError(), Span(logits), Span(short), Span(nothing), run
        )
    var gradient: List[Float32] = [1]
    with assert_raises(contains="as long as preds, 4, or empty, got 1"):
        _ = evaluate(
            SquaredError(),
            Span(logits),
            Span(logits.copy()),
            Span(gradient),
            run,
        )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
