"""Cosine annealing with warm restarts (SGDR)."""

from std.math import cos, pi

from .checks import check_length, check_number
from .power import power
from .schedule import Schedule


struct CosineRestarts(Schedule):
    """Falls as cosines, each longer than the last: torch's warm restarts.

    Cycle i takes `T_i = period multiplier^i` steps; at its step s the factor is
    `end + (peak^i - end) (1 + cos(pi s / T_i)) / 2` (Loshchilov and Hutter, 2017,
    arXiv:1608.03983).
    """

    var period: Int
    """Steps of the first cycle, at least 1."""
    var multiplier: Int
    """How many times longer each further cycle is, at least 1."""
    var end: Float64
    """The factor that a cycle falls to, at least 0."""
    var peak: Float64
    """How many times higher each further cycle starts, at least 0."""

    def __init__(
        out self,
        period: Int,
        *,
        multiplier: Int = 1,
        end: Float64 = 0,
        peak: Float64 = 1,
    ) raises:
        """Sets the arguments.

        Args:
            period: Steps of the first cycle, at least 1.
            multiplier: How many times longer each further cycle is, at least 1.
            end: The factor that a cycle falls to, at least 0.
            peak: How many times higher each further cycle starts, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        check_length("period", period, 1)
        check_length("multiplier", multiplier, 1)
        check_number("end", end)
        check_number("peak", peak)
        self.period = period
        self.multiplier = multiplier
        self.end = end
        self.peak = peak

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var period = self.period
        var place = step
        var cycle = 0
        if self.multiplier == 1:
            cycle = step // period
            place = step % period
        else:
            while place >= period:
                place -= period
                period *= self.multiplier
                cycle += 1
        var height = power(self.peak, Float64(cycle)) - self.end
        var progress = Float64(place) / Float64(period)
        return self.end + height * (1 + cos(pi * progress)) / 2
