"""Exponential functions and logarithms of SIMD lanes, to about a rounding.

std.math's `exp` of float64 is only good to 1e-12, and its `log1p` works lane by
lane.
"""

from std.memory import bitcast, pack_bits
from std.sys import CompilationTarget
from std.sys.intrinsics import llvm_intrinsic
from std.utils.numerics import inf, isnan, nan


@always_inline
def exp[
    dtype: DType, width: SIMDLength, //
](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    """Computes e to the power of each lane.

    `x = k ln 2 + r` with `|r| <= ln(2) / 2` leaves `2^k e^r`. The polynomial for
    `e^r` is the one of its degree with the least relative error, found by
    Remez' exchange: 3.1e-9 for float32 and 3.6e-18 for float64.

    Parameters:
        dtype: Float32 or float64.
        width: How many lanes.

    Args:
        x: The exponents.

    Returns:
        The powers, within a unit in the last place; 0 where they are subnormal.
    """
    comptime Lanes = SIMD[dtype, width]
    comptime if dtype == DType.float32:
        comptime low = -87.3365447
        comptime high = 88.7228391
        var y = _clamp[low=low, high=high](x)
        # Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold.
        var shifted = y.fma(Lanes(1.4426950408889634), Lanes(12582912.0))
        var k = shifted - Lanes(12582912.0)
        var r = (-k).fma(Lanes(0.693147182464599609375), y)
        r = (-k).fma(Lanes(-1.9046542999577680e-9), r)
        var p = Lanes(1.3814598646664034453e-3)
        p = p.fma(r, Lanes(8.3687168797281399469e-3))
        p = p.fma(r, Lanes(0.041668388045313996659))
        p = p.fma(r, Lanes(0.16666520631709496887))
        p = p.fma(r, Lanes(0.49999993447796486827))
        p = p.fma(r, Lanes(1))
        p = p.fma(r, Lanes(1))
        return _scale[low=low, high=high](p, k, shifted, x)
    else:
        comptime assert dtype == DType.float64, "exp takes float32 or float64"
        comptime low = -708.3964185322641
        comptime high = 709.782712893384
        var y = _clamp[low=low, high=high](x)
        var shifted = y.fma(
            Lanes(1.4426950408889634), Lanes(6755399441055744.0)
        )
        var k = shifted - Lanes(6755399441055744.0)
        var r = (-k).fma(Lanes(0.693147180559945286226764), y)
        r = (-k).fma(Lanes(2.319046813846299558417771e-17), r)
        var p = Lanes(2.5000056853599249877e-8)
        p = p.fma(r, Lanes(2.763024835331261728e-7))
        p = p.fma(r, Lanes(2.7557586387828287007e-6))
        p = p.fma(r, Lanes(2.4801493098980489467e-5))
        p = p.fma(r, Lanes(1.9841269506564339989e-4))
        p = p.fma(r, Lanes(1.3888888943630038625e-3))
        p = p.fma(r, Lanes(8.3333333334944676416e-3))
        p = p.fma(r, Lanes(0.041666666666530158903))
        p = p.fma(r, Lanes(0.16666666666666412514))
        p = p.fma(r, Lanes(0.50000000000000106271))
        p = p.fma(r, Lanes(1))
        p = p.fma(r, Lanes(1))
        return _scale[low=low, high=high](p, k, shifted, x)


def _has_scalef[dtype: DType, width: SIMDLength]() -> Bool:
    """Tells whether one instruction multiplies lanes by powers of 2."""
    return CompilationTarget.has_avx512f() and (
        width == 16 if dtype == DType.float32 else width == 8
    )


@always_inline
def _clamp[
    dtype: DType, width: SIMDLength, //, *, low: Float64, high: Float64
](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    """Limits exponents where `scalef` is used, which is slow for subnormals."""
    comptime Lanes = SIMD[dtype, width]
    comptime if _has_scalef[dtype, width]():
        # Comparisons with NaN are false, which keeps it.
        var y = x.lt(Lanes(low)).select(Lanes(low), x)
        # Above `high` by as much as makes the power infinite.
        return y.gt(Lanes(high + 1)).select(Lanes(high + 1), y)
    else:
        return x


@always_inline
def _scale[
    dtype: DType, width: SIMDLength, //, *, low: Float64, high: Float64
](
    power: SIMD[dtype, width],
    k: SIMD[dtype, width],
    shifted: SIMD[dtype, width],
    x: SIMD[dtype, width],
) -> SIMD[dtype, width]:
    """Multiplies powers by `2^k`: 0 below `low`, infinite above `high`."""
    comptime Lanes = SIMD[dtype, width]
    comptime if _has_scalef[dtype, width]():
        comptime current_rounding = Int32(4)
        var is_kept = ~x.lt(Lanes(low))
        comptime if dtype == DType.float32:
            return llvm_intrinsic["llvm.x86.avx512.mask.scalef.ps.512", Lanes](
                power, k, Lanes(0), pack_bits(is_kept), current_rounding
            )
        else:
            return llvm_intrinsic["llvm.x86.avx512.mask.scalef.pd.512", Lanes](
                power, k, Lanes(0), pack_bits(is_kept), current_rounding
            )
    else:
        comptime is_single = dtype == DType.float32
        comptime integer = DType.uint32 if is_single else DType.uint64
        comptime Integers = SIMD[integer, width]
        # The exponent's bits wrap where the result leaves the range.
        var exponent = bitcast[integer, width](shifted) << Integers(
            23 if is_single else 52
        )
        var scaled = bitcast[dtype, width](
            bitcast[integer, width](power) + exponent
        )
        scaled = x.lt(Lanes(low)).select(Lanes(0), scaled)
        scaled = x.gt(Lanes(high)).select(Lanes(inf[dtype]()), scaled)
        return isnan(x).select(x, scaled)


@always_inline
def log[
    dtype: DType, width: SIMDLength, //
](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    """Computes the natural logarithm of each lane.

    The method and its polynomials are those of FreeBSD's `e_log.c` and `e_logf.c`:
    `x = 2^k (1 + f)`, and `log(1 + f)` as a series in `f / (2 + f)`.

    Parameters:
        dtype: Float32 or float64.
        width: How many lanes.

    Args:
        x: The numbers.

    Returns:
        The logarithms, within a unit in the last place; -infinity of 0 and NaN of
        negative numbers.
    """
    comptime Lanes = SIMD[dtype, width]
    comptime is_single = dtype == DType.float32
    comptime integer = DType.int32 if is_single else DType.int64
    comptime Integers = SIMD[integer, width]
    comptime mantissa = 23 if is_single else 52
    comptime bias = 127 if is_single else 1023
    # The bits of 1 and of sqrt(1/2), down to where the fraction may begin.
    comptime one = 0x3F80_0000 if is_single else 0x3FF0_0000_0000_0000
    comptime root = 0x3F35_04F3 if is_single else 0x3FE6_A09E_0000_0000
    comptime smallest = 1.17549435082228751e-38 if is_single else 2.2250738585072014e-308
    comptime assert is_single or dtype == DType.float64, "log takes floats"

    var is_subnormal = x.lt(Lanes(smallest))
    var normal = is_subnormal.select(x * Lanes(18014398509481984.0), x)
    var bits = bitcast[integer, width](normal) + Integers(one - root)
    var exponent = (bits >> Integers(mantissa)) - Integers(bias)
    exponent -= is_subnormal.select(Integers(54), Integers(0))
    var fraction = (bits & Integers((1 << mantissa) - 1)) + Integers(root)
    var k = exponent.cast[dtype]()
    var f = bitcast[dtype, width](fraction) - 1
    var half_square = f * f * Lanes(0.5)
    var s = f / (f + 2)
    var z = s * s
    var w = z * z
    var even: Lanes
    var odd: Lanes
    comptime if is_single:
        even = w * w.fma(Lanes(0.24279078841), Lanes(0.40000972152))
        odd = z * w.fma(Lanes(0.28498786688), Lanes(0.66666662693))
    else:
        even = w * w.fma(
            w.fma(
                Lanes(1.531383769920937332e-01), Lanes(2.222219843214978396e-01)
            ),
            Lanes(3.999999999940941908e-01),
        )
        odd = z * w.fma(
            w.fma(
                w.fma(
                    Lanes(1.479819860511658591e-01),
                    Lanes(1.818357216161805012e-01),
                ),
                Lanes(2.857142874366239149e-01),
            ),
            Lanes(6.666666666666735130e-01),
        )
    comptime high = 0.693138122558593750 if is_single else 6.93147180369123816490e-01
    comptime low = 9.05800061445916071534e-06 if is_single else 1.90821492927058770002e-10
    var small = s.fma(half_square + (even + odd), k * Lanes(low))
    var result = k.fma(Lanes(high), small - half_square + f)

    var edge = x.eq(Lanes(0)).select(Lanes(-inf[dtype]()), Lanes(nan[dtype]()))
    edge = x.eq(Lanes(inf[dtype]())).select(x, edge)
    return (x.gt(0) & x.lt(Lanes(inf[dtype]()))).select(result, edge)


@always_inline
def log1p[
    dtype: DType, width: SIMDLength, //
](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    """Computes the natural logarithm of 1 plus each lane, exact near 0, too.

    What rounding `1 + x` takes away is added by the logarithm's slope.

    Parameters:
        dtype: Float32 or float64.
        width: How many lanes.

    Args:
        x: Numbers above -1.

    Returns:
        The logarithms, within 2 units in the last place.
    """
    comptime Lanes = SIMD[dtype, width]
    var sum = x + 1
    var lost = x - (sum - 1)
    var result = log(sum) + lost / sum
    var is_finite = x.gt(Lanes(-1)) & x.lt(Lanes(inf[dtype]()))
    return is_finite.select(result, log(sum))
