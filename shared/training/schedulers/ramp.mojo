"""Schedules that go from one factor to another over a number of steps."""

from std.math import cos, pi

from .checks import check_length, check_number
from .power import power
from .schedule import Schedule


struct Linear(Schedule):
    """Goes straight: `start + (end - start) s / steps`, then `end`; torch's LinearLR."""

    var steps: Int
    """How many, at least 0."""
    var start: Float64
    """The first factor, at least 0."""
    var end: Float64
    """The last factor, at least 0."""

    def __init__(
        out self,
        steps: Int,
        *,
        start: Float64 = 1,
        end: Float64 = 0,
    ) raises:
        """Sets the arguments.

        Args:
            steps: How many, at least 0.
            start: The first factor, at least 0.
            end: The last factor, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        check_length("steps", steps)
        check_number("start", start)
        check_number("end", end)
        self.steps = steps
        self.start = start
        self.end = end

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        if step >= self.steps:
            return self.end
        var progress = Float64(step) / Float64(self.steps)
        return self.start + (self.end - self.start) * progress


struct Cosine(Schedule):
    """Falls as a cosine: `end + (1 - end) (1 + cos(pi s / steps)) / 2`, then `end`.

    torch's CosineAnnealingLR until `steps`; after it torch climbs again, this one
    stays (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts).
    """

    var steps: Int
    """How many, at least 0."""
    var end: Float64
    """The last factor, at least 0."""

    def __init__(
        out self,
        steps: Int,
        *,
        end: Float64 = 0,
    ) raises:
        """Sets the arguments.

        Args:
            steps: How many, at least 0.
            end: The last factor, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        check_length("steps", steps)
        check_number("end", end)
        self.steps = steps
        self.end = end

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        if step >= self.steps:
            return self.end
        var progress = Float64(step) / Float64(self.steps)
        return self.end + (1 - self.end) * (1 + cos(pi * progress)) / 2


struct Polynomial(Schedule):
    """Falls as a power: `end + (1 - end) (1 - s / steps)^power`, then `end`.

    torch's PolynomialLR.
    """

    var steps: Int
    """How many, at least 0."""
    var power: Float64
    """The exponent, at least 0."""
    var end: Float64
    """The last factor, at least 0."""

    def __init__(
        out self,
        steps: Int,
        *,
        power: Float64 = 1,
        end: Float64 = 0,
    ) raises:
        """Sets the arguments.

        Args:
            steps: How many, at least 0.
            power: The exponent, at least 0.
            end: The last factor, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        check_length("steps", steps)
        check_number("power", power)
        check_number("end", end)
        self.steps = steps
        self.power = power
        self.end = end

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        if step >= self.steps:
            return self.end
        var progress = Float64(step) / Float64(self.steps)
        return self.end + (1 - self.end) * power(1 - progress, self.power)
