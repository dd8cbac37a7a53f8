"""Random numbers that are a function of a counter and a key.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011. No state is shared, so that a number depends on what it is for, and not on who draws it.
"""

comptime ROUNDS = 10
"""Rounds of Philox."""


@always_inline
def philox[
    width: Int
](
    first: SIMD[DType.uint32, width],
    second: SIMD[DType.uint32, width],
    third: SIMD[DType.uint32, width],
    fourth: SIMD[DType.uint32, width],
    key: UInt64,
) -> Array[SIMD[DType.uint32, width], 4]:
    """Computes Philox4x32-10 of a counter in each lane.

    Parameters:
        width: How many lanes.

    Args:
        first: The first words of the counters.
        second: Their second words.
        third: Their third words.
        fourth: Their fourth words.
        key: The key, of which the low half is the first word.

    Returns:
        Four words of random bits for each counter.
    """
    var a = first
    var b = second
    var c = third
    var d = fourth
    var low_key = (key & 0xFFFFFFFF).cast[DType.uint32]()
    var high_key = (key >> 32).cast[DType.uint32]()
    comptime for _ in range(ROUNDS):
        var left = _product[width](0xD2511F53, a)
        var right = _product[width](0xCD9E8D57, c)
        a = right[1] ^ b ^ low_key
        b = right[0]
        c = left[1] ^ d ^ high_key
        d = left[0]
        low_key += 0x9E3779B9
        high_key += 0xBB67AE85
    return [a, b, c, d]


@always_inline
def _product[
    width: Int
](factor: UInt64, lanes: SIMD[DType.uint32, width]) -> Tuple[
    SIMD[DType.uint32, width], SIMD[DType.uint32, width]
]:
    # The low and the high half of a product of 64 bits.
    var product = lanes.cast[DType.uint64]() * factor
    return (
        product.cast[DType.uint32](),
        (product >> 32).cast[DType.uint32](),
    )
