"""Schedules given by values: points, tables, functions."""

from .checks import check_length, check_number
from .schedule import Schedule


struct Table(Schedule):
    """Takes each step's factor from a list; after the last one it stays."""

    var values: List[Float64]
    """The factors, at least one, each at least 0."""

    def __init__(
        out self,
        var values: List[Float64],
    ) raises:
        """Sets the arguments.

        Args:
            values: The factors, at least one, each at least 0.

        Raises:
            Error: If there is none, or one is negative or not finite.
        """
        if len(values) == 0:
            raise Error("values must hold at least one factor, got none")
        for i in range(len(values)):
            check_number(String("values[", i, "]"), values[i])
        self.values = values^

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return self.values[min(step, len(self.values) - 1)]


struct Piecewise[shape: StaticString = "linear"](Schedule):
    """Goes through given points; before the first and after the last it is flat.

    Parameters:
        shape: "linear" between points, or "constant": each factor holds until the next.
    """

    var steps: List[Int]
    """The steps of the points, at least 0, increasing."""
    var factors: List[Float64]
    """Their factors, each at least 0."""

    def __init__(
        out self,
        var steps: List[Int],
        var factors: List[Float64],
    ) raises:
        """Sets the arguments.

        Args:
            steps: The steps of the points, at least 0, increasing.
            factors: Their factors, each at least 0.

        Raises:
            Error: If there is no point, the steps do not increase, or a factor is negative.
        """
        comptime assert (
            Self.shape == "linear" or Self.shape == "constant"
        ), "shape must be linear or constant"
        if len(steps) == 0 or len(steps) != len(factors):
            raise Error(
                "steps and factors must be equally many and at least 1, got ",
                len(steps),
                " and ",
                len(factors),
            )
        for i in range(len(steps)):
            check_length("steps", steps[i], steps[i - 1] + 1 if i > 0 else 0)
            check_number("factors", factors[i])
        self.steps = steps^
        self.factors = factors^

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var index = 0
        while index < len(self.steps) and self.steps[index] <= step:
            index += 1
        if index == 0:
            return self.factors[0]
        var low = self.factors[index - 1]
        comptime if Self.shape == "constant":
            return low
        if index == len(self.steps):
            return low
        var begin = self.steps[index - 1]
        var length = Float64(self.steps[index] - begin)
        var rise = self.factors[index] - low
        return low + rise * Float64(step - begin) / length


@fieldwise_init
struct Lambda[function: def(Int) thin -> Float64](Schedule):
    """Any function of the step.

    Parameters:
        function: Maps a step to a factor.
    """

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return Self.function(step)
