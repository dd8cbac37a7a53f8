"""Prodigy against the twin's digits and its own claims."""

from std.testing import TestSuite, assert_equal, assert_true

from shared.training.optimizers import Optimizer, Parameter, Prodigy

from reference import check_five_steps, minimum, one_parameter


def test_golden() raises:
    check_five_steps(
        Prodigy(d0=0.01, weight_decay=0.1),
        [0.9431245146570915, -1.9893093795646168, 0.4541514588200061],
    )
    check_five_steps(
        Prodigy(
            d0=0.01,
            weight_decay=0.1,
            decouple=False,
            use_bias_correction=True,
            growth_rate=1.5,
            d_coef=2,
        ),
        [0.9833755235347889, -1.9836553681711788, 0.48451168326799765],
    )
    check_five_steps(
        Prodigy(d0=0.01, lr=0.5, safeguard_warmup=True, maximize=True),
        [1.0259827862456468, -2.000370257508406, 0.5217862143430784],
    )


def test_it_finds_its_rate() raises:
    # The minimum is at distance 1 from the start.
    assert_true(minimum(Prodigy(), 600) < 1e-4)


def test_the_distance_grows_as_far_as_it_may() raises:
    var parameters = one_parameter[DType.float64]([0, 0])
    var optimizer = Optimizer[_, DType.float64](Prodigy(growth_rate=2))
    var d = optimizer.rule.d
    for step in range(20):
        parameters[0].grad = [1, -1]
        optimizer.step(parameters)
        assert_equal(optimizer.rule.k, Float64(step + 1))
        assert_true(optimizer.rule.d >= d)
        assert_true(optimizer.rule.d <= 2 * d)
        d = optimizer.rule.d
    assert_true(d > 1e-5)


def test_one_distance_for_all_parameters() raises:
    var apart: List[Parameter[DType.float64]] = []
    apart.append(Parameter[DType.float64]([1, 2]))
    apart.append(Parameter[DType.float64]([]))
    apart.append(Parameter[DType.float64]([3]))
    var together = one_parameter[DType.float64]([1, 2, 3])
    var first = Optimizer[_, DType.float64](Prodigy(d0=0.1))
    var second = Optimizer[_, DType.float64](Prodigy(d0=0.1))
    for step in range(1, 6):
        var x = Float64(step)
        apart[0].grad = [x, 2]
        apart[2].grad = [-x]
        together[0].grad = [x, 2, -x]
        first.step(apart)
        second.step(together)
    assert_equal(first.rule.d, second.rule.d)
    assert_equal(apart[0].value[1], together[0].value[1])
    assert_equal(apart[2].value[0], together[0].value[2])


def test_zero_gradients_are_no_step() raises:
    var parameters = one_parameter[DType.float64]([1, 2])
    var optimizer = Optimizer[_, DType.float64](
        Prodigy(weight_decay=0.5, eps=0)
    )
    optimizer.step(parameters)
    assert_equal(parameters[0].value, [Float64(1), 2])
    assert_equal(optimizer.rule.k, 0)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
