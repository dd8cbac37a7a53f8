"""The history of logged values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hotloop.errors import unknown_name

__all__ = ["MetricTracker"]

_FEWEST_POINTS = 8


class MetricTracker:
    """Keeps named values with the steps at which they were logged.

    Not thread-safe: update and read it in one thread, or hold a lock.

    With `max_points`, a name that has more points is thinned to about half of them or fewer, evenly
    over its steps. Its first and its latest point stay, and so does the best one of either mode, so
    `latest` and `best` are those of the whole history.

    Args:
        max_points: The most points of a name, at least 8; None keeps all.

    Raises:
        ValueError: If `max_points` is not an int of at least 8.
    """

    def __init__(self, max_points: int | None = None) -> None:
        if max_points is not None and (
            not isinstance(max_points, int) or max_points < _FEWEST_POINTS
        ):
            raise ValueError(
                f"max_points must be an int of at least {_FEWEST_POINTS} or None, "
                f"got {max_points!r}"
            )
        self.max_points = max_points
        self._points: dict[str, list[tuple[int, float]]] = {}

    def update(self, values: Mapping[str, float], step: int) -> None:
        """Append a value to the history of each name.

        Args:
            values: The values by name; NaN and infinities are kept.
            step: Their step. A name may be logged more than once at a step.

        Raises:
            ValueError: If `step` is not an int, or below the last one of a name. No value is
                kept then.
        """
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"step must be an int, got {step!r}")
        new = {name: float(value) for name, value in values.items()}
        for name in new:
            if name in self._points and step < self._points[name][-1][0]:
                raise ValueError(
                    f"step must not be below the last step of {name!r}, "
                    f"{self._points[name][-1][0]}, got {step!r}"
                )
        for name, value in new.items():
            points = self._points.setdefault(name, [])
            points.append((step, value))
            if self.max_points is not None and len(points) > self.max_points:
                self._points[name] = _thinned(points, self.max_points)

    def names(self) -> list[str]:
        """Return the names, in the order of their first value."""
        return list(self._points)

    def history(self, name: str) -> list[tuple[int, float]]:
        """Return a copy of the steps and values of a name, oldest first.

        Args:
            name: The name.

        Raises:
            KeyError: If the name was never logged.
        """
        return list(self._known(name))

    def __getitem__(self, name: str) -> list[float]:
        """Return a copy of the values of a name, oldest first; KeyError like `history`."""
        return [value for _, value in self._known(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._points

    def latest(self, name: str) -> float:
        """Return the last value of a name.

        Args:
            name: The name.

        Raises:
            KeyError: If the name was never logged.
        """
        return self._known(name)[-1][1]

    def best(self, name: str, mode: str = "min") -> tuple[int, float] | None:
        """Return the step and the value of the best point of a name.

        NaN is never the best. Infinities are ordered like numbers: -inf is the least value.

        Args:
            name: The name.
            mode: "min" if smaller is better, "max" if larger is.

        Returns:
            The point, of equal values the earliest one; None if every value is NaN.

        Raises:
            KeyError: If the name was never logged.
            ValueError: If the mode is another one.
        """
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be one of 'min', 'max', got {mode!r}")
        points = self._known(name)
        index = _best(points, mode)
        return None if index is None else points[index]

    def aligned(self, names: Iterable[str]) -> list[tuple[int, dict[str, float]]]:
        """Return a row for each step at which one of the names has a point, in order.

        Args:
            names: The names.

        Returns:
            The steps with the values by name; of several values of a step the last one. A name
            that has none at a step is not in that row.

        Raises:
            KeyError: If a name was never logged.
        """
        rows: dict[int, dict[str, float]] = {}
        for name in names:
            for step, value in self._known(name):
                rows.setdefault(step, {})[name] = value
        return sorted(rows.items(), key=lambda row: row[0])

    def reset(self) -> None:
        """Forget every name."""
        self._points = {}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the histories: "points", a list of [step, value] for each name."""
        return {
            "points": {
                name: [[step, value] for step, value in points]
                for name, points in self._points.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the histories by copies of those of a state.

        Args:
            state: What `state_dict` returned, also that of a tracker with another `max_points`.

        Raises:
            ValueError: If the state has other keys, or its steps go backwards. Nothing is
                replaced then.
        """
        if set(state) != {"points"}:
            raise ValueError(f"state must have the key 'points' alone, got {sorted(state)}")
        loaded = MetricTracker(self.max_points)
        for name, points in state["points"].items():
            for step, value in points:
                loaded.update({name: value}, step)
        self._points = loaded._points

    def _known(self, name: str) -> list[tuple[int, float]]:
        if name in self._points:
            return self._points[name]
        if not self._points:
            raise KeyError(f"unknown metric {name!r}; nothing was logged yet")
        raise KeyError(unknown_name("metric", name, self._points))


def _best(points: list[tuple[int, float]], mode: str) -> int | None:
    numbers = [index for index, (_, value) in enumerate(points) if not math.isnan(value)]
    sign = 1 if mode == "min" else -1
    # min returns the first of equals.
    return min(numbers, key=lambda index: sign * points[index][1], default=None)


def _thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    # Of each bucket of steps the first point stays: at most `most // 2 + 1`, and the latest and
    # the two best on top. Widths are powers of two, so that wider buckets are unions of narrower
    # ones: what stays does not depend on how often the points were thinned before.
    start = points[0][0]
    width = 1
    while (points[-1][0] - start) // width > most // 2:
        width *= 2
    stay = {len(points) - 1, _best(points, "min"), _best(points, "max")}
    kept = []
    last = -1
    for index, (step, value) in enumerate(points):
        bucket = (step - start) // width
        if bucket > last or index in stay:
            kept.append((step, value))
        last = bucket
    return kept
