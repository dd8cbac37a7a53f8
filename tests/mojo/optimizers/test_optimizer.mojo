"""The optimizer: its state, its steps over several parameters, its errors."""

from std.testing import TestSuite, assert_equal, assert_raises, assert_true

from shared.training.core import Executor, SerialExecutor
from shared.training.core.parallel_executor import ParallelExecutor
from shared.training.optimizers import SGD, AdamW, Optimizer, Parameter

from reference import gradient, one_parameter


def zeros(length: Int) -> Parameter[]:
    return Parameter(List[Float32](length=length, fill=0))


def fill_gradients(mut parameters: List[Parameter[]], step: Int):
    for t in range(len(parameters)):
        for i in range(len(parameters[t].grad)):
            parameters[t].grad[i] = Float32(gradient(i + t, step))


def trained[
    Runner: Executor
](executor: Runner, lengths: List[Int]) raises -> List[List[Float32]]:
    """Takes three steps of AdamW and gives the parameters."""
    var parameters: List[Parameter[]] = []
    for length in lengths:
        parameters.append(zeros(length))
    var optimizer = Optimizer[AdamW[], DType.float32, Runner](
        AdamW(lr=0.1), executor
    )
    for step in range(3):
        fill_gradients(parameters, step)
        optimizer.step(parameters)
    var values: List[List[Float32]] = []
    for t in range(len(parameters)):
        values.append(parameters[t].value.copy())
    return values^


def test_a_parameter_starts_with_a_gradient_of_zeros() raises:
    var parameter = Parameter([Float32(3), 4])
    assert_equal(parameter.value, [Float32(3), 4])
    assert_equal(parameter.grad, [Float32(0), 0])


def test_each_parameter_keeps_its_own_state() raises:
    var lengths: List[Int] = [5, 0, 300, 1]
    var together = trained(SerialExecutor(), lengths)
    # The gradients depend on the place in the list, so 300 stays third.
    var alone = trained(SerialExecutor(), [0, 0, 300])
    assert_equal(together[2], alone[2])
    assert_equal(together[0], trained(SerialExecutor(), [5])[0])
    assert_equal(len(together[1]), 0)
    assert_true(together[3][0] != 0)


def test_threads_give_the_bits_of_one_thread() raises:
    var lengths: List[Int] = [30_001, 7, 0, 300, 20_000]
    assert_equal(
        trained(ParallelExecutor(), lengths), trained(SerialExecutor(), lengths)
    )


def test_parameters_may_move_between_steps() raises:
    var parameters = one_parameter[DType.float32]([0, 0])
    var optimizer = Optimizer(SGD[momentum=True](lr=1, momentum_decay=0.5))
    parameters[0].grad = [1, 2]
    optimizer.step(parameters)
    # New lists, and so new addresses; the buffer stays.
    parameters[0].value = [10, 20]
    parameters[0].grad = [1, 2]
    optimizer.step(parameters)
    assert_equal(parameters[0].value, [Float32(8.5), 17])


def test_the_rule_may_change_between_steps() raises:
    var parameters = one_parameter[DType.float32]([0])
    var optimizer = Optimizer(SGD(lr=1))
    parameters[0].grad[0] = 1
    optimizer.step(parameters)
    optimizer.rule.lr = 0.25
    optimizer.step(parameters)
    assert_equal(parameters[0].value[0], -1.25)


def test_another_number_of_parameters_is_refused() raises:
    var parameters = one_parameter[DType.float32]([0])
    var optimizer = Optimizer(AdamW())
    optimizer.step(parameters)
    parameters.append(zeros(2))
    with assert_raises(
        contains="parameters must be the 1 of the first step, got 2"
    ):
        optimizer.step(parameters)


def test_another_length_is_refused() raises:
    var parameters: List[Parameter[]] = []
    parameters.append(zeros(1))
    parameters.append(zeros(2))
    var optimizer = Optimizer(AdamW())
    optimizer.step(parameters)
    parameters[1] = zeros(3)
    with assert_raises(
        contains="parameters[1].value must keep its 2 elements, got 3"
    ):
        optimizer.step(parameters)


def test_a_gradient_of_another_length_is_refused() raises:
    var parameters: List[Parameter[]] = []
    parameters.append(zeros(1))
    parameters.append(zeros(4))
    parameters[1].grad = [1, 2, 3]
    var optimizer = Optimizer(AdamW())
    with assert_raises(
        contains="parameters[1].grad must have 4 elements like its value, got 3"
    ):
        optimizer.step(parameters)


def test_a_refused_step_changes_nothing() raises:
    var parameters: List[Parameter[]] = []
    parameters.append(zeros(3))
    parameters.append(zeros(4))
    fill_gradients(parameters, 0)
    var optimizer = Optimizer(AdamW(lr=0.1))
    for _ in range(2):
        var grad = parameters[1].grad.copy()
        parameters[1].grad = []
        with assert_raises():
            optimizer.step(parameters)
        assert_equal(parameters[0].value, [Float32(0), 0, 0])
        parameters[1].grad = grad^
    # Had a refused step counted, the corrections of the first would be wrong.
    for step in range(3):
        fill_gradients(parameters, step)
        optimizer.step(parameters)
    var expected = trained(SerialExecutor(), [3, 4])
    assert_equal(parameters[0].value, expected[0])
    assert_equal(parameters[1].value, expected[1])


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
