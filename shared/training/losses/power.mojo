"""Powers of the probability missed, which focal losses weigh with."""

from ..core.exponential import exp, log

comptime WHOLE_MAX = 16
"""The highest power that is taken by multiplications."""


@always_inline
def power[
    dtype: DType, width: SIMDLength, //
](base: SIMD[dtype, width], exponent: Float64) -> SIMD[dtype, width]:
    """Raises numbers to a power, exactly for small whole ones.

    Parameters:
        dtype: Float32 or float64.
        width: How many lanes.

    Args:
        base: Positive normal numbers.
        exponent: The power, at least 0.

    Returns:
        The powers.
    """
    comptime Lanes = SIMD[dtype, width]
    var result = Lanes(1)
    var rest = exponent
    # The logarithm's rounding counts for what remains alone.
    if exponent <= WHOLE_MAX:
        while rest >= 1:
            result *= base
            rest -= 1
    if rest > 0:
        result *= exp(log(base) * Lanes(rest.cast[dtype]()))
    return result


@always_inline
def smallest[dtype: DType]() -> Scalar[dtype]:
    """Names the least probability that is raised to a power.

    Its derivative would be infinite at 0, and that times a loss of 0 NaN.

    Parameters:
        dtype: Float32 or float64.

    Returns:
        The smallest positive normal number.
    """
    comptime if dtype == DType.float32:
        return 1.17549435082228751e-38
    else:
        return 2.2250738585072014e-308
