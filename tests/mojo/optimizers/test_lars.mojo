"""LARS against the twin's digits and its own claims."""

from std.testing import TestSuite, assert_equal

from shared.training.optimizers import LARS, SGD, Optimizer

from reference import check_five_steps, one_parameter


def test_golden() raises:
    check_five_steps(
        LARS[momentum=False](lr=0.1, trust_coefficient=0.5, weight_decay=0.1),
        [0.8607483925611107, -1.9656423560698366, 0.5141952121018516],
    )
    check_five_steps(
        LARS(lr=0.1, trust_coefficient=0.5, weight_decay=0.1, dampening=0.3),
        [0.7769193562865748, -1.8784287234493409, 0.25574028766726253],
    )
    check_five_steps(
        LARS[nesterov=True](lr=0.1, trust_coefficient=0.5, weight_decay=0.1),
        [0.6529961479270725, -1.865427938152156, 0.34489014326043216],
    )


def test_the_local_rate_is_relative_to_the_parameter() raises:
    # |p| = 5 and |g| = 10, so that u is 0.5 * 5 / 10 g.
    var parameters = one_parameter[DType.float64]([3, 4])
    parameters[0].grad = [6, -8]
    var optimizer = Optimizer[_, DType.float64](
        LARS[momentum=False](lr=2, trust_coefficient=0.5, eps=0)
    )
    optimizer.step(parameters)
    assert_equal(parameters[0].value, [Float64(0), 8])


def test_where_a_norm_is_0_it_is_sgd() raises:
    for maximize in [False, True]:
        var lars = Optimizer[_, DType.float64](
            LARS(lr=0.5, weight_decay=0.25, maximize=maximize)
        )
        var sgd = Optimizer[_, DType.float64](
            SGD[momentum=True](lr=0.5, weight_decay=0.25, maximize=maximize)
        )
        var mine = one_parameter[DType.float64]([0, 0])
        var other = one_parameter[DType.float64]([0, 0])
        mine[0].grad = [6, -8]
        other[0].grad = [6, -8]
        lars.step(mine)
        sgd.step(other)
        mine[0].grad = [0, 0]
        other[0].grad = [0, 0]
        lars.step(mine)
        sgd.step(other)
        assert_equal(mine[0].value, other[0].value)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
