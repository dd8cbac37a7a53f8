"""Arithmetic on SIMD lanes: loads and stores in any float dtype, exact division.

Kernels compute in `compute_dtype[dtype]()` and touch memory in `dtype`.
"""

from std.math import iota, sqrt
from std.memory import bitcast
from std.sys import CompilationTarget
from std.sys.intrinsics import (
    PrefetchOptions,
    llvm_intrinsic,
    masked_load,
    masked_store,
    prefetch,
)

from .memory import Address


def compute_dtype[dtype: DType]() -> DType:
    """Names the dtype that a kernel computes in for memory of `dtype`.

    Parameters:
        dtype: The dtype in memory: float32, float64, bfloat16 or float16.

    Returns:
        The dtype: float64 for float64, float32 otherwise.
    """
    comptime assert dtype.is_floating_point(), "kernels work on float dtypes"
    comptime if dtype == DType.float64:
        return DType.float64
    else:
        return DType.float32


@always_inline
def load[
    dtype: DType, width: Int
](pointer: MutPointer[Scalar[dtype], MutUntrackedOrigin], index: Int) -> SIMD[
    compute_dtype[dtype](), width
]:
    """Loads `width` elements and widens them to the compute dtype.

    Parameters:
        dtype: The dtype in memory.
        width: How many lanes.

    Args:
        pointer: The first element of the tensor.
        index: The index of the first lane.

    Returns:
        The elements; widening bfloat16 is exact.
    """
    comptime compute = compute_dtype[dtype]()
    comptime if dtype == DType.bfloat16:
        var bits = pointer.unsafe_bitcast[UInt16]().unsafe_load[width=width](
            index
        )
        var wide = bits.cast[DType.uint32]() << 16
        return bitcast[compute, width](wide)
    else:
        return pointer.unsafe_load[width=width](index).cast[compute]()


@always_inline
def prefetch_at[
    dtype: DType
](pointer: MutPointer[Scalar[dtype], MutUntrackedOrigin], index: Int):
    """Asks memory for the cache line of an element that is needed later.

    Parameters:
        dtype: The dtype in memory.

    Args:
        pointer: The first element of the tensor.
        index: The index of the element, not past the tensor's end: asking for an
            unmapped page costs a page walk.
    """
    prefetch[PrefetchOptions().for_read().high_locality().to_data_cache()](
        pointer.unsafe_offset(index).as_imm()
    )


@always_inline
def store[
    dtype: DType, width: Int
](
    pointer: MutPointer[Scalar[dtype], MutUntrackedOrigin],
    index: Int,
    value: SIMD[compute_dtype[dtype](), width],
):
    """Rounds `width` lanes to the dtype in memory and stores them.

    Parameters:
        dtype: The dtype in memory.
        width: How many lanes.

    Args:
        pointer: The first element of the tensor.
        index: The index of the first lane.
        value: The lanes, in the compute dtype.
    """
    comptime if dtype == DType.bfloat16:
        pointer.unsafe_bitcast[UInt16]().unsafe_store[width=width](
            index, _bfloat16_bits[width](value.cast[DType.float32]())
        )
    else:
        pointer.unsafe_store[width=width](index, value.cast[dtype]())


@always_inline
def _bfloat16_bits[
    width: Int
](value: SIMD[DType.float32, width]) -> SIMD[DType.uint16, width]:
    """Rounds to nearest even and keeps NaN.

    SIMD.cast to bfloat16 becomes a library call per lane on CPUs without the
    instruction, so the rounding is spelled out on the bits.
    """
    var bits = bitcast[DType.uint32, width](value)
    var rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    var quiet_nan = (bits >> 16) | 0x40
    var is_nan = (bits & 0x7FFF_FFFF).gt(0x7F80_0000)
    return is_nan.select(quiet_nan, rounded).cast[DType.uint16]()


@always_inline
def load_part[
    dtype: DType, width: Int
](
    pointer: MutPointer[Scalar[dtype], MutUntrackedOrigin],
    index: Int,
    count: Int,
    fill: Scalar[compute_dtype[dtype]()],
) -> SIMD[compute_dtype[dtype](), width]:
    """Loads the first lanes of a vector and touches no memory behind them.

    Parameters:
        dtype: The dtype in memory.
        width: How many lanes.

    Args:
        pointer: The first element of the tensor.
        index: The index of the first lane.
        count: How many lanes to load.
        fill: The value of the others.

    Returns:
        The lanes in the compute dtype.
    """
    comptime compute = compute_dtype[dtype]()
    comptime Lanes = SIMD[compute, width]
    var is_loaded = iota[DType.int32, width]().lt(Int32(count))
    var start = pointer.unsafe_offset(index)
    comptime if dtype == compute:
        var fills = SIMD[dtype, width](fill.cast[dtype]())
        return masked_load[width](start.as_imm(), is_loaded, fills).cast[
            compute
        ]()
    else:
        var bits = masked_load[width](
            start.unsafe_bitcast[UInt16]().as_imm(),
            is_loaded,
            SIMD[DType.uint16, width](0),
        )
        var wide: Lanes
        comptime if dtype == DType.bfloat16:
            wide = bitcast[compute, width](bits.cast[DType.uint32]() << 16)
        else:
            wide = bitcast[dtype, width](bits).cast[compute]()
        return is_loaded.select(wide, Lanes(fill))


@always_inline
def store_part[
    dtype: DType, width: Int
](
    pointer: MutPointer[Scalar[dtype], MutUntrackedOrigin],
    index: Int,
    count: Int,
    value: SIMD[compute_dtype[dtype](), width],
):
    """Stores the first lanes of a vector and touches no memory behind them.

    Parameters:
        dtype: The dtype in memory.
        width: How many lanes.

    Args:
        pointer: The first element of the tensor.
        index: The index of the first lane.
        count: How many lanes to store.
        value: The lanes, in the compute dtype.
    """
    var is_stored = iota[DType.int32, width]().lt(Int32(count))
    var start = pointer.unsafe_offset(index)
    comptime if dtype == compute_dtype[dtype]():
        masked_store(value.cast[dtype](), start, is_stored)
    else:
        var bits: SIMD[DType.uint16, width]
        comptime if dtype == DType.bfloat16:
            bits = _bfloat16_bits[width](value.cast[DType.float32]())
        else:
            bits = bitcast[DType.uint16, width](value.cast[dtype]())
        masked_store(bits, start.unsafe_bitcast[UInt16](), is_stored)


@always_inline
def lerp[
    dtype: DType, width: Int
](
    start: SIMD[dtype, width], end: SIMD[dtype, width], weight: Scalar[dtype]
) -> SIMD[dtype, width]:
    """Interpolates from `start` to `end`, rounding where torch's `lerp` does.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        start: The lanes at weight 0.
        end: The lanes at weight 1.
        weight: How far to go, from 0 to 1.

    Returns:
        `start + weight * (end - start)` below weight 0.5, and
        `end - (1 - weight) * (end - start)` from there on, each with one
        rounding for the difference and one for the rest.
    """
    var difference = end - start
    if weight < 0.5:
        return difference.fma(SIMD[dtype, width](weight), start)
    # At weight 1 the factor's sign decides the sign of a zero.
    var factor = weight - 1
    comptime if width == 1:
        factor = -(1 - weight)
    return difference.fma(SIMD[dtype, width](factor), end)


@always_inline
def divide_by_constant[
    dtype: DType, width: Int
](
    dividend: SIMD[dtype, width],
    divisor: Scalar[dtype],
    reciprocal: Scalar[dtype],
) -> SIMD[dtype, width]:
    """Divides lanes by one number with the bits of a division, but without one.

    Two corrections by the exact remainder (Markstein, 1990, "Computation of
    elementary functions on the IBM RISC System/6000 processor") make the
    product with a correctly rounded reciprocal the correctly rounded quotient,
    for 5 multiplications instead of a division.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        dividend: Square roots of numbers of the dtype, so that neither the
            quotient nor a remainder leaves the range of normal numbers.
        divisor: A number in [1e-8, 1].
        reciprocal: `1 / divisor`, rounded to the dtype.

    Returns:
        `dividend / divisor`.
    """
    var negative = SIMD[dtype, width](-divisor)
    var inverse = SIMD[dtype, width](reciprocal)
    var quotient = dividend * inverse
    quotient = negative.fma(quotient, dividend).fma(inverse, quotient)
    quotient = negative.fma(quotient, dividend).fma(inverse, quotient)
    # The quotient by at most 1 is no smaller, so this changes only what has no
    # remainder (infinity, NaN) and the sign of zeros. It is one instruction.
    return quotient.gt(dividend).select(quotient, dividend)


@always_inline
def fast_reciprocal_sqrt[
    width: Int
](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Approximates `1 / sqrt(x)` to 2^-21: the CPU's estimate and a Newton step.

    Parameters:
        width: How many lanes; other than 8 and 16, and on other CPUs than x86, the
            result is exact.

    Args:
        x: Normal positive numbers.

    Returns:
        The reciprocal square roots.
    """
    comptime Lanes = SIMD[DType.float32, width]
    comptime if CompilationTarget.is_x86() and (width == 8 or width == 16):
        var y: Lanes
        comptime if width == 16:
            y = llvm_intrinsic["llvm.x86.avx512.rsqrt14.ps.512", Lanes](
                x, Lanes(0), UInt16(0xFFFF)
            )
        else:
            y = llvm_intrinsic["llvm.x86.avx.rsqrt.ps.256", Lanes](x)
        return y * (x * Lanes(-0.5)).fma(y * y, Lanes(1.5))
    else:
        return 1 / sqrt(x)


@always_inline
def fast_reciprocal[
    width: Int
](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Approximates `1 / x` to 2^-21: the CPU's estimate and a Newton step.

    Parameters:
        width: How many lanes; other than 8 and 16, and on other CPUs than x86, the
            result is exact.

    Args:
        x: Normal numbers with a normal reciprocal.

    Returns:
        The reciprocals.
    """
    comptime Lanes = SIMD[DType.float32, width]
    comptime if CompilationTarget.is_x86() and (width == 8 or width == 16):
        var y: Lanes
        comptime if width == 16:
            y = llvm_intrinsic["llvm.x86.avx512.rcp14.ps.512", Lanes](
                x, Lanes(0), UInt16(0xFFFF)
            )
        else:
            y = llvm_intrinsic["llvm.x86.avx.rcp.ps.256", Lanes](x)
        return y * (-x).fma(y, Lanes(2))
    else:
        return 1 / x
