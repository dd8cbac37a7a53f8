"""Noise on a schedule."""

from std.math import cos, log, pi, sqrt

from .checks import check_length, check_number
from .schedule import Schedule

comptime STRIDE = UInt64(0x9E37_79B9_7F4A_7C15)
"""How far two states of the generator lie apart."""


struct Noisy[Inner: Schedule](Schedule):
    """Multiplies a schedule by `max(1 + std z(seed, s), 0.1)` in part of each cycle.

    z is a standard normal number that depends on nothing but the seed and the step,
    so that a resumed run sees the same noise: SplitMix64 (Steele, Lea and Flood,
    2014) makes two uniform numbers of them, Box and Muller (1958) a normal one.

    Parameters:
        Inner: The type of the schedule.
    """

    var schedule: Self.Inner
    """The schedule."""
    var std: Float64
    """The standard deviation of the noise, relative, at least 0."""
    var window: Float64
    """The part of a cycle that has noise, at most 1."""
    var cycle: Int
    """The steps of a cycle, at least 1."""
    var seed: UInt64
    """The seed."""

    def __init__(
        out self,
        var schedule: Self.Inner,
        *,
        std: Float64 = 0.1,
        window: Float64 = 0.1,
        cycle: Int = 1000,
        seed: UInt64 = 0,
    ) raises:
        """Sets the arguments.

        Args:
            schedule: The schedule.
            std: The standard deviation of the noise, relative, at least 0.
            window: The part of a cycle that has noise, at most 1.
            cycle: The steps of a cycle, at least 1.
            seed: The seed.

        Raises:
            Error: If an argument is out of range.
        """
        check_number("std", std)
        check_number("window", window, 0, 1)
        check_length("cycle", cycle, 1)
        self.schedule = schedule^
        self.std = std
        self.window = window
        self.cycle = cycle
        self.seed = seed

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var factor = self.schedule.value(step)
        if Float64(step % self.cycle) >= self.window * Float64(self.cycle):
            return factor
        return factor * max(1 + self.std * _normal(self.seed, step), 0.1)

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            The number of steps.
        """
        return self.schedule.warmup_steps()


def _normal(seed: UInt64, step: Int) -> Float64:
    var start = _mixed(seed + STRIDE)
    var first = _mixed(start + (UInt64(2 * step) + 1) * STRIDE)
    var second = _mixed(start + (UInt64(2 * step) + 2) * STRIDE)
    # 53 bits each; the first is above 0, for its logarithm.
    comptime unit = 1.0 / 9007199254740992.0
    var radius = sqrt(
        -2 * log(((first >> 11) + 1).cast[DType.float64]() * unit)
    )
    return radius * cos(2 * pi * (second >> 11).cast[DType.float64]() * unit)


def _mixed(state: UInt64) -> UInt64:
    var bits = (state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D0_49BB_1331_11EB
    return bits ^ (bits >> 31)
