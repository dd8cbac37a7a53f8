"""Warm-up: the way up to the full value."""

from std.math import cos, exp, expm1, pi

from .checks import check_length, check_number
from .power import power
from .schedule import Schedule

comptime RATE = 5.0
"""How steep the exponential from 0 is."""


struct Warmup[shape: StaticString = "linear"](Schedule):
    """Rises from `start` to 1, which it reaches and keeps.

    With `u = min((s + 1) / steps, 1)` and a = `start` the factor is, by shape:
    "linear" `a + (1 - a) u`; "cosine" `a + (1 - a) (1 - cos(pi u)) / 2`;
    "polynomial" `a + (1 - a) u^power`; "exponential" `a^(1-u)`, or at a = 0
    `(e^(5u) - 1) / (e^5 - 1)`. Goyal et al., 2017, arXiv:1706.02677.

    Parameters:
        shape: "linear", "cosine", "polynomial" or "exponential".
    """

    var steps: Int
    """How many; 0 for none."""
    var start: Float64
    """Where it begins, at most 1."""
    var power: Float64
    """The exponent of "polynomial", above 0."""
    var include_zero: Bool
    """Whether step 0 gets `start` itself, `u = s / steps`."""

    def __init__(
        out self,
        steps: Int,
        *,
        start: Float64 = 0,
        power: Float64 = 2,
        include_zero: Bool = False,
    ) raises:
        """Sets the arguments.

        Args:
            steps: How many; 0 for none.
            start: Where it begins, at most 1.
            power: The exponent of "polynomial", above 0.
            include_zero: Whether step 0 gets `start` itself, `u = s / steps`.

        Raises:
            Error: If an argument is out of range.
        """
        comptime assert (
            Self.shape == "linear"
            or Self.shape == "cosine"
            or Self.shape == "polynomial"
            or Self.shape == "exponential"
        ), "shape must be linear, cosine, polynomial or exponential"
        check_length("steps", steps)
        check_number("start", start, 0, 1)
        check_number("power", power)
        if power == 0:
            raise Error("power must be above 0, got 0")
        self.steps = steps
        self.start = start
        self.power = power
        self.include_zero = include_zero

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var done = step if self.include_zero else step + 1
        if done >= self.steps:
            return 1
        var u = Float64(done) / Float64(self.steps)
        comptime if Self.shape == "cosine":
            u = (1 - cos(pi * u)) / 2
        comptime if Self.shape == "polynomial":
            u = power(u, self.power)
        comptime if Self.shape == "exponential":
            if self.start > 0:
                return power(self.start, 1 - u)
            u = expm1(RATE * u) / expm1(Float64(RATE))
        return self.start + (1 - self.start) * u

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            The number of steps.
        """
        return self.steps
