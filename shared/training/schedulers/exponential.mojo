"""Exponential decay."""

from .checks import check_number
from .power import power
from .schedule import Schedule


struct Exponential(Schedule):
    """Decays at each step: `max(gamma^s, end)`; without an end torch's ExponentialLR."""

    var gamma: Float64
    """The factor of each step, at least 0."""
    var end: Float64
    """The least factor, at least 0."""

    def __init__(
        out self,
        gamma: Float64,
        *,
        end: Float64 = 0,
    ) raises:
        """Sets the arguments.

        Args:
            gamma: The factor of each step, at least 0.
            end: The least factor, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        check_number("gamma", gamma)
        check_number("end", end)
        self.gamma = gamma
        self.end = end

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return max(power(self.gamma, Float64(step)), self.end)
