"""The dynamic tree code: 8 bits for a number in [-1, 1] or [0, 1].

It is that of Dettmers et al., 2021, "8-bit Optimizers via Block-wise
Quantization" (arXiv:2110.02861). A magnitude has `BITS` bits, 7 beside a sign
and 8 without one. The number of zeros before its first one bit chooses a decade,
the bits after it one of equally wide intervals in there, so that the largest
decade has the most: with e the position of the first one bit, magnitude k
stands for the interval from

`10^(e - BITS + 1) (0.1 + 0.9 (k - 2^e) / 2^e)`

to the same of k + 1, and decodes to its middle; 0 decodes to 0. All values are
divided by the largest one, so that 1 decodes to 1: a moment that lost a part in
200 at each step would have another decay.

`python/hotloop/optimizers/tree_code.py` has the same arithmetic in torch.
"""

from std.memory import bitcast
from std.sys.info import CompilationTarget
from std.sys.intrinsics import llvm_intrinsic

comptime ENTRIES = 16
"""Entries of a table: as many as fit in the register of 512 bits."""

comptime Table = SIMD[DType.float32, ENTRIES]
"""Numbers to look up by a few bits of a float."""

comptime LEAST = Float32(1.490116119384765625e-8)
"""Added to what is encoded: 2^-26, so that its exponent has 26 values at most."""

comptime SIGN = 0x8000_0000
"""The sign bit of a float32."""


struct TreeCode[signed: Bool]:
    """Codes for numbers of either sign, or for numbers that are not negative.

    A code with a sign is 128 + k for a positive number and 127 - k for a
    negative one. A code without one is k, and numbers below 1e-8 are rounded up
    to k = 1, 0 among them: the root of a second moment is divided by, and one
    that vanished before its first moment would make the step arbitrarily long
    (Li et al., 2023, arXiv:2309.01507, name this the zero-point problem).

    Parameters:
        signed: Whether there is a sign.
    """

    comptime BITS = 7 if Self.signed else 8
    """Bits of the magnitude."""

    comptime MIDDLE = Float32(-127.5 if Self.signed else 0.5)
    """Added to a code, gives the middle of its interval as a magnitude."""

    comptime ZERO = UInt8(128 if Self.signed else 0)
    """A code that decodes to 0."""

    @staticmethod
    @always_inline
    def decode[
        width: Int
    ](codes: SIMD[DType.uint8, width]) -> SIMD[DType.float32, width]:
        """Decodes `width` codes.

        Parameters:
            width: How many lanes.

        Args:
            codes: Any codes.

        Returns:
            Numbers in [-1, 1].
        """
        # Half a step above k or below -k is the middle of the interval, and
        # never has the exponent of another decade.
        comptime slopes = _decode_slopes[Self.BITS]()
        comptime bases = _decode_bases[Self.BITS]()
        var middle = codes.cast[DType.float32]() + Self.MIDDLE
        var bits = bitcast[DType.uint32](middle)
        var base = _look_up(bases, bits >> 23)
        comptime if Self.signed:
            base = _xor(base, bits & SIGN)
        return middle.fma(_look_up(slopes, bits >> 23), base)

    @staticmethod
    @always_inline
    def encode[
        width: Int
    ](values: SIMD[DType.float32, width], inverse_scale: Float32) -> SIMD[
        DType.uint8, width
    ]:
        """Encodes `width` numbers.

        Parameters:
            width: How many lanes.

        Args:
            values: Finite numbers; without a sign, not negative ones.
            inverse_scale: What they are multiplied with to be at most 1.

        Returns:
            The codes.
        """
        # The magnitude as a real number is continuous in the value, piecewise
        # linear and concave: 2^e u in decade e, with u from 1 to 2, and
        # 2^e (0.2 u + 1.6) in the next one. Two bits of the exponent make a
        # factor of 4, which is less than a decade, so the smaller one is right.
        comptime slopes = _encode_slopes[Self.BITS]()
        comptime powers = _encode_powers[Self.BITS]()
        comptime Lanes = SIMD[DType.float32, width]
        comptime least = Lanes(LEAST)
        var size = values
        comptime if Self.signed:
            size = abs(values)
        var scaled = size.fma(Lanes(inverse_scale), least)
        var index = bitcast[DType.uint32](scaled) >> 24
        var u = scaled.fma(_look_up(slopes, index), Lanes(8.0 / 9.0))
        var next = u.fma(Lanes(0.2), Lanes(1.6))
        var mantissa = u.lt(next).select(u, next)
        var power = _look_up(powers, index)
        var real: Lanes
        comptime if Self.signed:
            mantissa = _xor(mantissa, bitcast[DType.uint32](values) & SIGN)
            real = mantissa.fma(power, Lanes(128))
        else:
            real = mantissa * power
        return real.cast[DType.int32]().cast[DType.uint8]()


@always_inline
def _xor[
    width: Int
](a: SIMD[DType.float32, width], bits: SIMD[DType.uint32, width]) -> SIMD[
    DType.float32, width
]:
    return bitcast[DType.float32](bitcast[DType.uint32](a) ^ bits)


@always_inline
def _look_up[
    width: Int
](table: Table, index: SIMD[DType.uint32, width]) -> SIMD[DType.float32, width]:
    # The low 4 bits of the index count. A permutation in registers, for there
    # is no faster load of an entry for each lane.
    comptime Lanes = SIMD[DType.float32, width]
    comptime if width == 16 and CompilationTarget.has_avx512f():
        return llvm_intrinsic["llvm.x86.avx512.permvar.sf.512", Lanes](
            table, index
        )
    elif width == 8 and CompilationTarget.has_avx2():
        comptime permute = "llvm.x86.avx2.permps"
        var low = llvm_intrinsic[permute, Lanes](table.slice[8](), index)
        var high = llvm_intrinsic[permute, Lanes](
            table.slice[8, offset=8](), index
        )
        return (index & 8).ne(0).select(high, low)
    else:
        var found = Lanes(0)
        comptime for i in range(ENTRIES):
            found = (index & 15).eq(UInt32(i)).select(Lanes(table[i]), found)
        return found


def _ten_to(power: Int) -> Float64:
    var result = Float64(1)
    for _ in range(abs(power)):
        result *= 10
    return result if power >= 0 else 1 / result


def _largest[bits: Int]() -> Float64:
    # The middle of the topmost interval.
    return 1 - Float64(0.9) / Float64(1 << bits)


def _decode_slopes[bits: Int]() -> Table:
    var table = Table(0)
    for e in range(bits):
        var decade = _ten_to(e - bits + 1) / _largest[bits]()
        var slope = Float64(0.9) * decade / Float64(1 << e)
        table[(127 + e) % ENTRIES] = slope.cast[DType.float32]()
    return table


def _decode_bases[bits: Int]() -> Table:
    var table = Table(0)
    for e in range(bits):
        var decade = _ten_to(e - bits + 1) / _largest[bits]()
        table[(127 + e) % ENTRIES] = (Float64(-0.8) * decade).cast[
            DType.float32
        ]()
    return table


def _decade[bits: Int](index: Int) -> Int:
    # That of the smallest float whose bits, shifted by 24, end in the index.
    var smallest = _largest[bits]()
    for _ in range(2 * (ENTRIES - index) - 1):
        smallest /= 2
    var e = 0
    while e + 1 < bits and smallest >= _ten_to(e - bits + 1):
        e += 1
    return e


def _encode_slopes[bits: Int]() -> Table:
    var table = Table(0)
    for index in range(ENTRIES):
        var inverse = _ten_to(bits - 1 - _decade[bits](index))
        table[index] = (inverse * _largest[bits]() / Float64(0.9)).cast[
            DType.float32
        ]()
    return table


def _encode_powers[bits: Int]() -> Table:
    var table = Table(0)
    for index in range(ENTRIES):
        table[index] = Float32(1 << _decade[bits](index))
    return table
