"""Gradients of models and losses against finite differences, in float64."""

from std.testing import TestSuite, assert_almost_equal, assert_true

from shared.training.models import (
    GELU,
    Activation,
    AvgPool2d,
    BatchNorm,
    BinaryCrossEntropy,
    Conv2d,
    CrossEntropy,
    Dataset,
    Dropout,
    Elementwise,
    Embedding,
    Huber,
    HuberError,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogisticError,
    MaxPool2d,
    MeanSquaredError,
    Network,
    Objective,
    Poisson,
    PoissonError,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    SquaredError,
    Tanh,
    TanhGELU,
    Window,
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
    check_gradient_of(model^, loss, make_data(), False)


def check_gradient_of[
    Model: Layer, Loss: Objective
](
    var model: Model,
    loss: Loss,
    var numbers: Dataset[dtype],
    in_training: Bool,
) raises:
    comptime assert Model.dtype == dtype, "differences need float64"
    var data = rebind_var[Dataset[Model.dtype]](numbers^)
    # The batch is smaller than it may be, and no whole vector.
    var order: List[Int64] = [10, 2, 3, 0, 7, 1, 4]
    var network = Network(model^, batch_size=9, seed=3)
    for i in range(len(network.parameters)):
        # Measuring in training writes gradients, too.
        _ = network.gradient(data, order, loss)
        var grad = network.parameters[i].grad.copy()
        for j in range(0, len(grad), 3):
            var kept = network.parameters[i].value[j]
            network.parameters[i].value[j] = kept + STEP
            var above = measure(network, data, order, loss, in_training)
            network.parameters[i].value[j] = kept - STEP
            var below = measure(network, data, order, loss, in_training)
            network.parameters[i].value[j] = kept
            var slope = (above - below) / (2 * STEP) / Float64(len(order))
            assert_almost_equal(
                grad[j].cast[DType.float64](), slope, atol=1e-8, rtol=1e-6
            )


def measure[
    Model: Layer, Loss: Objective
](
    mut network: Network[Model],
    data: Dataset[Model.dtype],
    order: List[Int64],
    loss: Loss,
    in_training: Bool,
) raises -> Float64:
    # The same step has the same dropout.
    if in_training:
        return network.gradient(data, order, loss).loss
    return network.evaluate(data, order, loss).loss


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
    check_gradient(Linear[dtype](INPUTS, OUTPUTS), Poisson(PoissonError()))


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


def test_norms() raises:
    check_gradient(
        Sequential(
            (
                Linear[dtype](INPUTS, 7),
                LayerNorm[dtype](7, 0.01),
                Elementwise[dtype](7, Tanh()),
                Linear[dtype](7, OUTPUTS),
            )
        ),
        CrossEntropy(),
    )
    check_gradient_of(
        Sequential(
            (
                Linear[dtype](INPUTS, 8),
                BatchNorm[dtype](4, 2),
                Elementwise[dtype](8, Tanh()),
                BatchNorm[dtype](8),
                Linear[dtype](8, OUTPUTS),
            )
        ),
        CrossEntropy(),
        make_data(),
        True,
    )


def test_running_statistics_begin_and_move_as_torchs() raises:
    var data = make_data()
    var order: List[Int64] = [10, 2, 3, 0, 7, 1, 4]
    var network = Network(
        Sequential((BatchNorm[dtype](INPUTS), Linear[dtype](INPUTS, OUTPUTS))),
        batch_size=9,
    )
    assert_true(network.parameters[0].value[3] == 1)
    assert_true(network.parameters[1].value[3] == 0)
    assert_true(network.buffers[0][3] == 0 and network.buffers[1][3] == 1)
    _ = network.gradient(data, order, CrossEntropy())
    var mean = Float64(0)
    for s in order:
        mean += data.features[Int(s) * INPUTS + 3] / 7
    var variance = Float64(0)
    for s in order:
        variance += (data.features[Int(s) * INPUTS + 3] - mean) ** 2 / 6
    assert_almost_equal(network.buffers[0][3], 0.1 * mean)
    assert_almost_equal(network.buffers[1][3], 0.9 + 0.1 * variance)


def test_dropout() raises:
    check_gradient_of(
        Sequential(
            (
                Linear[dtype](INPUTS, 13),
                Dropout[dtype](13, 0.4, 0),
                Elementwise[dtype](13, SiLU()),
                Dropout[dtype](13, 0.2, 1),
                Linear[dtype](13, OUTPUTS),
            )
        ),
        CrossEntropy(),
        make_data(),
        True,
    )


def test_embedding() raises:
    var features: List[Float64] = []
    var labels: List[Int64] = []
    for s in range(SAMPLES):
        for t in range(4):
            features.append(Float64((5 * s + 3 * t) % 6))
        labels.append(Int64(s % OUTPUTS))
    var data = Dataset[dtype](features^, SAMPLES, labels=labels^)
    check_gradient_of(
        Sequential(
            (
                Embedding[dtype](4, 6, 3),
                Elementwise[dtype](12, Tanh()),
                Linear[dtype](12, OUTPUTS),
            )
        ),
        CrossEntropy(),
        data.copy(),
        False,
    )
    var order: List[Int64] = [0, 1, 2, 3, 4, 5]
    var network = Network(
        Sequential((Embedding[dtype](4, 6, 3, 2), Linear[dtype](12, OUTPUTS))),
        batch_size=6,
    )
    _ = network.gradient(data, order, CrossEntropy())
    for d in range(3):
        assert_true(network.parameters[0].value[6 + d] == 0)
        assert_true(network.parameters[0].grad[6 + d] == 0)
        assert_true(network.parameters[0].grad[3 + d] != 0)
        assert_true(network.parameters[0].value[3 + d] != 0)


def make_images(height: Int, width: Int) raises -> Dataset[dtype]:
    var features: List[Float64] = []
    var labels: List[Int64] = []
    for s in range(SAMPLES):
        for f in range(2 * height * width):
            features.append(Float64((7 * s + 5 * f) % 23 - 11) / 8)
        labels.append(Int64(s % OUTPUTS))
    return Dataset[dtype](features^, SAMPLES, labels=labels^)


def test_convolution() raises:
    var first = Window(2, 5, 6, kernel=3, padding=1)
    var second = Window(5, 5, 6, kernel=2, stride=2)
    check_gradient_of(
        Sequential(
            (
                Conv2d[dtype](first, 5),
                Elementwise[dtype](5 * 30, Tanh()),
                Conv2d[dtype](second, 9),
                Linear[dtype](9 * 6, OUTPUTS),
            )
        ),
        CrossEntropy(),
        make_images(5, 6),
        False,
    )


def test_pooling() raises:
    var conv = Window(2, 6, 5, kernel=1)
    var pool = Window(3, 6, 5, kernel=3, stride=2, padding=1)
    check_gradient_of(
        Sequential(
            (
                Conv2d[dtype](conv, 3),
                MaxPool2d[dtype](pool),
                Linear[dtype](3 * 9, OUTPUTS),
            )
        ),
        CrossEntropy(),
        make_images(6, 5),
        False,
    )
    for counts_padding in [True, False]:
        check_gradient_of(
            Sequential(
                (
                    Conv2d[dtype](conv, 3),
                    AvgPool2d[dtype](pool, counts_padding),
                    Linear[dtype](3 * 9, OUTPUTS),
                )
            ),
            CrossEntropy(),
            make_images(6, 5),
            False,
        )


def test_bad_data_are_named() raises:
    var network = Network(Linear[dtype](INPUTS, 2), batch_size=4)
    var data = make_data()
    var order: List[Int64] = [0, 2]
    var said = String("")
    try:
        _ = network.evaluate(data, order, CrossEntropy())
    except error:
        said = String(error)
    assert_true("labels[2] must be in [0, 2), got 2" in said, said)
    for sample in [-1, 11]:
        order[1] = Int64(sample)
        said = ""
        try:
            _ = network.gradient(data, order, CrossEntropy())
        except error:
            said = String(error)
        assert_true(
            String("order must hold numbers in [0, 11), got ", sample) in said,
            said,
        )
    order[1] = 1
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
