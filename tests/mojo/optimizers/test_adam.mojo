"""Adam and AdamW against plain arithmetic, torch's digits and their own claims."""

from std.math import sqrt
from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_true,
)
from std.utils.numerics import isnan, nan

from shared.training.core import Scalars, UpdateRule
from shared.training.optimizers import Adam, AdamW, Optimizer
from shared.training.optimizers.adam import bias_correction

from reference import (
    AdamReference,
    check_against_reference,
    check_golden,
    minimum,
    one_parameter,
)


def path[
    Rule: UpdateRule, //
](rule: Rule, grads: List[Float64]) raises -> List[Float64]:
    """Steps one element from 1 and lists where it was."""
    var parameters = one_parameter[DType.float64]([1])
    var optimizer = Optimizer[Rule, DType.float64](rule)
    var values: List[Float64] = []
    for grad in grads:
        parameters[0].grad[0] = grad
        optimizer.step(parameters)
        values.append(parameters[0].value[0])
    return values^


def test_golden() raises:
    check_golden(
        AdamW(lr=0.1, weight_decay=0.1),
        [0.9310261059536681, -1.937432384063396],
    )
    check_golden(
        Adam(lr=0.1, weight_decay=0.1),
        [0.9333758560393912, -1.9202859345704393],
    )


def test_adam_agrees_with_plain_arithmetic() raises:
    check_against_reference(Adam(), AdamReference())
    check_against_reference(
        Adam(lr=0.05, beta1=0.3, beta2=0.95, eps=1e-3, weight_decay=0.1),
        AdamReference(
            lr=0.05, beta1=0.3, beta2=0.95, eps=1e-3, weight_decay=0.1
        ),
    )
    check_against_reference(
        Adam(lr=0.01, maximize=True), AdamReference(lr=0.01, maximize=True)
    )
    check_against_reference(Adam(beta1=0), AdamReference(beta1=0))


def test_amsgrad_agrees_with_plain_arithmetic() raises:
    check_against_reference(
        Adam[amsgrad=True](lr=0.05, beta2=0.6, weight_decay=0.1),
        AdamReference(lr=0.05, beta2=0.6, weight_decay=0.1, amsgrad=True),
    )
    check_against_reference(
        AdamW[amsgrad=True](lr=0.05, beta2=0.6),
        AdamReference(
            lr=0.05,
            beta2=0.6,
            weight_decay=0.01,
            amsgrad=True,
            decoupled=True,
        ),
    )


def test_adamw_agrees_with_plain_arithmetic() raises:
    check_against_reference(
        AdamW(lr=0.05),
        AdamReference(lr=0.05, weight_decay=0.01, decoupled=True),
    )
    check_against_reference(
        AdamW(lr=0.05, weight_decay=0.3, maximize=True),
        AdamReference(lr=0.05, weight_decay=0.3, decoupled=True, maximize=True),
    )


def test_float32_and_bfloat16_round_the_same_steps() raises:
    # Twelve steps of a few roundings each: of 24 bits, and of 8 in memory.
    check_against_reference[dtype=DType.float32](
        AdamW(lr=0.05),
        AdamReference(lr=0.05, weight_decay=0.01, decoupled=True),
        tolerance=2e-6,
    )
    check_against_reference[dtype=DType.bfloat16](
        AdamW(lr=0.05),
        AdamReference(lr=0.05, weight_decay=0.01, decoupled=True),
        tolerance=0.05,
    )


def test_adam_converges() raises:
    assert_true(minimum(Adam(lr=0.05), 400) < 1e-5)
    assert_true(minimum(AdamW(lr=0.05, weight_decay=0), 400) < 1e-5)
    assert_true(minimum(AdamW[amsgrad=True](lr=0.1), 400) < 1e-3)
    assert_true(minimum[dtype=DType.bfloat16](AdamW(lr=0.05), 400) < 1e-2)


def test_the_first_step_is_as_long_as_the_learning_rate() raises:
    # Each moment, corrected, is the gradient itself, whatever its size.
    var sizes: List[Float64] = [1e-3, 1, 1e6]
    for grad in sizes:
        var down = path(Adam(lr=0.1, eps=0), [grad])
        assert_almost_equal(down[0], 0.9, atol=1e-15, rtol=0)
        var up = path(Adam(lr=0.1, eps=0), [-grad])
        assert_almost_equal(up[0], 1.1, atol=1e-15, rtol=0)


def test_decoupled_weight_decay_leaves_the_moments_alone() raises:
    # Without a gradient AdamW only shrinks, while Adam takes its whole step.
    var shrunk = path(AdamW(lr=0.1, weight_decay=0.5), [Float64(0), 0])
    assert_almost_equal(shrunk[1], 0.95 * 0.95, atol=1e-15, rtol=0)
    var stepped = path(Adam(lr=0.1, weight_decay=0.5), [Float64(0)])
    assert_almost_equal(stepped[0], 0.9, atol=1e-8)


def test_without_weight_decay_adamw_is_adam() raises:
    var grads: List[Float64] = [0.5, -2, 0.1, 3]
    assert_equal(
        path(AdamW(lr=0.1, weight_decay=0), grads), path(Adam(lr=0.1), grads)
    )


def test_maximize_turns_the_gradient_around() raises:
    var up: List[Float64] = [0.5, -2, 0.1, 3]
    var down = [-grad for grad in up]
    assert_equal(
        path(Adam(lr=0.1, maximize=True), up), path(Adam(lr=0.1), down)
    )


def test_amsgrad_remembers_the_largest_moment() raises:
    # After one large gradient Adam's steps grow again; AMSGrad's do not.
    var grads: List[Float64] = [100, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    var plain = path(Adam(lr=0.1, beta1=0, beta2=0.1), grads)
    var amsgrad = path(Adam[amsgrad=True](lr=0.1, beta1=0, beta2=0.1), grads)
    assert_equal(plain[0], amsgrad[0])
    assert_almost_equal(plain[10] - plain[11], 0.1, atol=1e-3)
    var last_step = amsgrad[10] - amsgrad[11]
    assert_true(last_step > 0 and last_step < 2e-3)


def check_largest[width: Int](nan_from_the_right_stays: Bool) raises:
    comptime Lanes = SIMD[DType.float32, width]
    var scalars = Scalars(fill=0)
    var update = Adam[amsgrad=True](lr=0.1).at_step(1, scalars)
    # Whether a NaN gradient is remembered in the largest moment.
    var param = Lanes(1)
    var state = Array[Lanes, 3](fill=Lanes(0))
    update.apply[DType.float32, width](
        param, Lanes(nan[DType.float32]()), state
    )
    assert_true(isnan(state[1][0]))
    assert_equal(isnan(state[2][0]), nan_from_the_right_stays)
    # A NaN that is already there stays.
    state = Array[Lanes, 3](fill=Lanes(0))
    state[2] = Lanes(nan[DType.float32]())
    param = Lanes(1)
    update.apply[DType.float32, width](param, Lanes(1), state)
    assert_true(isnan(state[2][0]))
    assert_true(isnan(param[0]))


def test_a_nan_moment_is_kept_as_torch_keeps_it() raises:
    check_largest[8](True)
    check_largest[1](False)


def test_bias_correction_is_accurate() raises:
    assert_equal(bias_correction(0, 1), 1)
    assert_almost_equal(bias_correction(0.9, 1), 0.1, atol=3e-17, rtol=0)
    # The float64 nearest to the exact value.
    assert_almost_equal(
        bias_correction(0.999, 1000), 0.6323045752290363, atol=2e-16, rtol=0
    )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
