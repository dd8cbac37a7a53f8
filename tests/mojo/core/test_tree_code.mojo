"""The tree code's values, its rounding and its widths."""

from std.sys import simd_width_of
from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_true,
)

from shared.training.core import TreeCode

comptime NATIVE = simd_width_of[DType.float32]()


def values[signed: Bool, width: Int]() -> List[Float32]:
    """Decodes all 256 codes."""
    var decoded: List[Float32] = []
    for start in range(0, 256, width):
        var codes = SIMD[DType.uint8, width](0)
        for i in range(width):
            codes[i] = UInt8(start + i)
        var lanes = TreeCode[signed].decode(codes)
        for i in range(width):
            decoded.append(lanes[i])
    return decoded^


def encode[
    signed: Bool, width: Int
](numbers: List[Float32], inverse: Float32) -> List[UInt8]:
    """Encodes numbers, as many as are whole vectors."""
    var codes: List[UInt8] = []
    for start in range(0, len(numbers), width):
        var lanes = SIMD[DType.float32, width](0)
        for i in range(width):
            lanes[i] = numbers[start + i]
        var encoded = TreeCode[signed].encode(lanes, inverse)
        for i in range(width):
            codes.append(encoded[i])
    return codes^


def test_values_are_those_of_the_definition() raises:
    var unsigned = values[False, NATIVE]()
    var signed = values[True, NATIVE]()
    # Middles of intervals over the largest middle, 1 - 0.9 / 2^bits.
    assert_equal(unsigned[0], 0)
    assert_equal(unsigned[255], 1)
    assert_almost_equal(unsigned[1] / 5.5e-8, 256 / 255.1, atol=1e-6)
    assert_almost_equal(
        unsigned[128], Float32(0.1 + 0.45 / 128) * 256 / 255.1, atol=1e-7
    )
    assert_equal(signed[255], 1)
    assert_equal(signed[0], -1)
    assert_equal(signed[128], 0)
    assert_almost_equal(
        signed[128 + 64], Float32(0.1 + 0.45 / 64) * 128 / 127.1, atol=1e-7
    )


def test_signs_are_symmetric() raises:
    var signed = values[True, NATIVE]()
    for k in range(128):
        assert_equal(signed[128 + k], -signed[127 - k])


def check_codes[signed: Bool, width: Int]() raises:
    var decoded = values[signed, width]()
    var scale = Float32(0.37)
    var scaled = [value * scale for value in decoded]
    var codes = encode[signed, width](scaled, 1 / scale)
    for code in range(256):
        # Without a sign there is no code for less than the least interval.
        var expected = 1 if code == 0 and not signed else code
        assert_equal(Int(codes[code]), expected)


def test_what_was_decoded_is_encoded_as_it_was() raises:
    check_codes[True, NATIVE]()
    check_codes[False, NATIVE]()


def test_every_width_has_the_same_bits() raises:
    comptime for signed in range(2):
        var decoded = values[signed == 1, NATIVE]()
        assert_equal(values[signed == 1, 4](), decoded)
        assert_equal(values[signed == 1, 1](), decoded)
        # Numbers between the values, too.
        var numbers: List[Float32] = []
        for i in range(2048):
            numbers.append(Float32(i) / 2047)
            numbers.append(Float32(i) / 2047e4)
        assert_equal(
            encode[signed == 1, 4](numbers, 1),
            encode[signed == 1, NATIVE](numbers, 1),
        )
        assert_equal(
            encode[signed == 1, 1](numbers, 1),
            encode[signed == 1, NATIVE](numbers, 1),
        )


def check_error[signed: Bool]() raises:
    # Half an interval of the largest decade, and of the one below.
    comptime intervals = Float32(64 if signed else 128)
    var decoded = values[signed, NATIVE]()
    var numbers: List[Float32] = []
    for i in range(4096):
        numbers.append(Float32(i) / 4095)
    var codes = encode[signed, NATIVE](numbers, 1)
    for i in range(len(numbers)):
        var error = abs(decoded[Int(codes[i])] - numbers[i])
        assert_true(error <= 0.4501 / intervals * 1.01)
        if numbers[i] < 0.1:
            assert_true(error <= 0.04501 / intervals * 2 * 1.01)


def test_the_error_is_at_most_half_an_interval() raises:
    check_error[True]()
    check_error[False]()


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
