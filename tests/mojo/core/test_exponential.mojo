"""`exp`, `log` and `log1p` of lanes against the C library's."""

from std.ffi import external_call
from std.testing import TestSuite, assert_equal, assert_true
from std.utils.numerics import inf, isnan, nan

from shared.training.core import exp, log, log1p


def check[
    dtype: DType, width: Int
](name: StaticString, x: Float64, tolerance: Float64) raises:
    """Compares all lanes with the C library's function in float64."""
    var lanes = SIMD[dtype, width](x.cast[dtype]())
    var value = lanes[0].cast[DType.float64]()
    var result: SIMD[dtype, width]
    var expected: Float64
    if name == "exp":
        result = exp(lanes)
        expected = external_call["exp", Float64](value)
    elif name == "log":
        result = log(lanes)
        expected = external_call["log", Float64](value)
    else:
        result = log1p(lanes)
        expected = external_call["log1p", Float64](value)
    for lane in range(width):
        var ours = result[lane].cast[DType.float64]()
        assert_true(
            abs(ours - expected) <= tolerance * abs(expected),
            String(name, "(", value, ") is ", expected, ", got ", ours),
        )


def check_all[dtype: DType, width: Int](tolerance: Float64) raises:
    """Compares the functions over their ranges."""
    comptime widest = 87.0 if dtype == DType.float32 else 708.0
    for i in range(2001):
        var part = Float64(i) / 1000 - 1
        check[dtype, width]("exp", part * widest, tolerance)
        check[dtype, width]("exp", part * part * part, tolerance)
        var wide = external_call["exp", Float64](part * widest * 0.99)
        check[dtype, width]("log", wide, tolerance)
        check[dtype, width]("log", 1 + part * 0.5, tolerance)
        check[dtype, width]("log1p", wide, tolerance)
        check[dtype, width]("log1p", part * 0.999, tolerance)
        check[dtype, width]("log1p", part * 1e-6, tolerance)


def test_float32_is_good_to_a_rounding_or_two() raises:
    check_all[DType.float32, 1](2e-7)
    check_all[DType.float32, 8](2e-7)
    check_all[DType.float32, 16](2e-7)


def test_float64_is_good_to_two_units_in_the_last_place() raises:
    check_all[DType.float64, 1](3e-16)
    check_all[DType.float64, 4](3e-16)
    check_all[DType.float64, 8](3e-16)


def check_ends[dtype: DType, width: Int]() raises:
    """Looks at infinities, zeros, NaN, and what is out of range."""
    comptime Lanes = SIMD[dtype, width]
    var high = Lanes(inf[dtype]())
    var none = Lanes(nan[dtype]())
    assert_equal(exp(-high), Lanes(0))
    assert_equal(exp(Lanes(-1000)), Lanes(0))
    assert_equal(exp(Lanes(0)), Lanes(1))
    assert_equal(exp(Lanes(1000)), high)
    assert_equal(exp(high), high)
    assert_true(isnan(exp(none)).reduce_and())
    assert_equal(log(Lanes(0)), -high)
    assert_equal(log(Lanes(1)), Lanes(0))
    assert_equal(log(high), high)
    assert_true(isnan(log(Lanes(-1))).reduce_and())
    assert_true(isnan(log(none)).reduce_and())
    assert_equal(log1p(Lanes(-1)), -high)
    assert_equal(log1p(Lanes(0)), Lanes(0))
    assert_equal(log1p(high), high)
    assert_true(isnan(log1p(Lanes(-2))).reduce_and())
    assert_true(isnan(log1p(none)).reduce_and())


def test_the_ends_are_exact() raises:
    check_ends[DType.float32, 1]()
    check_ends[DType.float32, 8]()
    check_ends[DType.float32, 16]()
    check_ends[DType.float64, 1]()
    check_ends[DType.float64, 4]()
    check_ends[DType.float64, 8]()


def test_a_subnormal_number_has_a_logarithm() raises:
    check[DType.float32, 8]("log", 1e-40, 2e-7)
    check[DType.float64, 4]("log", 1e-310, 3e-16)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
