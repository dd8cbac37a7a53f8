"""The training loop: its hooks, its shuffling, and what callbacks ask for."""

from std.testing import TestSuite, assert_equal, assert_true
from std.utils.numerics import isnan

from shared.training.callbacks import (
    Action,
    Callback,
    Callbacks,
    EarlyStopping,
    Progress,
)
from shared.training.loops import Batches, OfValues, Trainer
from shared.training.metrics import R2Score
from shared.training.models import (
    Dataset,
    Linear,
    MeanSquaredError,
    Network,
    SquaredError,
)
from shared.training.optimizers import SGD
from shared.training.schedulers import Constant, Scheduler

comptime dtype = DType.float64


@fieldwise_init
struct Recorder(Callback):
    """Writes down the hooks, and stops at a step."""

    var name: String
    var stop_at: Int
    var events: List[String]

    def on_train_begin(mut self, progress: Progress) raises -> Action:
        self.events.append("train")
        return Action()

    def on_epoch_begin(mut self, progress: Progress) raises -> Action:
        self.events.append(String("epoch ", progress.epoch))
        return Action()

    def on_batch_end(mut self, progress: Progress) raises -> Action:
        self.events.append(String("step ", progress.step))
        return Action(stops=progress.step == self.stop_at)

    def on_batch_begin(mut self, progress: Progress) raises -> Action:
        self.events.append(String("batch ", progress.batch))
        return Action()

    def on_validation_begin(mut self, progress: Progress) raises -> Action:
        self.events.append("validates")
        return Action()

    def on_validation_end(mut self, progress: Progress) raises -> Action:
        self.events.append("validated")
        return Action()

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        self.events.append("epoch ends")
        return Action()

    def on_train_end(mut self, progress: Progress) raises -> Action:
        self.events.append("train ends")
        return Action()


@fieldwise_init
struct MetricWatcher(Callback):
    """Writes down the metric of each epoch."""

    var seen: List[Float64]

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        self.seen.append(progress.val_metric)
        return Action()


comptime Line = Trainer[
    Linear[dtype], MeanSquaredError, SGD[], Scheduler[Constant]
]


def make_data(samples: Int) raises -> Dataset[dtype]:
    """Points of y = 3 x - 1."""
    var x: List[Float64] = []
    var y: List[Float64] = []
    for i in range(samples):
        x.append(Float64(i) / Float64(samples))
        y.append(3 * x[i] - 1)
    return Dataset[dtype](x^, samples, values=y^)


def make_trainer(lr: Float64) raises -> Line:
    return Line(
        Network(Linear[dtype](1, 1), batch_size=4, seed=1),
        MeanSquaredError(SquaredError()),
        SGD[](lr=lr),
        Scheduler(Constant(), base_lr=lr),
    )


def test_a_line_is_found() raises:
    var data = make_data(10)
    var trainer = make_trainer(0.3)
    var nobody = Callbacks(())
    trainer.train(data, data, nobody, epochs=200)
    ref parameters = trainer.network.parameters
    assert_true(abs(parameters[0].value[0] - 3) < 1e-6)
    assert_true(abs(parameters[1].value[0] + 1) < 1e-6)
    assert_equal(trainer.step, 600)
    assert_equal(len(trainer.history), 200)


def test_a_metric_is_measured_after_each_epoch() raises:
    var data = make_data(10)
    var validation = make_data(7)
    var trainer = make_trainer(0.1)
    var watcher = MetricWatcher([])
    var r2 = OfValues(R2Score())
    trainer.train(data, validation, watcher, r2, epochs=3)
    assert_equal(trainer.val_metrics, watcher.seen)
    # That of the last parameters alone: what it had counted before is forgotten.
    var fresh = OfValues(R2Score())
    _ = trainer.evaluate(validation, fresh)
    assert_equal(trainer.val_metrics[2], fresh.compute())
    assert_true(trainer.val_metrics[0] < trainer.val_metrics[2])
    var nobody = Callbacks(())
    trainer.train(data, validation, nobody, epochs=4)
    trainer.train(data, nobody, epochs=5)
    assert_equal(len(trainer.val_metrics), 5)
    assert_true(isnan(trainer.val_metrics[3]))
    assert_true(isnan(trainer.val_metrics[4]))


def test_epochs_are_updates_by_their_batches() raises:
    var data = make_data(10)
    var trainer = make_trainer(0.1)
    var nobody = Callbacks(())
    trainer.train(data, nobody, epochs=3, seed=7)
    var plain = make_trainer(0.1)
    var batches = Batches(10, 4, seed=7)
    for epoch in range(3):
        batches.begin_epoch(epoch)
        for index in range(batches.count()):
            _ = plain.network.gradient(data, batches.batch(index), plain.loss)
            plain.optimizer.step(plain.network.parameters)
    for i in range(2):
        assert_equal(
            trainer.network.parameters[i].value,
            plain.network.parameters[i].value,
        )


def test_hooks_are_called_in_order() raises:
    var data = make_data(10)
    var trainer = make_trainer(0.1)
    var watchers = Callbacks((Recorder("a", 5, []), Recorder("b", 0, [])))
    trainer.train(data, data, watchers, epochs=4)
    var expected: List[String] = [
        "train",
        "epoch 0",
        "batch 0",
        "step 1",
        "batch 1",
        "step 2",
        "batch 2",
        "step 3",
        "validates",
        "validated",
        "epoch ends",
        "epoch 1",
        "batch 0",
        "step 4",
        "batch 1",
        "step 5",
        "validates",
        "validated",
        "epoch ends",
        "train ends",
    ]
    assert_equal(watchers.items[0].events, expected)
    assert_equal(watchers.items[1].events, expected)


def test_early_stopping_puts_the_best_parameters_back() raises:
    var data = make_data(10)
    # Validation wants another line, so that training makes it worse from some epoch on.
    var other = make_data(10)
    for i in range(10):
        other.values[i] = 0.5 * other.values[i]
    var trainer = make_trainer(0.1)
    var watchers = Callbacks((EarlyStopping(3),))
    trainer.train(data, other, watchers, epochs=500)
    assert_true(watchers.items[0].is_stopped)
    assert_true(len(trainer.history) < 500)
    var best = watchers.items[0].best
    assert_equal(trainer.evaluate(other).loss, best)
    for i in range(len(trainer.val_history)):
        assert_true(trainer.val_history[i].loss >= best)


def test_batches_hold_each_sample_once() raises:
    var batches = Batches(10, 4, seed=5)
    assert_equal(batches.count(), 3)
    var orders: List[List[Int64]] = []
    for epoch in range(2):
        batches.begin_epoch(epoch)
        var seen: List[Int64] = []
        for index in range(3):
            var batch = batches.batch(index)
            assert_equal(len(batch), 4 if index < 2 else 2)
            for i in range(len(batch)):
                seen.append(batch[i])
        orders.append(seen.copy())
        sort(seen)
        for i in range(10):
            assert_equal(seen[i], Int64(i))
    assert_true(orders[0] != orders[1])
    # Orders depend on nothing that came before.
    var again = Batches(10, 4, seed=5)
    again.begin_epoch(1)
    assert_equal(again.order, orders[1])
    again = Batches(10, 4, seed=6)
    again.begin_epoch(1)
    assert_true(again.order != orders[1])


def test_a_loss_that_is_not_finite_ends_the_run() raises:
    var data = make_data(10)
    data.features[3] = FloatLiteral.nan
    var trainer = make_trainer(0.1)
    var nobody = Callbacks(())
    var said = String("")
    try:
        trainer.train(data, data, nobody, epochs=1)
    except error:
        said = String(error)
    assert_true("the loss is nan after " in said, said)
    assert_true(
        trainer.network.parameters[0].value[0]
        == trainer.network.parameters[0].value[0]
    )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
