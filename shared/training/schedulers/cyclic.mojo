"""Cyclical rates."""

from .checks import check_length, check_number
from .power import power
from .schedule import Schedule


struct Cyclic[shape: StaticString = "triangular"](Schedule):
    """Draws triangles between two factors: torch's CyclicLR, with max_lr as 1.

    In cycle c, counted from 1, the factor is `start + (peak - start) h x`, where x
    rises from 0 to 1 in `up` steps and falls back in `down`. The height h is 1 for
    "triangular", `2^(1-c)` for "triangular2" and `gamma^s` for "exp_range" (Smith,
    2017, arXiv:1506.01186).

    Parameters:
        shape: "triangular", "triangular2" or "exp_range".
    """

    var up: Int
    """Steps that rise, at least 1."""
    var down: Int
    """Steps that fall, at least 1."""
    var start: Float64
    """The factor at the foot, at least 0."""
    var peak: Float64
    """The factor at the top, at least 0."""
    var gamma: Float64
    """The decay of "exp_range", at most 1."""

    def __init__(
        out self,
        up: Int,
        down: Int,
        *,
        start: Float64 = 0.1,
        peak: Float64 = 1,
        gamma: Float64 = 1,
    ) raises:
        """Sets the arguments.

        Args:
            up: Steps that rise, at least 1.
            down: Steps that fall, at least 1.
            start: The factor at the foot, at least 0.
            peak: The factor at the top, at least 0.
            gamma: The decay of "exp_range", at most 1.

        Raises:
            Error: If an argument is out of range.
        """
        comptime assert (
            Self.shape == "triangular"
            or Self.shape == "triangular2"
            or Self.shape == "exp_range"
        ), "shape must be triangular, triangular2 or exp_range"
        check_length("up", up, 1)
        check_length("down", down, 1)
        check_number("start", start)
        check_number("peak", peak)
        check_number("gamma", gamma, 0, 1)
        self.up = up
        self.down = down
        self.start = start
        self.peak = peak
        self.gamma = gamma

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var period = self.up + self.down
        var cycle = step // period
        var place = step % period
        var height = Float64(place) / Float64(self.up)
        if place > self.up:
            height = Float64(period - place) / Float64(self.down)
        comptime if Self.shape == "triangular2":
            height *= power(0.5, Float64(cycle))
        comptime if Self.shape == "exp_range":
            height *= power(self.gamma, Float64(step))
        return self.start + (self.peak - self.start) * height
