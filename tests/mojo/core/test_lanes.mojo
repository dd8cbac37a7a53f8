"""Loads and stores against plain conversions, `lerp` and `divide_by_constant`."""

from std.ffi import external_call
from std.memory import bitcast
from std.testing import TestSuite, assert_equal

from shared.training.core import (
    compute_dtype,
    divide_by_constant,
    lerp,
    load,
    pointer_at,
    store,
)


def round_to_bfloat16(value: Float32) -> UInt32:
    """Picks the nearer neighbour of a value, at a tie the even one."""
    var bits = bitcast[DType.uint32, 1](value)
    var low = bits & 0xFFFF_0000
    var high = low + 0x1_0000
    var above = Float64(bitcast[DType.float32, 1](high))
    if high & 0x7FFF_0000 == 0x7F80_0000:
        above = 2.0**128 if value > 0 else -(2.0**128)
    var exact = Float64(value)
    var down = abs(exact - Float64(bitcast[DType.float32, 1](low)))
    var up = abs(above - exact)
    if down < up or (down == up and (low >> 16) & 1 == 0):
        return low >> 16
    return high >> 16


def stored_bits[width: Int](value: SIMD[DType.float32, width]) -> List[UInt16]:
    var memory = List[BFloat16](length=width, fill=0)
    store[DType.bfloat16, width](
        pointer_at[BFloat16](Int(memory.unsafe_ptr())),
        0,
        value.cast[compute_dtype[DType.bfloat16]()](),
    )
    return [bitcast[DType.uint16, 1](memory[i]) for i in range(width)]


def check_rounding(bits: UInt32, expected: UInt32) raises:
    var value = bitcast[DType.float32, 1](bits)
    assert_equal(UInt32(stored_bits[1](value)[0]), expected, hex(bits))
    var vector = stored_bits[16](value)
    for i in range(16):
        assert_equal(UInt32(vector[i]), expected, hex(bits))


def next_random(mut state: UInt32) -> UInt32:
    state = state * 1664525 + 1013904223
    return state ^ (state >> 15)


def check_round_trip[dtype: DType, width: Int]() raises:
    comptime compute = compute_dtype[dtype]()
    var memory: List[Scalar[dtype]] = []
    for i in range(3 * width + 2):
        memory.append(Scalar[dtype](i) / 8 - 1)
    var pointer = pointer_at[Scalar[dtype]](Int(memory.unsafe_ptr()))
    var value = load[dtype, width](pointer, 3)
    for i in range(width):
        assert_equal(value[i], Scalar[compute](3 + i) / 8 - 1)
    store[dtype, width](pointer, width + 1, value + 100)
    for i in range(len(memory)):
        var expected = Scalar[dtype](i) / 8 - 1
        if width + 1 <= i < 2 * width + 1:
            expected = Scalar[dtype](i - width + 2) / 8 + 99
        assert_equal(memory[i], expected)


def test_load_and_store_take_exactly_the_given_lanes() raises:
    comptime for dtype in [DType.float32, DType.float64]:
        comptime for width in [1, 2, 4, 8, 16]:
            check_round_trip[dtype, width]()
    # Every value that the lanes of bfloat16 take here fits into 8 bits.
    comptime for width in [1, 2, 4]:
        check_round_trip[DType.bfloat16, width]()


def test_compute_dtype() raises:
    assert_equal(compute_dtype[DType.float32](), DType.float32)
    assert_equal(compute_dtype[DType.float64](), DType.float64)
    assert_equal(compute_dtype[DType.bfloat16](), DType.float32)


def test_every_bfloat16_survives_a_round_trip() raises:
    var memory = List[BFloat16](length=1, fill=0)
    var pointer = pointer_at[BFloat16](Int(memory.unsafe_ptr()))
    for bits in range(0x1_0000):
        memory[0] = bitcast[DType.bfloat16, 1](UInt16(bits))
        var wide = load[DType.bfloat16, 1](pointer, 0)
        assert_equal(
            bitcast[DType.uint32, 1](wide), UInt32(bits) << 16, hex(bits)
        )
        store[DType.bfloat16, 1](pointer, 0, wide)
        var expected = bits
        if bits & 0x7FFF > 0x7F80:
            expected |= 0x40  # A signalling NaN becomes a quiet one.
        assert_equal(Int(bitcast[DType.uint16, 1](memory[0])), expected)


def test_ties_round_to_even() raises:
    check_rounding(0x3F80_8000, 0x3F80)
    check_rounding(0x3F81_8000, 0x3F82)
    check_rounding(0xBF81_8000, 0xBF82)
    check_rounding(0x3F80_7FFF, 0x3F80)
    check_rounding(0x3F80_8001, 0x3F81)
    check_rounding(0x0000_8000, 0x0000)
    check_rounding(0x0001_8000, 0x0002)


def test_too_large_values_become_infinite() raises:
    check_rounding(0x7F7F_7FFF, 0x7F7F)
    check_rounding(0x7F7F_8000, 0x7F80)
    check_rounding(0x7F7F_FFFF, 0x7F80)
    check_rounding(0xFF7F_8000, 0xFF80)


def test_infinity_nan_and_zero_keep_their_sign() raises:
    check_rounding(0x7F80_0000, 0x7F80)
    check_rounding(0xFF80_0000, 0xFF80)
    check_rounding(0x0000_0000, 0x0000)
    check_rounding(0x8000_0000, 0x8000)
    check_rounding(0x7F80_0001, 0x7FC0)
    check_rounding(0xFF80_0001, 0xFFC0)
    check_rounding(0x7FFF_FFFF, 0x7FFF)
    check_rounding(0xFFFF_FFFF, 0xFFFF)


def test_any_finite_value_goes_to_the_nearest_bfloat16() raises:
    var state = UInt32(1)
    for _ in range(20000):
        var bits = next_random(state)
        if bits & 0x7F80_0000 != 0x7F80_0000:
            var value = bitcast[DType.float32, 1](bits)
            check_rounding(bits, round_to_bfloat16(value))


def check_lerp[
    dtype: DType, width: Int
](
    start: Scalar[dtype],
    end: Scalar[dtype],
    weight: Scalar[dtype],
    expected: Scalar[dtype],
) raises:
    comptime Lanes = SIMD[dtype, width]
    var got = lerp[dtype, width](Lanes(start), Lanes(end), weight)
    for i in range(width):
        assert_equal(got[i], expected)


def test_lerp_rounds_once_for_the_difference_and_once_for_the_rest() raises:
    # `fmaf` of the C library rounds once.
    var starts: List[Float32] = [0.0, 1.25, -3.7, 1e-3, 12345.678]
    var ends: List[Float32] = [1.0, -0.3, 1e4, 2e-3]
    var low_weights: List[Float32] = [0.0, 0.001, 0.1, 0.3, 0.4999]
    var high_weights: List[Float32] = [0.5, 0.7, 0.9, 0.999, 1.0]
    for start in starts:
        for end in ends:
            for weight in low_weights:
                var expected = external_call["fmaf", Float32](
                    end - start, weight, start
                )
                check_lerp[DType.float32, 1](start, end, weight, expected)
                check_lerp[DType.float32, 8](start, end, weight, expected)
            for weight in high_weights:
                var expected = external_call["fmaf", Float32](
                    end - start, weight - 1, end
                )
                check_lerp[DType.float32, 1](start, end, weight, expected)
                check_lerp[DType.float32, 8](start, end, weight, expected)


def test_lerp_in_float64() raises:
    var start = Float64(1) / 3
    var end = Float64(-5) / 7
    var low = external_call["fma", Float64](end - start, Float64(0.1), start)
    check_lerp[DType.float64, 1](start, end, 0.1, low)
    check_lerp[DType.float64, 4](start, end, 0.1, low)
    var weight = Float64(0.9)
    var high = external_call["fma", Float64](end - start, weight - 1, end)
    check_lerp[DType.float64, 1](start, end, weight, high)
    check_lerp[DType.float64, 4](start, end, weight, high)


def test_lerp_at_weight_1_is_the_end() raises:
    # From the start's side, 1e30 would swallow the end.
    check_lerp[DType.float32, 1](1e30, 1.5, 1, 1.5)
    check_lerp[DType.float32, 8](1e30, 1.5, 1, 1.5)
    # Vectors keep the sign of a zero, as torch's do; its scalar loop does not.
    var vector = lerp[DType.float32, 8](1, -0.0, 1)
    assert_equal(bitcast[DType.uint32, 1](vector[0]), 0x8000_0000)
    var scalar = lerp[DType.float32, 1](1, -0.0, 1)
    assert_equal(bitcast[DType.uint32, 1](scalar), 0)


def check_quotients[
    dtype: DType, width: Int
](dividend: SIMD[dtype, width], divisor: Scalar[dtype]) raises:
    comptime bits = DType.uint64 if dtype == DType.float64 else DType.uint32
    var ours = divide_by_constant(dividend, divisor, 1 / divisor)
    var exact = dividend / divisor
    var same = bitcast[bits, width](ours).eq(bitcast[bits, width](exact))
    if not same.reduce_and():  # The message costs more than the check.
        raise Error(dividend, " / ", divisor, " gave ", ours)


def test_divide_by_constant_has_the_bits_of_a_division() raises:
    # Every float32 significand, for the divisors of the first steps of Adam and
    # for awkward ones; the exponent of either does not matter.
    var divisors: List[Float32] = [
        1.0,
        0.031622778,
        0.04470985,
        0.05474486,
        0.31622776,
        0.99999994,
        0.50000006,
        0.6666667,
        0.333333343,
        0.7071068,
        1e-8,
    ]
    for divisor in divisors:
        for significand in range(0, 1 << 23, 16):
            var bits = SIMD[DType.uint32, 16](0x3F80_0000 + significand)
            comptime for lane in range(16):
                bits[lane] += UInt32(lane)
            check_quotients[DType.float32, 16](
                bitcast[DType.float32, 16](bits), divisor
            )


def test_divide_by_constant_in_float64() raises:
    var state = UInt32(1)
    for _ in range(200_000):
        var high = UInt64(next_random(state)) << 20
        var bits = (UInt64(0x3FF) << 52) | high | UInt64(next_random(state))
        var divisor = bitcast[DType.float64, 1](
            (UInt64(0x3FE) << 52) | (UInt64(next_random(state)) << 19)
        )
        check_quotients[DType.float64, 1](
            bitcast[DType.float64, 1](bits), divisor
        )


def test_divide_by_constant_at_the_ends() raises:
    # The square roots of the smallest and the largest float32, and what has none.
    var infinity = bitcast[DType.float32, 1](UInt32(0x7F80_0000))
    var ends: List[Float32] = [
        0.0,
        -0.0,
        3.7433923e-23,
        1.8446743e19,
        infinity,
    ]
    for divisor in [Float32(1.0), Float32(0.031622778), Float32(1e-8)]:
        for dividend in ends:
            check_quotients[DType.float32, 1](dividend, divisor)
    var nan = bitcast[DType.float32, 1](UInt32(0x7FC0_0000))
    var quotient = divide_by_constant[DType.float32, 1](
        nan, Float32(0.5), Float32(2)
    )
    assert_equal(quotient != quotient, True)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
