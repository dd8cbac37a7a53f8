"""LAMB against the twin's digits and its own claims."""

from std.math import sqrt
from std.testing import TestSuite, assert_almost_equal, assert_equal

from shared.training.core.parallel_executor import ParallelExecutor
from shared.training.optimizers import LAMB, Optimizer, Parameter
from shared.training.optimizers.lamb import trust_ratio

from reference import check_five_steps, gradient, one_parameter


def test_golden() raises:
    check_five_steps(
        LAMB(lr=0.1, weight_decay=0.1),
        [0.63937469678719, -1.855727929477475, 0.38747848148155256],
    )


def test_trust_ratio() raises:
    assert_equal(trust_ratio(9, 4), 1.5)
    assert_equal(trust_ratio(0, 4), 1)
    assert_equal(trust_ratio(9, 0), 1)


def check_length_of_a_step[
    dtype: DType
](length: Int, tolerance: Float64) raises:
    var parameters = one_parameter[dtype](
        [Scalar[dtype](gradient(i, 1) + 3) for i in range(length)]
    )
    var optimizer = Optimizer[LAMB, dtype](LAMB(lr=0.25))
    for step in range(3):
        var before = parameters[0].value.copy()
        for i in range(length):
            parameters[0].grad[i] = Scalar[dtype](gradient(i, step))
        optimizer.step(parameters)
        var old = 0.0
        var moved = 0.0
        for i in range(length):
            old += Float64(before[i]) ** 2
            moved += Float64(parameters[0].value[i] - before[i]) ** 2
        assert_almost_equal(
            sqrt(moved) / sqrt(old), 0.25, atol=tolerance, rtol=0
        )


def test_a_step_is_as_long_as_the_rate_asks() raises:
    for length in [1, 7, 8, 9, 255, 256, 257, 3000]:
        check_length_of_a_step[DType.float64](length, 1e-14)
        check_length_of_a_step[DType.float32](length, 1e-6)
        check_length_of_a_step[DType.bfloat16](length, 1e-2)


def test_a_parameter_of_zeros_moves() raises:
    var parameters = one_parameter[DType.float64]([0, 0])
    parameters[0].grad = [2, -3]
    var optimizer = Optimizer[LAMB, DType.float64](LAMB(lr=0.5, eps=0))
    optimizer.step(parameters)
    assert_almost_equal(parameters[0].value[0], -0.5, atol=1e-15, rtol=0)
    assert_almost_equal(parameters[0].value[1], 0.5, atol=1e-15, rtol=0)


def trained(in_parallel: Bool) raises -> List[Float32]:
    var parameters: List[Parameter[]] = []
    parameters.append(Parameter([Float32(1) for _ in range(100_003)]))
    parameters.append(Parameter([Float32(2) for _ in range(300)]))
    var serial = Optimizer(LAMB(lr=0.1))
    var parallel = Optimizer(LAMB(lr=0.1), ParallelExecutor())
    for step in range(3):
        for t in range(2):
            for i in range(len(parameters[t].grad)):
                parameters[t].grad[i] = Float32(gradient(i, step))
        if in_parallel:
            parallel.step(parameters)
        else:
            serial.step(parameters)
    return parameters[0].value.copy() + parameters[1].value.copy()


def test_threads_give_the_bits_of_one_thread() raises:
    assert_equal(trained(True), trained(False))


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
