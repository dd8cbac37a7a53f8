"""Callbacks by themselves: what they ask for, what they write, what they go on from."""

from std.pathlib import Path
from std.testing import TestSuite, assert_equal, assert_raises, assert_true
from std.utils.numerics import inf, nan

from shared.training.callbacks import (
    Action,
    Callback,
    Callbacks,
    Checkpointing,
    EarlyStopping,
    LogMetrics,
    PrintEpochs,
    Progress,
)

from folder import Folder

comptime NAN = nan[DType.float64]()


def progress_at(
    epoch: Int,
    *,
    epochs: Int = 10,
    loss: Float64 = 0.5,
    accuracy: Float64 = NAN,
    val_loss: Float64 = NAN,
    val_accuracy: Float64 = NAN,
    val_metric: Float64 = NAN,
) -> Progress:
    """Where a run with 3 updates an epoch is at an epoch's end."""
    return Progress(
        epoch=epoch,
        epochs=epochs,
        step=3 * epoch + 3,
        batch=2,
        loss=loss,
        accuracy=accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        val_metric=val_metric,
        learning_rate=0.25,
    )


@fieldwise_init
struct Asks(Callback):
    """Asks for something after each epoch."""

    var action: Action

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        return self.action.copy()


def test_actions_are_joined() raises:
    var watchers = Callbacks(
        (
            Asks(Action(saves=["a"])),
            Asks(Action(stops=True, saves=["b", "c"])),
            Asks(Action(keeps=True)),
        )
    )
    var action = watchers.on_epoch_end(progress_at(0))
    assert_true(action.stops)
    assert_true(action.keeps)
    assert_true(not action.restores)
    # The last callback is called first.
    assert_equal(action.saves, ["b", "c", "a"])


def test_files_are_due_every_few_epochs_and_at_the_end() raises:
    var callback = Checkpointing("last", every=4)
    var due: List[Int] = []
    for epoch in range(10):
        assert_equal(
            len(callback.on_validation_end(progress_at(epoch)).saves), 0
        )
        var saves = callback.on_epoch_end(progress_at(epoch)).saves.copy()
        if len(saves) > 0:
            assert_equal(saves, ["last"])
            due.append(epoch)
    assert_equal(due, [3, 7, 9])


def test_the_best_epoch_has_a_file_of_its_own() raises:
    var callback = Checkpointing("", best_path="best")
    var saved: List[Int] = []
    var losses = [0.5, 0.4, 0.4, NAN, 0.45, 0.1]
    for epoch in range(6):
        var now = progress_at(epoch, val_loss=losses[epoch])
        assert_equal(len(callback.on_epoch_end(now).saves), 0)
        if callback.on_validation_end(now).saves == ["best"]:
            saved.append(epoch)
    assert_equal(saved, [0, 1, 5])


def test_states_go_to_the_callback_they_are_of() raises:
    comptime All = Callbacks[
        EarlyStopping, Callbacks[Checkpointing, EarlyStopping], PrintEpochs
    ]

    def make() raises -> All:
        return All(
            (
                EarlyStopping(3),
                Callbacks(
                    (Checkpointing("", best_path="best"), EarlyStopping(1))
                ),
                PrintEpochs(),
            )
        )

    var first = make()
    for loss in [0.123456789012345678, 0.5]:
        _ = first.on_validation_end(progress_at(0, val_loss=loss))
    var second = make()
    second.load_state_dict(first.state_dict())
    assert_equal(second.items[0].best, 0.123456789012345678)
    assert_equal(second.items[0].stale, 1)
    assert_true(not second.items[0].is_stopped)
    assert_equal(second.items[1].items[0].best, 0.123456789012345678)
    assert_true(second.items[1].items[1].is_stopped)
    assert_true(second.on_train_begin(progress_at(0)).stops)
    assert_equal(second.state_dict(), first.state_dict())
    # Before any validation there is a best loss as well.
    second.load_state_dict(make().state_dict())
    assert_equal(second.items[0].best, Float64.MAX)
    with assert_raises(contains="the state has no line best="):
        second.load_state_dict("")


def test_each_epoch_is_a_line_of_json() raises:
    with Folder() as folder:
        var path = folder + "/log.jsonl"
        var callback = LogMetrics(path)
        with open(path, "w") as file:
            file.write("of another run")
        _ = callback.on_train_begin(
            Progress(0, 10, 0, 0, NAN, NAN, NAN, NAN, NAN, 0.25)
        )
        _ = callback.on_epoch_end(progress_at(0))
        _ = callback.on_epoch_end(
            progress_at(
                1,
                loss=inf[DType.float64](),
                accuracy=0.75,
                val_loss=1e-7,
                val_accuracy=1,
                val_metric=0.5,
            )
        )
        var first = (
            '{"step": 3, "epoch": 1, "loss": 0.5, "learning_rate": 0.25}\n'
        )
        var second = (
            '{"step": 6, "epoch": 2, "loss": "inf", "accuracy": 0.75,'
            ' "val_loss": 1e-07, "val_accuracy": 1.0,'
            ' "val_metric": 0.5, "learning_rate": 0.25}\n'
        )
        assert_equal(Path(path).read_text(), first + second)
        # The run goes on behind the first epoch; the last line was torn.
        with open(path, "a") as file:
            file.write('{"step": 9')
        _ = callback.on_train_begin(progress_at(0))
        assert_equal(Path(path).read_text(), first)
        _ = callback.on_epoch_end(progress_at(1, loss=0.25))
        assert_true(
            Path(path).read_text().startswith(first + '{"step": 6, "epoch": 2,')
        )
        with open(path, "w") as file:
            file.write("step,loss\n3,0.5\n")
        with assert_raises(
            contains='must have lines that begin with {"step": , got step,loss'
        ):
            _ = callback.on_train_begin(progress_at(0))
        assert_equal(Path(path).read_text(), "step,loss\n3,0.5\n")


def test_wrong_numbers_are_named() raises:
    with assert_raises(contains="every must be at least 1, got 0"):
        _ = Checkpointing("a", every=0)
    with assert_raises(contains="every must be at least 1, got -1"):
        _ = PrintEpochs(every=-1)
    with assert_raises(contains="patience must be at least 1, got 0"):
        _ = EarlyStopping(0)
    with assert_raises(contains="min_delta must be at least 0, got nan"):
        _ = EarlyStopping(1, min_delta=NAN)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
