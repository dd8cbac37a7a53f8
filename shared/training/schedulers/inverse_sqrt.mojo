"""The inverse square root schedule."""

from std.math import sqrt

from .checks import check_length
from .schedule import Schedule


struct InverseSqrt(Schedule):
    """Falls as a root: `min((s + 1) / warmup, sqrt(warmup / (s + 1)))`.

    Vaswani et al., 2017, arXiv:1706.03762.
    """

    var warmup: Int
    """Steps that rise, at least 1."""

    def __init__(
        out self,
        warmup: Int,
    ) raises:
        """Sets the arguments.

        Args:
            warmup: Steps that rise, at least 1.

        Raises:
            Error: If an argument is out of range.
        """
        check_length("warmup", warmup, 1)
        self.warmup = warmup

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var place = Float64(step + 1) / Float64(self.warmup)
        if place < 1:
            return place
        return sqrt(Float64(self.warmup) / Float64(step + 1))

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            The number of steps.
        """
        return self.warmup
