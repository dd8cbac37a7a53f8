"""Updates of several batches, of clipped gradients, and those that are refused."""

from std.math import sqrt
from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_raises,
    assert_true,
)

from shared.training.callbacks import Action, Callback, Callbacks, Progress
from shared.training.loops import Trainer, TrainingStep, gradient_norm
from shared.training.models import (
    Dataset,
    Elementwise,
    Linear,
    MeanSquaredError,
    Network,
    Sequential,
    SquaredError,
    Tanh,
)
from shared.training.optimizers import SGD, AdamW, Optimizer, Parameter
from shared.training.schedulers import Constant, Scheduler

comptime dtype = DType.float64
comptime Model = Sequential[
    Linear[dtype], Elementwise[dtype, Tanh], Linear[dtype]
]
comptime Run = Trainer[Model, MeanSquaredError, SGD[], Scheduler[Constant]]

comptime SAMPLES = 23
"""Not a multiple of any batch size below."""


def make_data() raises -> Dataset[dtype]:
    var x: List[Float64] = []
    var y: List[Float64] = []
    for i in range(SAMPLES):
        for j in range(3):
            x.append(Float64((5 * i + 7 * j) % 13) / 13 - 0.5)
        y.append(2 * x[3 * i] - x[3 * i + 1] * x[3 * i + 2])
    return Dataset[dtype](x^, SAMPLES, values=y^)


def make_run(
    *, batch_size: Int, accumulation: Int = 1, max_norm: Float64 = 1e300
) raises -> Run:
    return Run(
        Network(
            Sequential(
                (
                    Linear[dtype](3, 5),
                    Elementwise[dtype](5, Tanh()),
                    Linear[dtype](5, 1),
                )
            ),
            batch_size=batch_size,
            seed=1,
        ),
        MeanSquaredError(SquaredError()),
        SGD[](lr=0.1),
        Scheduler(Constant(), base_lr=0.1),
        accumulation=accumulation,
        max_norm=max_norm,
    )


def test_accumulated_batches_are_one_large_batch() raises:
    var data = make_data()
    var nobody = Callbacks(())
    # 23 samples: windows of 6 and a rest of 5; of 15 and 8; everything at once.
    for case_ in [(6, 2, 3), (6, 3, 2), (6, 6, 1), (15, 5, 3), (23, 4, 6)]:
        var large = make_run(batch_size=case_[0])
        large.train(data, nobody, epochs=3)
        var small = make_run(batch_size=case_[1], accumulation=case_[2])
        small.train(data, nobody, epochs=3)
        assert_equal(small.step, large.step)
        for i in range(4):
            for j in range(len(large.network.parameters[i].value)):
                assert_almost_equal(
                    small.network.parameters[i].value[j],
                    large.network.parameters[i].value[j],
                    atol=1e-14,
                    rtol=1e-12,
                )
        for i in range(3):
            assert_almost_equal(
                small.history[i].loss, large.history[i].loss, rtol=1e-12
            )


@fieldwise_init
struct Steps(Callback):
    """Writes down the step after each batch, and stops or fails at one."""

    var stop_at: Int
    var steps: List[Int]

    def on_batch_end(mut self, progress: Progress) raises -> Action:
        if self.stop_at < 0 and progress.batch == 1:
            raise Error("broken off")
        self.steps.append(progress.step)
        return Action(stops=len(self.steps) == self.stop_at)


def test_a_run_ends_with_a_whole_update() raises:
    var data = make_data()
    var run = make_run(batch_size=4, accumulation=4)
    var watcher = Steps(0, [])
    run.train(data, watcher, epochs=1)
    assert_equal(watcher.steps, [0, 0, 0, 1, 1, 2])
    run = make_run(batch_size=4, accumulation=4)
    watcher = Steps(2, [])
    run.train(data, watcher, epochs=1)
    assert_equal(watcher.steps, [0, 0, 0, 1])


def test_clipping_is_torchs() raises:
    var data = make_data()
    var nobody = Callbacks(())
    var order = [Int64(i) for i in range(SAMPLES)]
    var first = make_run(batch_size=SAMPLES)
    _ = first.network.gradient(data, order, first.loss)
    var norm = gradient_norm(first.network.parameters)
    for part in [0.01, 0.9, 100.0]:
        var max_norm = part * norm
        var run = make_run(batch_size=SAMPLES, max_norm=max_norm)
        var plain = make_run(batch_size=SAMPLES)
        for step in range(3):
            _ = plain.network.gradient(data, order, plain.loss)
            ref parameters = plain.network.parameters
            var sum = Float64(0)
            for i in range(4):
                for j in range(len(parameters[i].grad)):
                    sum += parameters[i].grad[j] * parameters[i].grad[j]
            assert_almost_equal(
                gradient_norm(parameters), sqrt(sum), rtol=1e-14
            )
            var factor = min(1.0, max_norm / (sqrt(sum) + 1e-6))
            if step == 0:
                assert_equal(factor < 1, part < 1)
            for i in range(4):
                for j in range(len(parameters[i].grad)):
                    parameters[i].value[j] -= (
                        0.1 * factor * parameters[i].grad[j]
                    )
            run.train(data, nobody, epochs=step + 1)
            for i in range(4):
                for j in range(len(parameters[i].grad)):
                    # Samples are summed in another order.
                    assert_almost_equal(
                        run.network.parameters[i].value[j],
                        parameters[i].value[j],
                        atol=1e-14,
                        rtol=1e-12,
                    )


def test_a_gradient_that_is_not_finite_updates_nothing() raises:
    for bad in [
        FloatLiteral.nan,
        FloatLiteral.infinity,
        -FloatLiteral.infinity,
    ]:
        for place in [0, 8, 10]:
            var parameters: List[Parameter[dtype]] = []
            parameters.append(Parameter(List[Float64](length=11, fill=1)))
            parameters[0].grad[place] = Float64(bad)
            var step = TrainingStep[dtype]()
            var optimizer = Optimizer[AdamW[], dtype](AdamW(lr=0.1))
            with assert_raises(contains="the norm of the gradient is "):
                step.apply(parameters, optimizer)
            assert_equal(parameters[0].value, List[Float64](length=11, fill=1))


def test_a_gradient_beyond_float32_ends_the_run() raises:
    # The loss is finite, its gradient is not.
    var data = Dataset[DType.float32]([Float32(3e38)], 1, values=[Float32(-9)])
    var run = Trainer(
        Network(Linear[DType.float32](1, 1), batch_size=1),
        MeanSquaredError(SquaredError()),
        SGD[](lr=0.1),
        Scheduler(Constant(), base_lr=0.1),
    )
    run.network.parameters[0].value[0] = 0
    run.network.parameters[1].value[0] = 0
    var nobody = Callbacks(())
    with assert_raises(
        contains=(
            "the norm of the gradient is inf after 0 updates; the parameters are"
            " those before it"
        )
    ):
        run.train(data, nobody, epochs=1)
    assert_equal(run.network.parameters[0].value[0], 0)
    assert_equal(run.step, 0)


def test_a_lost_window_does_not_count_later() raises:
    var data = make_data()
    var broken = make_data()
    broken.values[5] = FloatLiteral.nan
    var nobody = Callbacks(())
    var run = make_run(batch_size=4, accumulation=6)
    with assert_raises(contains="the loss is nan after 0 updates"):
        run.train(broken, nobody, epochs=1)
    var breaks = Steps(-1, [])
    with assert_raises(contains="broken off"):
        run.train(data, breaks, epochs=1)
    run.train(data, nobody, epochs=1)
    var whole = make_run(batch_size=4, accumulation=6)
    whole.train(data, nobody, epochs=1)
    for i in range(4):
        assert_equal(
            run.network.parameters[i].value, whole.network.parameters[i].value
        )


def test_wrong_numbers_are_named() raises:
    with assert_raises(contains="accumulation must be at least 1, got 0"):
        _ = TrainingStep[dtype](accumulation=0)
    with assert_raises(contains="max_norm must be above 0, got 0.0"):
        _ = TrainingStep[dtype](max_norm=0)
    with assert_raises(contains="max_norm must be above 0, got nan"):
        _ = TrainingStep[dtype](max_norm=FloatLiteral.nan)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
