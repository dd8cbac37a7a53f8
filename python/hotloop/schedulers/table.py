"""Schedules given by values: points, tables, functions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.schedule import Schedule, check_choice

__all__ = ["Lambda", "Piecewise", "Table"]


@dataclass(frozen=True)
class Table(Schedule):
    """A factor for each step; after the last one it stays.

    Args:
        values: The factors, at least one, each at least 0.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        super().__post_init__()

    def _check(self) -> None:
        if not self.values:
            raise ValueError("values must hold at least one factor, got none")
        for index, value in enumerate(self.values):
            check_number(f"values[{index}]", value, 0)

    @property
    def length(self) -> int:
        """The index of the last factor."""
        return len(self.values) - 1

    def _factor(self, step: int) -> float:
        return float(self.values[min(step, len(self.values) - 1)])


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Factors at given steps, and what lies between them.

    Before the first point its factor holds, after the last one the last.

    Args:
        points: Pairs of step and factor, or a mapping; the steps, at least 0, increase.
        shape: "linear" between points, or "constant": each factor holds until the next.
    """

    points: tuple[tuple[int, float], ...]
    shape: str = "linear"

    def __post_init__(self) -> None:
        points: Any = self.points
        if isinstance(points, Mapping):
            points = points.items()
        object.__setattr__(self, "points", tuple(tuple(point) for point in points))
        super().__post_init__()

    def _check(self) -> None:
        check_choice("shape", self.shape, ("linear", "constant"))
        if not self.points or any(len(point) != 2 for point in self.points):
            raise ValueError(f"points must be pairs of step and factor, got {self.points!r}")
        before = -1
        for step, factor in self.points:
            if not isinstance(step, int) or step <= before:
                raise ValueError(f"points must have increasing int steps, got {self.points!r}")
            check_number(f"the factor at step {step}", factor, 0)
            before = step

    @property
    def length(self) -> int:
        """The step of the last point."""
        return self.points[-1][0]

    def _factor(self, step: int) -> float:
        index = bisect_right(self.points, step, key=lambda point: point[0])
        if index == 0:
            return float(self.points[0][1])
        begin, low = self.points[index - 1]
        if index == len(self.points) or self.shape == "constant":
            return float(low)
        end, high = self.points[index]
        return low + (high - low) * (step - begin) / (end - begin)


@dataclass(frozen=True)
class Lambda(Schedule):
    """Any function of the step.

    Its spec holds the function's name only: a spec can be compared with it, but no function
    is ever made from a spec.

    Args:
        function: Maps a step to a factor.
    """

    function: Callable[[int], float]

    def _check(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function must be a function of the step, got {self.function!r}")

    def spec(self) -> dict[str, Any]:
        """Return the name of the schedule and that of the function."""
        function: Any = self.function
        module = getattr(function, "__module__", type(function).__module__)
        qualified = getattr(function, "__qualname__", type(function).__qualname__)
        return {"name": self.name, "function": f"{module}.{qualified}"}

    def _factor(self, step: int) -> float:
        return float(self.function(step))
