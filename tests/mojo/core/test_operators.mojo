"""Operators of torch on lanes: roundings, NaN, signs."""

from std.math import isnan
from std.testing import TestSuite, assert_equal, assert_true
from std.utils.numerics import inf, nan

from shared.training.core import addcdiv, addcmul, effective_gradient
from shared.training.core import maximum, sign

comptime Lanes = SIMD[DType.float32, 8]


def from_memory(values: List[Float32]) -> Lanes:
    """Repeats values that the compiler cannot know, lest it computes with them.

    Its own comparisons of NaN differ from those that it compiles.
    """
    var lanes = Lanes(0)
    for i in range(8):
        lanes[i] = values[i % len(values)]
    return lanes


def test_the_maximum_with_nan_is_nan_on_either_side() raises:
    var some = from_memory([nan[DType.float32](), 1, -2, inf[DType.float32]()])
    var other = from_memory([3, nan[DType.float32](), 5, 1])
    for pair in [(some, other), (other, some)]:
        var larger = maximum[DType.float32, 8](pair[0], pair[1])
        assert_true(isnan(larger[0]) and isnan(larger[1]))
        assert_equal(larger[2], 5)
        assert_equal(larger[3], inf[DType.float32]())


def test_the_sign_of_zero_and_nan_is_zero() raises:
    var signs = sign[DType.float32, 8](
        from_memory([-0.0, 0, nan[DType.float32](), -3])
    )
    assert_equal(signs[0], 0)
    assert_equal(signs[1], 0)
    assert_equal(signs[2], 0)
    assert_equal(signs[3], -1)
    assert_equal(sign[DType.float32, 8](from_memory([1e-30]))[0], 1)


def test_a_product_is_rounded_with_its_sum() raises:
    # The last bit of the square decides which neighbour of 1 the sum is.
    var a = from_memory([Float32(1 + 2.0**-12)])
    var exact = addcmul[DType.float32, 8](
        Lanes(-1 - 2.0**-11), a, a, Lanes(1)
    )
    assert_equal(exact[0], Float32(2.0**-24))


def test_a_quotient_is_rounded_before_its_sum() raises:
    var third = addcdiv[DType.float32, 8](
        from_memory([-1]), Lanes(1), from_memory([3]), Lanes(3)
    )
    assert_equal(third[0], 0)
    var scaled = addcdiv[DType.float32, 8](
        from_memory([0]), Lanes(7), from_memory([2]), Lanes(3)
    )
    assert_equal(scaled[0], 10.5)


def test_weight_decay_leaves_an_infinite_parameter_alone_unless_asked() raises:
    var infinite = from_memory([inf[DType.float32]()])
    var grad = from_memory([2, -3])
    assert_equal(
        effective_gradient[DType.float32, 8](infinite, grad, 0, 0), grad
    )
    assert_equal(
        effective_gradient[DType.float32, 8](infinite, grad, 1, 0), -grad
    )
    assert_equal(
        effective_gradient[DType.float32, 8](Lanes(4), grad, 1, 0.5), 2 - grad
    )
    assert_equal(
        effective_gradient[DType.float32, 8](infinite, grad, 0, 0.5)[0],
        inf[DType.float32](),
    )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
