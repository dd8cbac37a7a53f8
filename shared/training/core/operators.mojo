"""Elementwise operators of torch on lanes, rounded where its CPU kernels round."""

from std.utils.numerics import isnan


@always_inline
def effective_gradient[
    dtype: DType, width: Int
](
    param: SIMD[dtype, width],
    grad: SIMD[dtype, width],
    maximize: Float64,
    weight_decay: Float64,
) -> SIMD[dtype, width]:
    """Turns a gradient around to maximize, and lets weight decay join it.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        param: The parameters.
        grad: The gradients.
        maximize: Not 0 to maximize.
        weight_decay: How much of the parameter joins the gradient.

    Returns:
        `weight_decay param ± grad`.
    """
    var g = grad
    if maximize != 0:
        g = -g
    # 0 * param is not 0 where the parameter is infinite.
    if weight_decay != 0:
        g = param.fma(SIMD[dtype, width](weight_decay.cast[dtype]()), g)
    return g


@always_inline
def addcmul[
    dtype: DType, width: Int
](
    lanes: SIMD[dtype, width],
    a: SIMD[dtype, width],
    b: SIMD[dtype, width],
    value: SIMD[dtype, width],
) -> SIMD[dtype, width]:
    """Adds a scaled product, as torch's `addcmul`.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        lanes: What it is added to.
        a: A factor.
        b: A factor.
        value: The scale.

    Returns:
        `lanes + (value a) b`, with one rounding after that of `value a`.
    """
    return (value * a).fma(b, lanes)


@always_inline
def addcdiv[
    dtype: DType, width: Int
](
    lanes: SIMD[dtype, width],
    a: SIMD[dtype, width],
    b: SIMD[dtype, width],
    value: SIMD[dtype, width],
) -> SIMD[dtype, width]:
    """Adds a scaled quotient, as torch's `addcdiv`.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        lanes: What it is added to.
        a: The dividend.
        b: The divisor.
        value: The scale.

    Returns:
        `lanes + (value a) / b`, each operation rounded.
    """
    return lanes + value * a / b


@always_inline
def maximum[
    dtype: DType, width: Int
](a: SIMD[dtype, width], b: SIMD[dtype, width]) -> SIMD[dtype, width]:
    """Takes the larger lane, or NaN if either is, as torch's `maximum`.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        a: Lanes.
        b: Lanes.

    Returns:
        The larger of each two.
    """
    # Not a.ne(a): the compiled comparison of lanes is false for NaN.
    return (a.gt(b) | isnan(a)).select(a, b)


@always_inline
def sign[
    dtype: DType, width: Int
](lanes: SIMD[dtype, width]) -> SIMD[dtype, width]:
    """Takes the sign, as torch's `sign`.

    Parameters:
        dtype: The compute dtype.
        width: How many lanes.

    Args:
        lanes: Lanes.

    Returns:
        1, -1, or 0 for zeros and NaN.
    """
    comptime Lanes = SIMD[dtype, width]
    var positive = lanes.gt(0).select(Lanes(1), Lanes(0))
    return lanes.lt(0).select(Lanes(-1), positive)
