"""Passes without training: losses, metrics, outputs."""

from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_raises,
    assert_true,
)
from std.utils.numerics import isnan

from shared.training.loops import OfClasses, OfValues, evaluate, predict
from shared.training.metrics import Accuracy, MeanSquaredError, Recall
from shared.training.models import (
    CrossEntropy,
    Dataset,
    Linear,
    Network,
    PointObjective,
    SquaredError,
)

comptime dtype = DType.float64
comptime SAMPLES = 11


def make_network(outputs: Int) raises -> Network[Linear[dtype]]:
    return Network(Linear[dtype](2, outputs), batch_size=4, seed=3)


def make_data() raises -> Dataset[dtype]:
    var x: List[Float64] = []
    var labels: List[Int64] = []
    var values: List[Float64] = []
    for i in range(SAMPLES):
        x.append(Float64((5 * i) % 7) - 3)
        x.append(Float64((3 * i) % 5) - 2)
        labels.append(Int64(i % 3))
        for j in range(3):
            values.append(Float64((i + j) % 4))
    return Dataset[dtype](x^, SAMPLES, labels=labels^, values=values^)


def plain_outputs(
    network: Network[Linear[dtype]], data: Dataset[dtype]
) -> List[Float64]:
    var result: List[Float64] = []
    ref weight = network.parameters[0].value
    ref bias = network.parameters[1].value
    for i in range(data.samples):
        for j in range(len(bias)):
            result.append(
                bias[j]
                + weight[2 * j] * data.features[2 * i]
                + weight[2 * j + 1] * data.features[2 * i + 1]
            )
    return result^


def test_outputs_are_those_of_each_sample() raises:
    var network = make_network(3)
    var data = make_data()
    var outputs = predict(network, data)
    var expected = plain_outputs(network, data)
    assert_equal(len(outputs), 3 * SAMPLES)
    for i in range(len(outputs)):
        assert_almost_equal(outputs[i], expected[i], rtol=1e-13)


def test_metrics_count_every_sample_once() raises:
    var network = make_network(3)
    var data = make_data()
    var expected = plain_outputs(network, data)
    var accuracy = OfClasses(Accuracy[](3))
    var found = evaluate(network, CrossEntropy(), data, accuracy)
    assert_equal(accuracy.compute(), found.accuracy)
    assert_equal(found.loss, evaluate(network, CrossEntropy(), data).loss)
    var recall = OfClasses(Recall["macro"](3))
    _ = evaluate(network, CrossEntropy(), data, recall)
    var of_classes = [0.0, 0.0, 0.0]
    var counts = [0.0, 0.0, 0.0]
    for i in range(SAMPLES):
        var best = 0
        for j in range(3):
            if expected[3 * i + j] > expected[3 * i + best]:
                best = j
        counts[i % 3] += 1
        of_classes[i % 3] += Float64(Int(best == i % 3))
    var mean = Float64(0)
    for c in range(3):
        mean += of_classes[c] / counts[c] / 3
    assert_almost_equal(recall.compute(), mean, rtol=1e-14)


def test_metrics_of_numbers_see_all_of_a_sample() raises:
    var network = make_network(3)
    var data = make_data()
    var loss = PointObjective(SquaredError())
    var metric = OfValues(MeanSquaredError())
    var found = evaluate(network, loss, data, metric)
    assert_almost_equal(metric.compute(), found.loss, rtol=1e-12)
    # Again, on top; and once more from nothing.
    _ = evaluate(network, loss, data, metric)
    assert_almost_equal(metric.compute(), found.loss, rtol=1e-12)
    metric.reset()
    with assert_raises():
        _ = metric.compute()


def test_data_without_classes_have_no_accuracy() raises:
    var network = make_network(1)
    var data = Dataset[dtype]([1, 2, 3, 4], 2, values=[1, 2])
    var found = evaluate(network, PointObjective(SquaredError()), data)
    assert_true(isnan(found.accuracy))
    var metric = OfClasses(Accuracy[](3))
    with assert_raises(contains="the data must have a label for each sample"):
        _ = evaluate(network, PointObjective(SquaredError()), data, metric)


def test_data_with_other_values_are_refused() raises:
    var network = make_network(3)
    var data = make_data()
    data.values.shrink(SAMPLES)
    var metric = OfValues(MeanSquaredError())
    with assert_raises(
        contains="the data must have 3 values for each sample, got 11 for 11"
    ):
        _ = evaluate(network, CrossEntropy(), data, metric)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
