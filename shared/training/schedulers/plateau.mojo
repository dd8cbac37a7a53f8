"""Reductions while a metric does not improve."""

from std.utils.numerics import isnan

from ..core import TextState
from .checks import check_length, check_number


struct ReduceOnPlateau[mode: StaticString = "min", is_relative: Bool = True](
    Copyable, Movable
):
    """A multiplier that falls when a metric has not improved for a while.

    Counts like torch's ReduceLROnPlateau: after more than `patience` values without
    improvement the multiplier is reduced and `cooldown` values are let pass. NaN is no
    improvement.

    Parameters:
        mode: "min" if smaller is better, "max" if larger is.
        is_relative: Whether `threshold` is relative to the best value.
    """

    var factor: Float64
    """What a reduction multiplies with."""
    var patience: Int
    """Values without improvement that are borne."""
    var threshold: Float64
    """By how much a value must be better."""
    var cooldown: Int
    """Values after a reduction that do not count."""
    var min_factor: Float64
    """Where the multiplier stops."""
    var multiplier: Float64
    """The present multiplier, from 1 down."""
    var reductions: Int
    """How many there were."""
    var _has_best: Bool
    var _best: Float64
    var _bad: Int
    var _cooling: Int

    def __init__(
        out self,
        *,
        factor: Float64 = 0.1,
        patience: Int = 10,
        threshold: Float64 = 1e-4,
        cooldown: Int = 0,
        min_factor: Float64 = 0,
    ) raises:
        """Starts at a multiplier of 1.

        Args:
            factor: What a reduction multiplies with, above 0 and below 1.
            patience: Values without improvement that are borne, at least 0.
            threshold: By how much a value must be better, at least 0.
            cooldown: Values after a reduction that do not count, at least 0.
            min_factor: Where the multiplier stops, at most 1.

        Raises:
            Error: If an argument is out of range.
        """
        comptime assert (
            Self.mode == "min" or Self.mode == "max"
        ), "mode must be min or max"
        check_number("factor", factor, 0, 1)
        if factor == 0 or factor == 1:
            raise Error("factor must be above 0 and below 1, got ", factor)
        check_length("patience", patience)
        check_number("threshold", threshold)
        check_length("cooldown", cooldown)
        check_number("min_factor", min_factor, 0, 1)
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.cooldown = cooldown
        self.min_factor = min_factor
        self.multiplier = 1
        self.reductions = 0
        self._has_best = False
        self._best = 0
        self._bad = 0
        self._cooling = 0

    def observe(mut self, value: Float64) -> Bool:
        """Takes the next value of the metric.

        Args:
            value: The value.

        Returns:
            Whether the multiplier was reduced.
        """
        if self._is_better(value):
            self._has_best = True
            self._best = value
            self._bad = 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad <= self.patience:
            return False
        self._bad = 0
        self._cooling = self.cooldown
        var reduced = max(self.multiplier * self.factor, self.min_factor)
        if reduced == self.multiplier:
            return False
        self.multiplier = reduced
        self.reductions += 1
        return True

    def _is_better(self, value: Float64) -> Bool:
        if not self._has_best:
            return not isnan(value)
        var margin = self.threshold
        comptime if Self.is_relative:
            margin *= self._best
        comptime if Self.mode == "min":
            return value < self._best - margin
        return value > self._best + margin

    def state_dict(self) -> String:
        """Writes the counters down.

        Returns:
            A line `key=value` for each.
        """
        var state = TextState()
        state.put("multiplier", String(self.multiplier))
        state.put("reductions", String(self.reductions))
        state.put("best", String(self._best) if self._has_best else "none")
        state.put("bad", String(self._bad))
        state.put("cooling", String(self._cooling))
        return state.text

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If a line is missing or not a number; nothing is changed then.
        """
        var state = TextState(text)
        var multiplier = Float64(state.get("multiplier"))
        var reductions = Int(state.get("reductions"))
        var best = state.get("best")
        var has_best = best != "none"
        var best_value = Float64(best) if has_best else Float64(0)
        var bad = Int(state.get("bad"))
        self._cooling = Int(state.get("cooling"))
        self._bad = bad
        self._best = best_value
        self._has_best = has_best
        self.reductions = reductions
        self.multiplier = multiplier
