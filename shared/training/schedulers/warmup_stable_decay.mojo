"""Warm-up, a long plateau, a short decay."""

from std.math import cos, pi, sqrt

from .checks import check_length, check_number
from .schedule import Schedule


struct WarmupStableDecay[shape: StaticString = "sqrt"](Schedule):
    """Rises as `(s + 1) / warmup`, stays at 1, and falls to `end` at last (WSD).

    With u from 0 to 1 over the decay the factor there is `end + (1 - end) f`, where
    f is `1 - sqrt(u)`, `1 - u` or `(1 + cos(pi u)) / 2` (Hu et al., 2024,
    arXiv:2404.06395; of the square root Hägele et al., 2024, arXiv:2405.18392).

    Parameters:
        shape: "sqrt", "linear" or "cosine".
    """

    var steps: Int
    """Of all three parts."""
    var warmup: Int
    """Steps that rise, at least 0."""
    var decay: Int
    """Steps that fall, at least 0."""
    var end: Float64
    """The last factor, at most 1."""

    def __init__(
        out self,
        steps: Int,
        warmup: Int,
        decay: Int,
        *,
        end: Float64 = 0,
    ) raises:
        """Sets the arguments.

        Args:
            steps: Of all three parts.
            warmup: Steps that rise, at least 0.
            decay: Steps that fall, at least 0.
            end: The last factor, at most 1.

        Raises:
            Error: If the parts do not fit into `steps`, or an argument is out of range.
        """
        comptime assert (
            Self.shape == "sqrt"
            or Self.shape == "linear"
            or Self.shape == "cosine"
        ), "shape must be sqrt, linear or cosine"
        check_length("warmup", warmup)
        check_length("decay", decay)
        check_length("steps", steps, warmup + decay)
        check_number("end", end, 0, 1)
        self.steps = steps
        self.warmup = warmup
        self.decay = decay
        self.end = end

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        if step < self.warmup:
            return Float64(step + 1) / Float64(self.warmup)
        if step < self.steps - self.decay:
            return 1
        if step >= self.steps:
            return self.end
        var u = Float64(step - (self.steps - self.decay)) / Float64(self.decay)
        var left: Float64
        comptime if Self.shape == "sqrt":
            left = 1 - sqrt(u)
        elif Self.shape == "linear":
            left = 1 - u
        else:
            left = (1 + cos(pi * u)) / 2
        return self.end + (1 - self.end) * left

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            The number of steps.
        """
        return self.warmup
