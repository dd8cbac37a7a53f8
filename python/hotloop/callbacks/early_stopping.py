"""Ends a run that no longer gets better."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from hotloop.argument import check_count
from hotloop.callbacks.action import Action, KeepWeights, RestoreWeights, Stop
from hotloop.callbacks.callback import Actions, Callback, TrainState
from hotloop.errors import unknown_name

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Ends a run when a value has not improved for some time (Prechelt, 1998).

    A value v improves on the best one b if `v < b - d` ("min") or `v > b + d` ("max"), with d
    = `min_delta` or `min_delta * |b|`. Values of a validation, whose names begin with "val_",
    are looked at after each validation, others after each epoch.

    Args:
        metric: The name of the value.
        patience: How many values in succession may fail to improve, at least 1; the last one
            ends the run.
        mode: "min" if lower is better, "max" if higher is.
        min_delta: Least improvement that counts, at least 0.
        is_relative: Whether `min_delta` is a fraction of the best value.
        check_finite: Whether a value that is not finite ends the run; otherwise it counts as
            no improvement.
        target: A value to be content with: reaching it ends the run.
        divergence: A value to give up at: one worse than it ends the run.
        min_epochs: Epochs before which only `check_finite` and `divergence` end the run.
        restore_best: Whether the model has the weights of the best value in the end, unless
            the run fails.

    Attributes:
        best: The best value; None before a finite one.
        best_step: The step of the best value.
        bad: How many values in succession have not improved.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        metric: str = "val_loss",
        patience: int = 3,
        mode: str = "min",
        *,
        min_delta: float = 0.0,
        is_relative: bool = False,
        check_finite: bool = True,
        target: float | None = None,
        divergence: float | None = None,
        min_epochs: int = 0,
        restore_best: bool = False,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(unknown_name("mode", str(mode), ("min", "max")))
        check_count("patience", patience)
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"min_delta must be at least 0 and finite, got {min_delta!r}")
        check_count("min_epochs", min_epochs, 0)
        self.metric = metric
        self.best: float | None = None
        self.best_step = 0
        self.bad = 0
        self._patience = patience
        self._sign = 1 if mode == "min" else -1
        self._min_delta = min_delta
        self._is_relative = is_relative
        self._check_finite = check_finite
        self._target = target
        self._divergence = divergence
        self._min_epochs = min_epochs
        self._restore_best = restore_best
        self._has_seen = False
        self._has_failed = False

    @property
    def state_key(self) -> str:
        """The name of the class and of the value."""
        return f"EarlyStopping({self.metric})"

    def on_validation_end(self, state: TrainState) -> Actions:
        """Look at the value, if it is of a validation."""
        return self._look(state) if self.metric.startswith("val_") else None

    def on_epoch_end(self, state: TrainState) -> Actions:
        """Look at the value, if it is not of a validation."""
        return None if self.metric.startswith("val_") else self._look(state)

    def on_train_begin(self, state: TrainState) -> None:
        """Expect the run to end well."""
        self._has_failed = False

    def on_exception(self, state: TrainState, error: BaseException) -> None:
        """Leave the weights as they are, for the run may go on."""
        self._has_failed = True

    def on_train_end(self, state: TrainState) -> Actions:
        """Give the model the best weights, if asked to."""
        if self._has_failed:
            return None
        if not self._has_seen and state.step > 0:
            warnings.warn(
                f"EarlyStopping has never seen its metric {self.metric!r}: there was no "
                "validation, or the run ended before one",
                stacklevel=2,
            )
        return RestoreWeights() if self._restore_best else None

    def is_better(self, value: float) -> bool:
        """Tell whether a value improves on the best one; one that is not finite never does."""
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        delta = self._min_delta * (abs(self.best) if self._is_relative else 1)
        return self._sign * value < self._sign * self.best - delta

    def _look(self, state: TrainState) -> list[Action]:
        if self.metric not in state.metrics:
            raise KeyError(
                f"EarlyStopping's metric {self.metric!r} is none of "
                f"{', '.join(sorted(state.metrics))}"
            )
        self._has_seen = True
        value = state.metrics[self.metric]
        actions: list[Action] = []
        if self.is_better(value):
            self.best, self.best_step, self.bad = value, state.step, 0
            if self._restore_best:
                actions.append(KeepWeights())
        else:
            self.bad += 1
        reason = self._reason(value, state.epoch + 1)
        return actions if reason is None else [*actions, Stop(reason)]

    def _reason(self, value: float, epochs: int) -> str | None:
        if self._check_finite and not math.isfinite(value):
            return f"{self.metric} is {value}"
        if self._divergence is not None and self._sign * value > self._sign * self._divergence:
            return f"{self.metric} is {value:g}, worse than {self._divergence:g}"
        if epochs < self._min_epochs:
            return None
        if self._target is not None and self._sign * value <= self._sign * self._target:
            return f"{self.metric} is {value:g} and has reached {self._target:g}"
        if self.bad >= self._patience:
            best = "none yet" if self.best is None else f"{self.best:g} at step {self.best_step}"
            return f"{self.metric} has not improved {self.bad} times; the best is {best}"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its step, how often there was none better, and if any was seen."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "bad": self.bad,
            "has_seen": self._has_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.best, self.best_step, self.bad = state["best"], state["best_step"], state["bad"]
        self._has_seen = state["has_seen"]
