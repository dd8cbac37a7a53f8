"""A schedule as one of torch's own learning rate schedulers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hotloop.schedulers.schedule import Schedule

__all__ = ["ScheduleLR", "as_lr_scheduler"]


class ScheduleLR(LRScheduler):
    """Sets each group's learning rate to its initial one times a schedule's factor.

    Args:
        optimizer: Any torch optimizer.
        schedule: The factor of each epoch, or whatever unit `step` is called in.
        last_epoch: The last epoch already run, -1 for none.

    Raises:
        ValueError: If the schedule has open lengths.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        schedule.value(0)  # Raises if lengths are open.
        self.schedule = schedule
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group at the present epoch."""
        factor = self.schedule.value(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    # torch's SequentialLR asks for it where a schedule begins.
    _get_closed_form_lr = get_lr

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the schedule's spec in the place of the schedule."""
        state = dict(super().state_dict())
        return state | {"schedule": self.schedule.spec()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: If it is of another schedule.
        """
        state = dict(state_dict)
        spec = state.pop("schedule", None)
        if spec != self.schedule.spec():
            raise ValueError(
                f"the state is of another schedule: {spec!r}, this one is {self.schedule.spec()!r}"
            )
        super().load_state_dict(state)


def as_lr_scheduler(optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> ScheduleLR:
    """Return a torch LRScheduler that follows a schedule.

    It goes wherever torch's own do: into SequentialLR, `transformers.Trainer`, Lightning.

    Args:
        optimizer: Any torch optimizer.
        schedule: The factor for each call of `step`.
        last_epoch: The last epoch already run, -1 for none.

    Raises:
        ValueError: If the schedule has open lengths.
    """
    return ScheduleLR(optimizer, schedule, last_epoch)
