"""Muon's momentum against plain arithmetic."""

from std.testing import TestSuite, assert_equal

from shared.training.core import lerp
from shared.training.optimizers import MuonMomentum, Optimizer

from reference import one_parameter


def test_buffers_are_means_of_gradients() raises:
    var buffers = one_parameter[DType.float64]([0])
    var optimizer = Optimizer[_, DType.float64](
        MuonMomentum[nesterov=False](momentum=0.75)
    )
    buffers[0].grad[0] = 8
    optimizer.step(buffers)
    assert_equal(buffers[0].value[0], 2)
    buffers[0].grad[0] = -2
    optimizer.step(buffers)
    # A quarter of the way from 2 to -2.
    assert_equal(buffers[0].value[0], 1)


def test_nesterov_looks_one_step_ahead() raises:
    var buffers = one_parameter[DType.float64]([0])
    var optimizer = Optimizer[_, DType.float64](MuonMomentum(momentum=0.75))
    buffers[0].grad[0] = 8
    optimizer.step(buffers)
    assert_equal(buffers[0].value[0], 2)
    # Three quarters of the way from 8 to 2.
    assert_equal(optimizer._state[0][0], 3.5)
    buffers[0].grad[0] = -2
    optimizer.step(buffers)
    assert_equal(buffers[0].value[0], 1)
    assert_equal(optimizer._state[0][0], 0.25)


def test_what_was_beside_the_buffer_does_not_matter() raises:
    var buffers = one_parameter[DType.float32](
        List[Float32](length=37, fill=0.5)
    )
    var optimizer = Optimizer(MuonMomentum(momentum=0.9))
    optimizer._create_state(buffers)
    for i in range(37):
        optimizer._state[0][i] = Float32(1) / Float32(0)
        buffers[0].grad[i] = Float32(i)
    optimizer.step(buffers)
    for i in range(37):
        var buffer = lerp[DType.float32, 1](0.5, Float32(i), 0.1)
        assert_equal(buffers[0].value[i], buffer)
        assert_equal(
            optimizer._state[0][i],
            lerp[DType.float32, 1](Float32(i), buffer, 0.9),
        )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
