"""Reductions while a metric does not improve."""

from __future__ import annotations

import math
from typing import Any

from hotloop.argument import check_number
from hotloop.schedulers.schedule import check_choice

__all__ = ["ReduceOnPlateau"]

_ARGUMENTS = (
    "metric",
    "mode",
    "factor",
    "patience",
    "threshold",
    "threshold_mode",
    "cooldown",
    "min_factor",
    "max_reductions",
)


class ReduceOnPlateau:
    """A multiplier that falls when a metric has not improved for a while.

    It goes into a `Scheduler` beside a schedule, whose factor it multiplies, and counts like
    torch's ReduceLROnPlateau: after more than `patience` values without improvement the
    multiplier is reduced and `cooldown` values are let pass. A value that is not a number
    is no improvement.

    Args:
        metric: The name of the metric, which the Trainer looks up after each epoch.
        mode: "min" if smaller is better, "max" if larger is.
        factor: What a reduction multiplies with, in (0, 1).
        patience: Values without improvement that are borne, at least 0.
        threshold: By how much a value must be better, at least 0.
        threshold_mode: "rel" of the best value, or "abs".
        cooldown: Values after a reduction that do not count, at least 0.
        min_factor: Where the multiplier stops, in [0, 1].
        max_reductions: The most reductions; None for any number.

    Attributes:
        multiplier: The present multiplier, from 1 down.
        reductions: How many there were.
    """

    def __init__(
        self,
        metric: str = "val_loss",
        *,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_factor: float = 0.0,
        max_reductions: int | None = None,
    ) -> None:
        check_choice("mode", mode, ("min", "max"))
        check_number("factor", factor, 0, 1)
        if factor in (0, 1):
            raise ValueError(f"factor must be above 0 and below 1, got {factor!r}")
        check_number("patience", patience, 0)
        check_number("threshold", threshold, 0)
        check_choice("threshold_mode", threshold_mode, ("rel", "abs"))
        check_number("cooldown", cooldown, 0)
        check_number("min_factor", min_factor, 0, 1)
        if max_reductions is not None:
            check_number("max_reductions", max_reductions, 0)
        self.metric = metric
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_factor = min_factor
        self.max_reductions = max_reductions
        self.multiplier = 1.0
        self.reductions = 0
        self._best: float | None = None
        self._bad = 0
        self._cooling = 0

    def observe(self, value: float) -> bool:
        """Take the next value of the metric.

        Args:
            value: The value.

        Returns:
            Whether the multiplier was reduced.
        """
        value = float(value)
        if self._is_better(value):
            self._best = value
            self._bad = 0
        else:
            self._bad += 1
        if self._cooling:
            self._cooling -= 1
            self._bad = 0
        if self._bad <= self.patience:
            return False
        self._bad = 0
        self._cooling = self.cooldown
        is_done = self.max_reductions is not None and self.reductions >= self.max_reductions
        reduced = max(self.multiplier * self.factor, self.min_factor)
        if is_done or reduced == self.multiplier:
            return False
        self.multiplier = reduced
        self.reductions += 1
        return True

    def spec(self) -> dict[str, Any]:
        """Return the arguments, as a dict that JSON holds."""
        return {name: getattr(self, name) for name in _ARGUMENTS}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, as a dict that JSON holds."""
        return {
            "multiplier": self.multiplier,
            "reductions": self.reductions,
            "best": self._best,
            "bad": self._bad,
            "cooling": self._cooling,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned.
        """
        self.multiplier = state["multiplier"]
        self.reductions = state["reductions"]
        self._best = state["best"]
        self._bad = state["bad"]
        self._cooling = state["cooling"]

    def _is_better(self, value: float) -> bool:
        best = self._best
        if best is None:
            return not math.isnan(value)
        sign = -1 if self.mode == "min" else 1
        margin = self.threshold * (best if self.threshold_mode == "rel" else 1)
        return sign * value > sign * (best + sign * margin)
