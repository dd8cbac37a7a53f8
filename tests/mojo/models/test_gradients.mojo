"""Gradients of models and losses against finite differences, in float64."""

from std.testing import TestSuite, assert_almost_equal, assert_true

from shared.training.models import (
    GELU,
    Activation,
    BinaryCrossEntropy,
    CrossEntropy,
    Dataset,
    Elementwise,
    Huber,
    HuberError,
    Layer,
    LeakyReLU,
    Linear,
    LogisticError,
    MeanSquaredError,
    Network,
    Objective,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    SquaredError,
    Tanh,
    TanhGELU,
)

comptime dtype = DType.float64
comptime SAMPLES = 11
comptime INPUTS = 10
comptime OUTPUTS = 3
comptime STEP = 1e-6


def make_data() raises -> Dataset[dtype]:
    var features: List[Float64] = []
    var labels: List[Int64] = []
    var values: List[Float64] = []
    for s in range(SAMPLES):
        for f in range(INPUTS):
            features.append(Float64((7 * s + 3 * f) % 13 - 6) / 4 + 0.01)
        for f in range(OUTPUTS):
            values.append(Float64((5 * s + f) % 4) / 3)
        labels.append(Int64(s % OUTPUTS))
    return Dataset[dtype](features^, SAMPLES, labels=labels^, values=values^)


def check_gradient[
    Model: Layer, Loss: Objective
](var model: Model, loss: Loss) raises:
    comptime assert Model.dtype == dtype, "differences need float64"
    var data = rebind_var[Dataset[Model.dtype]](make_data())
    # The batch is smaller than it may be, and no whole vector.
    var order: List[Int64] = [10, 2, 3, 0, 7, 1, 4]
    var network = Network(model^, batch_size=9, seed=3)
    _ = network.gradient(data, order, loss)
    for i in range(len(network.parameters)):
        var grad = network.parameters[i].grad.copy()
        for j in range(0, len(grad), 3):
            var kept = network.parameters[i].value[j]
            network.parameters[i].value[j] = kept + STEP
            var above = network.evaluate(data, order, loss).loss
            network.parameters[i].value[j] = kept - STEP
            var below = network.evaluate(data, order, loss).loss
            network.parameters[i].value[j] = kept
            var slope = (above - below) / (2 * STEP) / Float64(len(order))
            assert_almost_equal(
                grad[j].cast[DType.float64](), slope, atol=1e-8, rtol=1e-6
            )


def check_activation[Function: Activation](function: Function) raises:
    check_gradient(
        Sequential(
            (
                Linear[dtype](INPUTS, 9),
                Elementwise[dtype](9, function),
                Linear[dtype](9, OUTPUTS),
            )
        ),
        CrossEntropy(smoothing=0.1),
    )


def test_activations() raises:
    check_activation(ReLU())
    check_activation(LeakyReLU(0.2))
    check_activation(Tanh())
    check_activation(Sigmoid())
    check_activation(SiLU())
    check_activation(GELU())
    check_activation(TanhGELU())


def test_losses() raises:
    check_gradient(Linear[dtype](INPUTS, OUTPUTS), CrossEntropy())
    check_gradient(
        Linear[dtype](INPUTS, OUTPUTS), MeanSquaredError(SquaredError())
    )
    check_gradient(Linear[dtype](INPUTS, OUTPUTS), Huber(HuberError(0.4)))
    check_gradient(
        Linear[dtype](INPUTS, OUTPUTS), BinaryCrossEntropy(LogisticError())
    )


def test_shortcuts_and_nesting() raises:
    check_gradient(
        Sequential(
            (
                Linear[dtype](INPUTS, 6),
                Residual(
                    Sequential(
                        (
                            Elementwise[dtype](6, Tanh()),
                            Linear[dtype](6, 12),
                            Elementwise[dtype](12, SiLU()),
                            Linear[dtype](12, 6),
                        )
                    )
                ),
                Sequential(
                    (
                        Linear[dtype](6, OUTPUTS),
                        Elementwise[dtype](OUTPUTS, Tanh()),
                    )
                ),
            )
        ),
        MeanSquaredError(SquaredError()),
    )


def test_bad_data_are_named() raises:
    var network = Network(Linear[dtype](INPUTS, 2), batch_size=4)
    var data = make_data()
    var order: List[Int64] = [0, 1]
    var said = String("")
    try:
        _ = network.evaluate(data, order, CrossEntropy())
    except error:
        said = String(error)
    assert_true("labels[2] must be in [0, 2), got 2" in said, said)
    said = ""
    try:
        _ = network.evaluate(data, order, MeanSquaredError(SquaredError()))
    except error:
        said = String(error)
    assert_true("must have 2 values for each sample, got 33 for 11" in said)
    said = ""
    try:
        _ = Dataset[dtype]([1.0, 2.0, 3.0], 2)
    except error:
        said = String(error)
    assert_true("features must hold 2 samples of one size, got 3" in said)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
