"""Moves a run's schedulers, ours and torch's, when it is their turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hotloop.schedulers import Schedule, Scheduler

__all__ = ["AnySchedule", "Schedules"]

#: A learning rate schedule, a scheduler, or one of torch's.
AnySchedule: TypeAlias = "Schedule | Scheduler | LRScheduler"


class Schedules:
    """The schedulers of a run.

    Args:
        optimizer: What plain schedules are made schedulers of.
        schedules: Schedules and schedulers.
        unit: What a step is, "step" or "epoch", for plain schedules and torch's schedulers;
            ours know theirs.
        epochs: The epochs of the run; None if unknown.
        steps: The updates of the run; None if unknown.

    Raises:
        ValueError: If a schedule has open lengths and the run's is unknown, or the unit is
            unknown.
        TypeError: If one is neither a schedule nor a scheduler.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedules: Iterable[AnySchedule],
        *,
        unit: str,
        epochs: int | None,
        steps: int | None,
    ) -> None:
        if unit not in ("step", "epoch"):
            raise ValueError(f"schedule_unit must be 'step' or 'epoch', got {unit!r}")
        total = epochs if unit == "epoch" else steps
        self._by_unit: dict[str, list[Scheduler | LRScheduler]] = {"step": [], "epoch": []}
        for schedule in schedules:
            if isinstance(schedule, Schedule):
                if total is None and not schedule.is_resolved:
                    raise ValueError(
                        f"{schedule!r} needs the length of the run in {unit}s; set max_steps, or "
                        "epochs with a loader that tells its length, or give the schedule its own"
                    )
                schedule = Scheduler(optimizer, schedule, unit=unit, total=total)
            if isinstance(schedule, Scheduler):
                self._by_unit[schedule.unit].append(schedule)
            elif isinstance(schedule, ReduceLROnPlateau):
                # It wants a metric, and those come at the end of an epoch.
                self._by_unit["epoch"].append(schedule)
            elif isinstance(schedule, LRScheduler):
                self._by_unit[unit].append(schedule)
            else:
                raise TypeError(
                    f"schedulers must be Schedule, Scheduler or torch's LRScheduler, "
                    f"got {schedule!r}"
                )

        #: Whether any of them moves with each update.
        self.move_with_updates = bool(self._by_unit["step"])

    def after_update(self, updates: int = 1) -> None:
        """Move what moves with each applied update.

        Args:
            updates: How many there were; more than 1 only if `upcoming` knew their rates.
        """
        for scheduler in self._by_unit["step"]:
            if updates == 1:
                scheduler.step()
            elif isinstance(scheduler, Scheduler):
                scheduler.advance(updates)

    @property
    def is_predictable(self) -> bool:
        """Whether `upcoming` knows the learning rates of updates that are still to be made."""
        moving = self._by_unit["step"]
        return not moving or (
            len(moving) == 1 and isinstance(moving[0], Scheduler) and moving[0].field == "lr"
        )

    def upcoming(self, updates: int) -> npt.NDArray[np.float64] | None:
        """Return the learning rates of the next updates, if `is_predictable`.

        Args:
            updates: How many.

        Returns:
            Shape (updates, groups); None if they do not move.
        """
        for scheduler in self._by_unit["step"]:
            assert isinstance(scheduler, Scheduler)
            return scheduler.upcoming(updates)
        return None

    def after_epoch(self, metrics: Mapping[str, float], *, is_validated: bool = True) -> None:
        """Move what moves with each epoch, and tell plateaus their metric.

        Args:
            metrics: The values of the epoch by name.
            is_validated: Whether those of a validation are among them; plateaus that watch
                one stand still otherwise.

        Raises:
            KeyError: If a plateau's metric is none of them.
        """
        for scheduler in (*self._by_unit["step"], *self._by_unit["epoch"]):
            if isinstance(scheduler, Scheduler) and scheduler.plateau is not None:
                name = scheduler.plateau.metric
                if name in metrics:
                    scheduler.observe(metrics[name])
                elif is_validated or not name.startswith("val_"):
                    raise KeyError(
                        f"the plateau's metric {name!r} is none of {', '.join(sorted(metrics))}"
                    )
        for scheduler in self._by_unit["epoch"]:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(metrics.get("val_loss", metrics["train_loss"]))
            else:
                scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, in the order of the arguments within each unit."""
        return {
            unit: [scheduler.state_dict() for scheduler in schedulers]
            for unit, schedulers in self._by_unit.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If there are other schedulers than there were.
        """
        for unit, schedulers in self._by_unit.items():
            if len(state[unit]) != len(schedulers):
                raise ValueError(
                    f"the state is of {len(state[unit])} schedulers that move with each {unit}, "
                    f"the run has {len(schedulers)}"
                )
        for unit, schedulers in self._by_unit.items():
            for scheduler, entry in zip(schedulers, state[unit]):
                scheduler.load_state_dict(entry)
