"""SGD against plain arithmetic, torch's digits and its own claims."""

from std.memory import bitcast
from std.testing import TestSuite, assert_equal, assert_true

from shared.training.core import UpdateRule
from shared.training.optimizers import SGD, Optimizer

from reference import (
    SGDReference,
    check_against_reference,
    check_golden,
    minimum,
    one_parameter,
)


def path[
    Rule: UpdateRule, //
](rule: Rule, grads: List[Float64]) raises -> List[Float64]:
    """Steps one element from 0 and lists where it was."""
    var parameters = one_parameter[DType.float64]([0])
    var optimizer = Optimizer[Rule, DType.float64](rule)
    var values: List[Float64] = []
    for grad in grads:
        parameters[0].grad[0] = grad
        optimizer.step(parameters)
        values.append(parameters[0].value[0])
    return values^


def test_golden() raises:
    check_golden(
        SGD[momentum=True, nesterov=True](
            lr=0.1, momentum_decay=0.9, weight_decay=0.1
        ),
        [1.0024486460000002, -1.9779127345000003],
    )


def test_sgd_agrees_with_plain_arithmetic() raises:
    check_against_reference(SGD(), SGDReference())
    check_against_reference(
        SGD(lr=0.1, weight_decay=0.2, maximize=True),
        SGDReference(lr=0.1, weight_decay=0.2, maximize=True),
    )


def test_momentum_agrees_with_plain_arithmetic() raises:
    check_against_reference(
        SGD[momentum=True](lr=0.01), SGDReference(lr=0.01, momentum=0.9)
    )
    check_against_reference(
        SGD[momentum=True](
            lr=0.01, momentum_decay=0.7, dampening=0.4, weight_decay=0.2
        ),
        SGDReference(lr=0.01, momentum=0.7, dampening=0.4, weight_decay=0.2),
    )


def test_nesterov_agrees_with_plain_arithmetic() raises:
    check_against_reference(
        SGD[momentum=True, nesterov=True](
            lr=0.01, momentum_decay=0.7, weight_decay=0.2, maximize=True
        ),
        SGDReference(
            lr=0.01,
            momentum=0.7,
            weight_decay=0.2,
            nesterov=True,
            maximize=True,
        ),
    )


def test_float32_and_bfloat16_round_the_same_steps() raises:
    # Twelve steps of a few roundings each: of 24 bits, and of 8 in memory.
    check_against_reference[dtype=DType.float32](
        SGD[momentum=True](lr=0.01),
        SGDReference(lr=0.01, momentum=0.9),
        tolerance=2e-6,
    )
    check_against_reference[dtype=DType.bfloat16](
        SGD[momentum=True](lr=0.01),
        SGDReference(lr=0.01, momentum=0.9),
        tolerance=0.02,
    )


def test_sgd_converges() raises:
    assert_true(minimum(SGD(lr=0.5), 1000) < 1e-8)
    assert_true(minimum(SGD[momentum=True](lr=0.1), 1000) < 1e-8)
    assert_true(minimum(SGD[momentum=True, nesterov=True](lr=0.1), 1000) < 1e-8)


def test_a_step_is_the_gradient_times_the_learning_rate() raises:
    assert_equal(path(SGD(lr=0.5), [Float64(1), -4]), [Float64(-0.5), 1.5])


def test_the_first_gradient_enters_the_buffer_whole() raises:
    # Buffers: 1, then 0.5 * 1 + (1 - 0.75) * 1.
    assert_equal(
        path(
            SGD[momentum=True](lr=1, momentum_decay=0.5, dampening=0.75),
            [Float64(1), 1],
        ),
        [Float64(-1), -1.75],
    )


def test_nesterov_looks_one_step_ahead() raises:
    # Buffers: 1, 1.5; steps: 1 + 0.5 * 1, then 1 + 0.5 * 1.5.
    assert_equal(
        path(
            SGD[momentum=True, nesterov=True](lr=1, momentum_decay=0.5),
            [Float64(1), 1],
        ),
        [Float64(-1.5), -3.25],
    )


def test_maximize_turns_the_gradient_around() raises:
    var up: List[Float64] = [0.5, -2, 0.1, 3]
    var down = [-grad for grad in up]
    assert_equal(
        path(SGD[momentum=True](lr=0.1, maximize=True), up),
        path(SGD[momentum=True](lr=0.1), down),
    )


def test_the_first_gradient_keeps_the_sign_of_its_zero() raises:
    # Torch copies the first gradient; in a sum with +0.0 its sign would go, and
    # with it that of the parameter: -0.0 - lr * -0.0 is +0.0.
    var parameters = one_parameter[DType.float32](
        List[Float32](length=20, fill=-0.0)
    )
    for i in range(20):
        parameters[0].grad[i] = -0.0
    var optimizer = Optimizer(SGD[momentum=True](lr=0.1))
    optimizer.step(parameters)
    for i in range(20):
        assert_equal(
            bitcast[DType.uint32, 1](parameters[0].value[i]), UInt32(0)
        )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
