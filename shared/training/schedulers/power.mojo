"""Powers, rounded as the C library rounds them."""

from std.ffi import external_call


def power(base: Float64, exponent: Float64) -> Float64:
    """Raises a number to a power.

    The operator `**` is off by some 1e-13 for exponents that are no integers, and
    gathers an error with each multiplication for those that are.

    Args:
        base: The number, at least 0.
        exponent: The exponent.

    Returns:
        The power, to the last digit or next to it.
    """
    return external_call["pow", Float64](base, exponent)
