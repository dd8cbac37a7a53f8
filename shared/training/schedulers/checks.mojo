"""Checks of the arguments of schedules."""

from std.utils.numerics import isfinite


def check_number(
    name: String,
    value: Float64,
    low: Float64 = 0,
    high: Float64 = Float64.MAX_FINITE,
) raises:
    """Checks that a number is finite and in a range.

    Args:
        name: What the error calls it.
        value: The number.
        low: The least allowed.
        high: The largest allowed.

    Raises:
        Error: If it is not.
    """
    if isfinite(value) and value >= low and value <= high:
        return
    var limits = String("of at least ", low)
    if high < Float64.MAX_FINITE:
        limits = String("in [", low, ", ", high, "]")
    raise Error(name, " must be a finite number ", limits, ", got ", value)


def check_length(name: String, value: Int, least: Int = 0) raises:
    """Checks that a number of steps is large enough.

    Args:
        name: What the error calls it.
        value: The number of steps.
        least: The least allowed.

    Raises:
        Error: If it is less.
    """
    if value < least:
        raise Error(name, " must be at least ", least, ", got ", value)
