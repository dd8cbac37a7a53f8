"""The one-cycle policy."""

from std.math import cos, pi

from .checks import check_length, check_number
from .schedule import Schedule


struct OneCycle[shape: StaticString = "cosine", three_phase: Bool = False](
    Schedule
):
    """Rises to the peak, falls to the end: torch's OneCycleLR, with max_lr as 1.

    The peak is at step `pct_start * steps - 1`, the end at `steps - 1`; with three
    phases the way down to `start` takes as long as the way up (Smith and Topin,
    2018, arXiv:1708.07120).

    Parameters:
        shape: "cosine" or "linear".
        three_phase: Whether to return to `start` before going to `end`.
    """

    var steps: Int
    """How many, at least 0."""
    var pct_start: Float64
    """The part of the steps that rise, at most 1, or 0.5 with three phases."""
    var start: Float64
    """The first factor, at least 0."""
    var peak: Float64
    """The factor at the peak, at least 0."""
    var end: Float64
    """The last factor, at least 0."""

    def __init__(
        out self,
        steps: Int,
        *,
        pct_start: Float64 = 0.3,
        start: Float64 = 1.0 / 25,
        peak: Float64 = 1,
        end: Float64 = 1.0 / 250_000,
    ) raises:
        """Sets the arguments.

        Args:
            steps: How many, at least 0.
            pct_start: The part of the steps that rise, at most 1, or 0.5 with three phases.
            start: The first factor, at least 0.
            peak: The factor at the peak, at least 0.
            end: The last factor, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        comptime assert (
            Self.shape == "cosine" or Self.shape == "linear"
        ), "shape must be cosine or linear"
        check_length("steps", steps)
        check_number(
            "pct_start", pct_start, 0, 0.5 if Self.three_phase else 1.0
        )
        check_number("start", start)
        check_number("peak", peak)
        check_number("end", end)
        self.steps = steps
        self.pct_start = pct_start
        self.start = start
        self.peak = peak
        self.end = end

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var rising = self.pct_start * Float64(self.steps)
        var last = Float64(self.steps - 1)
        var place = Float64(step)
        if place >= last:
            return self.end
        if place <= rising - 1:
            return Self._between(self.start, self.peak, place, rising - 1)
        place -= rising - 1
        last -= rising - 1
        comptime if Self.three_phase:
            if place <= rising - 1:
                return Self._between(self.peak, self.start, place, rising - 1)
            place -= rising - 1
            last -= rising - 1
            return Self._between(self.start, self.end, place, last)
        return Self._between(self.peak, self.end, place, last)

    @staticmethod
    def _between(
        begin: Float64, end: Float64, place: Float64, length: Float64
    ) -> Float64:
        # A phase of no length is at its end.
        var progress = place / length if length > 0 else Float64(1)
        comptime if Self.shape == "linear":
            return begin + (end - begin) * progress
        return end + (begin - end) * (1 + cos(pi * progress)) / 2

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            The number of steps.
        """
        return Int(self.pct_start * Float64(self.steps))
