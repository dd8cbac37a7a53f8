"""What RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam, Rprop and ASGD claim.

`test_golden` compares their digits with torch's.
"""

from std.math import sqrt
from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_true,
)

from shared.training.core import Scalars, UpdateRule
from shared.training.optimizers import (
    ASGD,
    Adadelta,
    Adagrad,
    Adamax,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from reference import minimum, one_parameter


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


def assert_near(got: List[Float64], expected: List[Float64]) raises:
    """Allows some roundings of numbers near 1."""
    assert_equal(len(got), len(expected))
    for i in range(len(got)):
        assert_almost_equal(
            got[i], expected[i], String(t"after step {i + 1}"), atol=1e-14
        )


def check_turned_around[
    Rule: UpdateRule, //
](minimizing: Rule, maximizing: Rule) raises:
    """Compares a rule with its twin that sees all gradients negated."""
    var up: List[Float64] = [0.5, -2, 0.1, 3]
    var down = [-grad for grad in up]
    assert_equal(path(maximizing, up), path(minimizing, down))
    assert_true(path(maximizing, up) != path(minimizing, up))


def test_maximize_turns_the_gradient_around() raises:
    check_turned_around(RMSprop(), RMSprop(maximize=True))
    check_turned_around(Adagrad(), Adagrad(maximize=True))
    check_turned_around(Adadelta(), Adadelta(maximize=True))
    check_turned_around(Adamax(), Adamax(maximize=True))
    check_turned_around(NAdam(), NAdam(maximize=True))
    check_turned_around(RAdam(), RAdam(maximize=True))
    check_turned_around(Rprop(), Rprop(maximize=True))
    check_turned_around(ASGD(), ASGD(maximize=True))


def test_they_converge() raises:
    assert_true(minimum(RMSprop(lr=1e-3), 2000) < 1e-4)
    assert_true(minimum(RMSprop[momentum=True](lr=1e-4), 2000) < 1e-4)
    assert_true(minimum(RMSprop[centered=True](lr=1e-3), 2000) < 1e-4)
    assert_true(minimum(Adagrad(lr=0.5), 400) < 1e-4)
    assert_true(minimum(Adadelta(), 4000) < 1e-2)
    assert_true(minimum(Adamax(lr=0.05), 400) < 1e-4)
    assert_true(minimum(NAdam(lr=0.05), 400) < 1e-4)
    assert_true(minimum(RAdam(lr=0.05), 400) < 1e-4)
    assert_true(minimum(Rprop(lr=0.05), 400) < 1e-4)
    assert_true(minimum(ASGD(lr=0.2), 2000) < 1e-2)
    assert_true(minimum[dtype=DType.bfloat16](NAdam(lr=0.05), 400) < 1e-2)


def test_rmsprop_divides_by_the_root_of_the_mean_square() raises:
    # Mean squares: 0.5 * 4, then 0.5 * 2 + 0.5 * 16.
    assert_near(
        path(RMSprop(lr=1, alpha=0.5, eps=0), [Float64(2), 4]),
        [-2 / sqrt(2.0), -2 / sqrt(2.0) - 4 / 3.0],
    )


def test_centered_rmsprop_divides_by_the_deviation() raises:
    # Mean 0.5 * 2 and mean square 0.5 * 4, so that the variance is 1.
    assert_near(
        path(RMSprop[centered=True](lr=1, alpha=0.5, eps=0), [Float64(2)]),
        [Float64(-2)],
    )


def test_rmsprop_with_momentum_adds_up_quotients() raises:
    # With alpha = 0 each quotient is the gradient's sign.
    assert_near(
        path(
            RMSprop[momentum=True](lr=1, alpha=0, eps=0, momentum_decay=0.5),
            [Float64(3), 7, -2],
        ),
        [Float64(-1), -2.5, -2.25],
    )


def test_adagrad_divides_by_the_root_of_the_sum_of_squares() raises:
    # Sums: 9, then 25.
    assert_near(path(Adagrad(lr=1), [Float64(3), 4]), [Float64(-1), -1.8])


def test_adagrad_starts_where_it_is_told_and_slows_down() raises:
    # Sums 16 + 9 and 25 + 11; the second step is divided by 1 + 0.5.
    assert_near(
        path(
            Adagrad(lr=1, initial_accumulator_value=16, lr_decay=0.5),
            [Float64(3), sqrt(11.0)],
        ),
        [-0.6, -0.6 - sqrt(11.0) / 9],
    )


def test_adadelta_takes_the_first_step_by_epsilon() raises:
    # Both averages start at 0: sqrt(eps) / sqrt(rho' g^2 + eps) g.
    assert_near(path(Adadelta(rho=0.5, eps=0.5), [Float64(1)]), [-sqrt(0.5)])
    # The average of the updates grows by it: 0.5 * 0.5 joins the next root.
    assert_near(
        path(Adadelta(rho=0.5, eps=0.5), [Float64(1), 1]),
        [-sqrt(0.5), -sqrt(0.5) - sqrt(0.75) / sqrt(1.25)],
    )


def test_adamax_divides_by_the_decaying_largest_gradient() raises:
    # Norms: 4, then max(0.5 * 4, 1) = 2; without a first moment's memory.
    assert_near(
        path(Adamax(lr=1, beta1=0, beta2=0.5, eps=0), [Float64(4), 1]),
        [Float64(-1), -1.5],
    )


def test_nadam_keeps_the_product_of_its_momenta() raises:
    # Without momentum decay each momentum is beta1 / 2.
    var scalars = Scalars(fill=1)
    var rule = NAdam(beta1=0.5, momentum_decay=0)
    assert_equal(rule.initial_scalar(0), 1)
    for step in range(1, 4):
        _ = rule.at_step(Float64(step), scalars)
        assert_equal(scalars[0], Float32(0.25) ** step)


def test_radam_is_rectified_from_the_sixth_step() raises:
    var scalars = Scalars(fill=0)
    for step in range(1, 20):
        var update = RAdam().at_step(Float64(step), scalars)
        assert_equal(update.rectification != 0, step > 5)
    # Its second moment never gets long enough a memory.
    assert_equal(RAdam(beta2=0.5).at_step(1000, scalars).rectification, 0)


def test_unrectified_radam_is_momentum() raises:
    # The first moment, corrected, is the gradient.
    assert_near(path(RAdam(lr=0.5), [Float64(-3)]), [Float64(1.5)])


def test_decoupled_weight_decay_only_shrinks() raises:
    # Where the gradient is 0, and its moments with it.
    var parameters = one_parameter[DType.float64]([1])
    var nadam = Optimizer[dtype=DType.float64](
        NAdam(lr=0.1, weight_decay=0.5, decoupled=True)
    )
    nadam.step(parameters)
    assert_equal(parameters[0].value[0], 0.95)
    var radam = Optimizer[dtype=DType.float64](
        RAdam(lr=0.1, weight_decay=0.5, decoupled=True)
    )
    radam.step(parameters)
    assert_equal(parameters[0].value[0], Float64(0.95) * 0.95)


def test_rprop_grows_and_shrinks_its_steps_within_bounds() raises:
    # Steps: 1, 2, 3 (bounded); after the turn it rests, then takes 1.5.
    var rule = Rprop(lr=1, etaminus=0.5, etaplus=2, step_size_max=3)
    assert_near(
        path(rule, [Float64(5), 0.1, 7, -2, -2, -2]),
        [Float64(-1), -3, -6, -6, -4.5, -1.5],
    )
    # The least step bounds what shrinks, too.
    rule.step_size_min = 0.75
    assert_near(path(rule, [Float64(5), -5, -5]), [Float64(-1), -1, -0.25])


def test_asgd_decays_its_rate_and_averages_from_t0_on() raises:
    var rule = ASGD(lr=1, lambd=0.5, alpha=1, t0=1)
    var scalars = Scalars(fill=0)
    for s in range(2):
        scalars[s] = rule.initial_scalar(s)
    # eta after step t is 1 / (1 + t / 2), and mu 1 / max(1, t - 1).
    var averaging: List[Float64] = []
    for step in range(1, 5):
        averaging.append(rule.at_step(Float64(step), scalars).mu)
        var eta = Float32(1 / (1 + Float64(step) / 2))
        assert_equal(scalars[0], eta)
    assert_near(averaging, [Float64(1), 1, 1, 0.5])
    # p = (1 - eta / 2) p - eta g, from 0: -1, then -2/3 - 2/3.
    var values = path(rule, [Float64(1), 1])
    assert_almost_equal(values[0], -1, atol=1e-14)
    assert_almost_equal(values[1], -4 / 3.0, atol=1e-7)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
