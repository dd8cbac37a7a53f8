"""Runs that go on from a file have the bits of runs that were never cut off."""

from std.testing import TestSuite, assert_equal, assert_raises, assert_true

from shared.training.callbacks import (
    Callback,
    Callbacks,
    Checkpointing,
    EarlyStopping,
)
from shared.training.checkpoint import TensorFile, read_file
from shared.training.core import UpdateRule
from shared.training.loops import OfClasses, Trainer
from shared.training.metrics import Recall
from shared.training.models import (
    BatchNorm,
    CrossEntropy,
    Dataset,
    Dropout,
    Elementwise,
    Linear,
    Network,
    Sequential,
    Tanh,
)
from shared.training.optimizers import SGD, AdamW, NAdam, Prodigy
from shared.training.schedulers import Cosine, Scheduler

from folder import Folder

comptime dtype = DType.float32
comptime Model = Sequential[
    Linear[dtype], Elementwise[dtype, Tanh], Linear[dtype]
]
comptime Run[Rule: UpdateRule] = Trainer[
    Model, CrossEntropy, Rule, Scheduler[Cosine]
]


def make_data(samples: Int, shift: Float64 = 0) raises -> Dataset[dtype]:
    """Points of a spiral with three arms, some with another's class."""
    var x: List[Float32] = []
    var labels: List[Int64] = []
    for i in range(samples):
        x.append(Float32((7 * i % 23) - 11) / 11)
        x.append(Float32((5 * i % 19) - 9) / 9 + Float32(shift))
        labels.append(Int64((i + Int(x[2 * i] > 0)) % 3))
    return Dataset[dtype](x^, samples, labels=labels^)


def make_run[
    Rule: UpdateRule
](rule: Rule, *, seed: Int = 1, hidden: Int = 6) raises -> Run[Rule]:
    return Run[Rule](
        Network(
            Sequential(
                (
                    Linear[dtype](2, hidden),
                    Elementwise[dtype](hidden, Tanh()),
                    Linear[dtype](hidden, 3),
                )
            ),
            batch_size=8,
            seed=seed,
        ),
        CrossEntropy(),
        rule,
        Scheduler(Cosine(40), base_lr=0.02),
        accumulation=2,
        max_norm=0.5,
    )


def assert_same[Rule: UpdateRule](left: Run[Rule], right: Run[Rule]) raises:
    for i in range(4):
        assert_equal(
            left.network.parameters[i].value, right.network.parameters[i].value
        )
    assert_equal(left.step, right.step)
    assert_equal(left.epoch, right.epoch)
    assert_equal(len(left.history), len(right.history))
    for i in range(len(left.history)):
        assert_equal(left.history[i].loss, right.history[i].loss)
        assert_equal(left.history[i].accuracy, right.history[i].accuracy)
        assert_equal(left.val_history[i].loss, right.val_history[i].loss)
        # As text, for NaN is not NaN.
        assert_equal(String(left.val_metrics[i]), String(right.val_metrics[i]))


def check_resuming[Rule: UpdateRule](rule: Rule) raises:
    var data = make_data(45)
    var validation = make_data(20, 0.1)
    var whole = make_run(rule)
    var nobody = Callbacks(())
    var recall = OfClasses(Recall["macro"](3))
    whole.train(data, validation, nobody, recall, epochs=6, seed=3)
    with Folder() as folder:
        var path = folder + "/run.safetensors"
        var half = make_run(rule)
        half.train(data, validation, nobody, recall, epochs=3, seed=3)
        half.save(path)
        # Another seed: all numbers come from the file.
        var rest = make_run(rule, seed=9)
        rest.load(path)
        assert_same(half, rest)
        rest.train(data, validation, nobody, recall, epochs=6, seed=3)
        assert_same(whole, rest)
        # What is written does not depend on where the run was cut.
        whole.save(folder + "/whole")
        rest.save(folder + "/rest")
        assert_equal(read_file(folder + "/whole"), read_file(folder + "/rest"))


def test_resumed_runs_have_the_bits_of_whole_ones() raises:
    check_resuming(AdamW(lr=0.02))
    check_resuming(SGD[momentum=True](lr=0.02))
    # One that changes its own hyperparameters, and one with a state of one element.
    check_resuming(Prodigy())
    check_resuming(NAdam(lr=0.02))


comptime Normed = Sequential[
    Linear[dtype], BatchNorm[dtype], Dropout[dtype], Linear[dtype]
]


def make_normed(
    seed: Int,
) raises -> Trainer[Normed, CrossEntropy, AdamW[], Scheduler[Cosine]]:
    return Trainer[Normed, CrossEntropy, AdamW[], Scheduler[Cosine]](
        Network(
            Sequential(
                (
                    Linear[dtype](2, 9),
                    BatchNorm[dtype](9),
                    Dropout[dtype](9, 0.25, 0),
                    Linear[dtype](9, 3),
                )
            ),
            batch_size=8,
            seed=seed,
        ),
        CrossEntropy(),
        AdamW(lr=0.1),
        Scheduler(Cosine(60), base_lr=0.1),
    )


def test_running_statistics_and_masks_go_on() raises:
    var data = make_data(45)
    var validation = make_data(20, 2)
    with Folder() as folder:
        var path = folder + "/run"
        var whole = make_normed(1)
        var watchers = Callbacks((EarlyStopping(99),))
        whole.train(data, validation, watchers, epochs=8)
        assert_equal(whole.evaluate(validation).loss, watchers.items[0].best)
        var half = make_normed(1)
        var first = Callbacks((EarlyStopping(99), Checkpointing(path)))
        half.train(data, validation, first, epochs=4)
        var rest = make_normed(7)
        var again = Callbacks((EarlyStopping(99), Checkpointing("")))
        rest.load(path, again)
        rest.train(data, validation, again, epochs=8)
        for i in range(len(whole.network.parameters)):
            assert_equal(
                whole.network.parameters[i].value,
                rest.network.parameters[i].value,
            )
        assert_equal(whole.network.buffers[0], rest.network.buffers[0])
        assert_equal(whole.network.buffers[1], rest.network.buffers[1])
        for epoch in range(8):
            assert_equal(whole.history[epoch].loss, rest.history[epoch].loss)
            assert_equal(
                whole.val_history[epoch].loss, rest.val_history[epoch].loss
            )
        var file = TensorFile.load(path)
        assert_equal(file.entry("model.1.running_mean").shape, [9])
        assert_equal(file.entry("model.1.running_var").shape, [9])
        assert_equal(file.entry("model.1.weight").shape, [9])


def test_a_run_is_saved_before_its_first_epoch() raises:
    with Folder() as folder:
        var path = folder + "/run"
        var data = make_data(45)
        var nobody = Callbacks(())
        var first = make_run(AdamW(lr=0.02))
        first.save(path)
        var second = make_run(AdamW(lr=0.02), seed=2)
        second.load(path)
        first.train(data, nobody, epochs=2)
        second.train(data, nobody, epochs=2)
        for i in range(4):
            assert_equal(
                first.network.parameters[i].value,
                second.network.parameters[i].value,
            )


def test_callbacks_go_on_too() raises:
    var data = make_data(45)
    # Validation gets worse soon, and the run ends between two files.
    var validation = make_data(20, 2)
    with Folder() as folder:
        var last = folder + "/last"
        var best = folder + "/best"
        var whole = make_run(AdamW(lr=0.1))
        var watchers = Callbacks(
            (EarlyStopping(4), Checkpointing(last, every=3, best_path=best))
        )
        whole.train(data, validation, watchers, epochs=60)
        assert_true(watchers.items[0].is_stopped)
        assert_true(5 < whole.epoch < 60, String(whole.epoch))
        assert_true(whole.epoch % 3 != 0 or whole.epoch > 6)
        var expected = whole.evaluate(validation).loss
        assert_equal(expected, watchers.items[0].best)
        assert_equal(expected, watchers.items[1].best)
        # The file of the best epoch has the parameters that were put back.
        var kept = make_run(AdamW(lr=0.1))
        kept.load(best)
        assert_equal(kept.evaluate(validation).loss, expected)
        for i in range(4):
            assert_equal(
                kept.network.parameters[i].value,
                whole.network.parameters[i].value,
            )
        # The last file is of an epoch before the end; the rest is the same.
        var again = Callbacks(
            (EarlyStopping(4), Checkpointing(last, every=3, best_path=best))
        )
        var rest = make_run(AdamW(lr=0.1), seed=5)
        rest.load(last, again)
        assert_equal(rest.epoch, whole.epoch // 3 * 3)
        rest.train(data, validation, again, epochs=60)
        assert_same(whole, rest)
        assert_equal(again.items[0].best, watchers.items[0].best)
        assert_equal(again.items[0].stale, watchers.items[0].stale)
        # A run that was ended stays so.
        whole.save(folder + "/ended", watchers)
        var ended = make_run(AdamW(lr=0.1))
        ended.load(folder + "/ended", again)
        ended.train(data, validation, again, epochs=60)
        assert_same(whole, ended)


def test_a_run_that_was_lost_at_its_end_ends_alike() raises:
    var data = make_data(45)
    var validation = make_data(20, 2)
    with Folder() as folder:
        var path = folder + "/run"
        var watchers = Callbacks((EarlyStopping(99), Checkpointing(path)))
        var whole = make_run(AdamW(lr=0.1))
        whole.train(data, validation, watchers, epochs=30)
        # The file is of the last epoch; the best parameters were put back since.
        var rest = make_run(AdamW(lr=0.1), seed=5)
        rest.load(path, watchers)
        assert_equal(rest.epoch, 30)
        assert_true(
            rest.network.parameters[0].value
            != whole.network.parameters[0].value
        )
        rest.train(data, validation, watchers, epochs=30)
        assert_same(whole, rest)


def test_a_finished_run_stays_as_it_is() raises:
    var data = make_data(45)
    var nobody = Callbacks(())
    var run = make_run(AdamW(lr=0.02))
    run.train(data, nobody, epochs=2)
    var step = run.step
    run.train(data, nobody, epochs=2)
    assert_equal(run.step, step)
    run.train(data, nobody, epochs=3)
    assert_equal(run.step, step // 2 * 3)


def test_names_are_those_of_torch() raises:
    with Folder() as folder:
        var path = folder + "/run"
        make_run(AdamW(lr=0.02)).save(path)
        var file = TensorFile.load(path)
        assert_equal(file.entry("model.0.weight").shape, [6, 2])
        assert_equal(file.entry("model.0.bias").shape, [6])
        assert_equal(file.entry("model.2.weight").shape, [3, 6])
        assert_equal(file.entry("model.2.bias").shape, [3])
        assert_equal(file.string("step"), "0")


def refusal[
    Rule: UpdateRule
](path: String, rule: Rule, *, hidden: Int = 6) raises -> String:
    """What loading says; the parameters must be as they were."""
    var run = make_run(rule, hidden=hidden)
    var before = run.network.parameters[0].value.copy()
    var said = String()
    try:
        run.load(path)
    except error:
        said = String(error)
    assert_equal(run.network.parameters[0].value, before)
    assert_equal(run.epoch, 0)
    return said


def test_files_of_other_runs_are_refused() raises:
    with Folder() as folder:
        var path = folder + "/run"
        var run = make_run(AdamW(lr=0.02), seed=4)
        var nobody = Callbacks(())
        run.train(make_data(45), nobody, epochs=1)
        run.save(path)
        var start = String("cannot go on from ", path, ": ")
        assert_equal(
            refusal(path, AdamW(lr=0.02), hidden=7),
            start + "tensor 'model.0.weight' must be F32 [7,2], got F32 [6,2]",
        )
        assert_true(
            "its optimizer is shared.training.optimizers.adam.Adam"
            in refusal(path, SGD(lr=0.1))
        )
        var file = TensorFile.load(path)
        file.header.metadata["step"] = "-3"
        file.save(path)
        assert_equal(
            refusal(path, AdamW(lr=0.02)),
            start + "its step must be a whole number, got '-3'",
        )
        file.header.metadata["step"] = "3"
        file.header.metadata["version"] = "9"
        file.save(path)
        assert_equal(
            refusal(path, AdamW(lr=0.02)), start + "its version is 9, not 1"
        )
        file.header.metadata["version"] = "1"
        file.header.metadata["scheduler"] = "steps=1\n"
        file.save(path)
        assert_equal(
            refusal(path, AdamW(lr=0.02)),
            start + "the state has no line version=...",
        )
        TensorFile().save(path)
        assert_equal(
            refusal(path, AdamW(lr=0.02)),
            start + "the metadata have no 'version'",
        )
        with open(path, "w") as garbage:
            garbage.write("garbage")
        assert_true("cannot read " in refusal(path, AdamW(lr=0.02)))
        assert_true("cannot read " in refusal(path + "x", AdamW(lr=0.02)))
        with assert_raises(contains="cannot write nowhere/run: "):
            run.save("nowhere/run")


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
