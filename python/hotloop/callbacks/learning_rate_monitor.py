"""Records what schedules write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hotloop.argument import check_count
from hotloop.callbacks.callback import Callback, TrainState

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["LearningRateMonitor"]


class LearningRateMonitor(Callback):
    """Records the value of each param group that the next update will use.

    Records are kept, some 260 bytes each: a long run wants a larger `every`.

    Args:
        optimizer: Whose groups.
        field: "lr", "momentum" (of optimizers with betas the first one) or "weight_decay".
        every: Updates between two records, at least 1.
        log: Called with each record and its step, such as a tracker's function.

    Attributes:
        steps: The step of each record: the number of updates before it.
        values: The values of each record by name, "lr" or, of several groups, "lr/0" and so on.

    Raises:
        ValueError: If `every` is not a positive int, or a group has no such field.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        field: str = "lr",
        *,
        every: int = 1,
        log: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        check_count("every", every)
        self._optimizer = optimizer
        self._field = field
        self._every = every
        self._log = log
        self.steps: list[int] = []
        self.values: list[dict[str, float]] = []
        self._read()

    @property
    def step_cadence(self) -> int:  # type: ignore[override]
        """The steps between two values."""
        return self._every

    def on_train_begin(self, state: TrainState) -> None:
        """Forget the last run, and record the first values."""
        self.steps.clear()
        self.values.clear()
        self._record(state)

    def on_step_end(self, state: TrainState) -> None:
        """Record the values, if it is time."""
        if state.step % self._every == 0:
            self._record(state)

    def _record(self, state: TrainState) -> None:
        values = self._read()
        self.steps.append(state.step)
        self.values.append(values)
        if self._log is not None:
            self._log(values, state.step)

    def _read(self) -> dict[str, float]:
        groups = self._optimizer.param_groups
        values = {}
        for index, group in enumerate(groups):
            name = self._field if len(groups) == 1 else f"{self._field}/{index}"
            if self._field == "momentum" and "betas" in group:
                values[name] = float(group["betas"][0])
            elif self._field in group:
                values[name] = float(group[self._field])
            else:
                raise ValueError(
                    f"field must be one that the optimizer has, got {self._field!r}: its groups "
                    f"have {', '.join(sorted(group))}"
                )
        return values
