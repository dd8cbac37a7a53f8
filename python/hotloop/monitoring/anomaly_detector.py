"""Values that do not fit those before them."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["AnomalyDetector"]

#: 1 / Phi^-1(3/4): with it the MAD of a normal distribution is its standard deviation.
_NORMAL = 1.4826


class AnomalyDetector:
    """Flags values far from the median of the last ones, `|x - m| > k 1.4826 max(MAD, floor)`.

    m is the median of the window, which x is not yet in, MAD the median of |x_i - m| over it
    (Hampel, 1974), and floor = max(eps |m|, eps), so that a constant series does not flag its
    rounding errors.

    Flagged values enter the window too, except those that are not finite: half of it can be
    outliers before the median follows them, so a single one changes little, and a series that
    stays at a new level is flagged for about half a window and then accepted.

    An update takes O(log window) comparisons, and moves the sorted values in memory.

    Args:
        window: How many values are compared with, at least 2.
        k: How many standard deviations are borne, above 0.
        eps: The least scale, relative to the median and absolute, above 0.
        cooldown: Values after a flagged one that are not flagged, at least 0.
        min_values: Values in the window before any is flagged, in [1, window]; None for half of
            the window, rounded up.

    Raises:
        ValueError: If an argument is outside of its range.
    """

    def __init__(
        self,
        window: int = 100,
        k: float = 6.0,
        *,
        eps: float = 1e-6,
        cooldown: int = 0,
        min_values: int | None = None,
    ) -> None:
        if not isinstance(window, int) or window < 2:
            raise ValueError(f"window must be an int of at least 2, got {window!r}")
        if not 0 < k < math.inf:
            raise ValueError(f"k must be a finite number above 0, got {k!r}")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be a finite number above 0, got {eps!r}")
        if not isinstance(cooldown, int) or cooldown < 0:
            raise ValueError(f"cooldown must be an int of at least 0, got {cooldown!r}")
        least = (window + 1) // 2 if min_values is None else min_values
        if not isinstance(least, int) or not 1 <= least <= window:
            raise ValueError(f"min_values must be an int in [1, {window}], got {min_values!r}")
        self._window = window
        self._k = k
        self._eps = eps
        self._cooldown = cooldown
        self._least = least
        self._values: deque[float] = deque()
        self._sorted: list[float] = []
        self._cooling = 0

    def update(self, value: float) -> bool:
        """Take the next value.

        Args:
            value: The value.

        Returns:
            Whether it is flagged. NaN and infinities always are, and do not enter the window.
        """
        value = float(value)
        if not math.isfinite(value):
            self._cooling = self._cooldown
            return True
        is_far = len(self._sorted) >= self._least and self._is_far(value)
        self._enter(value)
        if self._cooling:
            self._cooling -= 1
            return False
        if is_far:
            self._cooling = self._cooldown
        return is_far

    def reset(self) -> None:
        """Forget every value."""
        self._values.clear()
        self._sorted.clear()
        self._cooling = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the values in the window, oldest first, and what is left of the cooldown."""
        return {"values": list(self._values), "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` of a detector with the same arguments returned.

        Raises:
            ValueError: If the state has other keys, more values than the window, some that are
                not finite, or a cooldown that is no int of at least 0.
        """
        if set(state) != {"values", "cooling"}:
            raise ValueError(f"state must have the keys 'cooling', 'values', got {sorted(state)}")
        values = [float(value) for value in state["values"]]
        if len(values) > self._window or not all(map(math.isfinite, values)):
            raise ValueError(
                f"values of the state must be at most {self._window} finite numbers, "
                f"got {len(values)} values"
            )
        cooling = state["cooling"]
        if not isinstance(cooling, int) or cooling < 0:
            raise ValueError(f"cooling of the state must be an int of at least 0, got {cooling!r}")
        self._values = deque(values)
        self._sorted = sorted(values)
        self._cooling = cooling

    def _is_far(self, value: float) -> bool:
        median = _median(self._sorted)
        floor = max(self._eps * abs(median), self._eps)
        scale = max(_median_distance(self._sorted, median), floor)
        return abs(value - median) > self._k * _NORMAL * scale

    def _enter(self, value: float) -> None:
        if len(self._values) == self._window:
            del self._sorted[bisect_left(self._sorted, self._values.popleft())]
        self._values.append(value)
        insort(self._sorted, value)


def _median(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _median_distance(ordered: list[float], center: float) -> float:
    half = len(ordered) // 2
    upper = _distance(ordered, center, half + 1)
    return upper if len(ordered) % 2 else (_distance(ordered, center, half) + upper) / 2


def _distance(ordered: list[float], center: float, count: int) -> float:
    """Return the `count`-th smallest |x - center| of ascending x."""

    # The nearest `count` values are neighbors. From left to right, the distance of their first
    # one falls and that of their last one rises: the best run is where they cross.
    def is_past(first: int) -> bool:
        return ordered[first + count - 1] - center >= center - ordered[first]

    crossing = bisect_left(range(len(ordered) - count + 1), True, key=is_past)
    return min(
        max(center - ordered[first], ordered[first + count - 1] - center)
        for first in (crossing - 1, crossing)
        if 0 <= first <= len(ordered) - count
    )
