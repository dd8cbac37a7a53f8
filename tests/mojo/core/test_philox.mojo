"""Philox against the known answers of its authors' library, Random123 (tests/kat_vectors)."""

from std.testing import TestSuite, assert_equal

from shared.training.core.philox import philox


def check(counter: List[UInt32], key: UInt64, expected: List[UInt32]) raises:
    # Another counter in the other lanes.
    var others = SIMD[DType.uint32, 4](7, 8, 9, 10)
    var first = others
    first[2] = counter[0]
    var second = others
    second[2] = counter[1]
    var third = others
    third[2] = counter[2]
    var fourth = others
    fourth[2] = counter[3]
    var words = philox[4](first, second, third, fourth, key)
    for i in range(4):
        assert_equal(words[i][2], expected[i])


def test_known_answers() raises:
    check(
        [0, 0, 0, 0],
        0,
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
    )
    check(
        [0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF],
        0xFFFFFFFFFFFFFFFF,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    )
    check(
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
