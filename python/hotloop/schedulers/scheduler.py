"""The scheduler: writes what a schedule says into an optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.optim import Optimizer

from hotloop.schedulers.plateau import ReduceOnPlateau
from hotloop.schedulers.schedule import Schedule, check_choice

__all__ = ["Scheduler"]

_VERSION = 1


class Scheduler:
    """Multiplies a value of each param group by a schedule's factor.

    It is the only writer of that value: the groups keep their initial values (as "initial_lr"
    and the like, as torch names them) and so the ratios between them. A learning rate that
    is a tensor is updated in place. Nothing depends on how often a group was written,
    only on the number of steps.

    Args:
        optimizer: Any torch optimizer. Its groups get the value of step 0 at once.
        schedule: The factor for each step.
        unit: What a step is, for the loop that calls `step`: "step" for an applied update,
            "epoch" for an epoch.
        field: "lr", "momentum" (of optimizers with betas the first one) or "weight_decay".
        total: The length of the run in that unit, for a schedule with open lengths.
        plateau: A further multiplier, fed by `observe`.

    Raises:
        ValueError: If the schedule has open lengths and no total is given, a group has no
            such field, or an argument is none of the above.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        unit: str = "step",
        field: str = "lr",
        total: int | None = None,
        plateau: ReduceOnPlateau | None = None,
    ) -> None:
        check_choice("unit", unit, ("step", "epoch"))
        check_choice("field", field, ("lr", "momentum", "weight_decay"))
        if total is not None:
            schedule = schedule.resolve(total)
        self.optimizer = optimizer
        self.schedule = schedule
        self.unit = unit
        self.field = field
        self.plateau = plateau
        self.steps = 0
        self._initial = f"initial_{field}"
        self._written: list[float] = []
        # Whether the values are numbers under the field's own name, and so quick to write.
        self._is_plain = True
        schedule.value(0)  # Raises if lengths are open.
        for group in optimizer.param_groups:
            self._keep_initial(group)
        self._write()

    def step(self) -> None:
        """Go to the next step.

        Raises:
            RuntimeError: If something else has written the value since.
        """
        groups = self.optimizer.param_groups
        if self._is_plain and [group.get(self.field) for group in groups] != self._written:
            self._check_written()
        self.advance(1)

    def advance(self, steps: int) -> None:
        """Go on by some steps, for a loop that took them without looking here.

        Args:
            steps: How many.
        """
        self.steps += steps
        self._write()

    def upcoming(self, steps: int) -> npt.NDArray[np.float64]:
        """Return the values of the groups at this step and those after it, if no plateau moves.

        Args:
            steps: How many.

        Returns:
            Shape (steps, groups).
        """
        factors = np.array([self._factor(step) for step in range(self.steps, self.steps + steps)])
        return np.outer(factors, [group[self._initial] for group in self.optimizer.param_groups])

    def observe(self, value: float) -> None:
        """Tell the plateau's metric, except while the schedule warms up.

        Args:
            value: The metric.

        Raises:
            ValueError: If there is no plateau.
        """
        if self.plateau is None:
            raise ValueError("this scheduler has no plateau to observe for")
        if self.steps >= self.schedule.warmup_steps and self.plateau.observe(value):
            self._write()

    @property
    def last_values(self) -> list[float]:
        """The value of each group as last written."""
        return list(self._written)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the spec, as a dict that JSON holds."""
        plateau = self.plateau
        return {
            "version": _VERSION,
            "steps": self.steps,
            "unit": self.unit,
            "field": self.field,
            "spec": self.schedule.spec(),
            "plateau": plateau and {"spec": plateau.spec(), "state": plateau.state_dict()},
        }

    def load_state_dict(self, state: dict[str, Any], *, strict: bool = True) -> None:
        """Go on where `state_dict` was taken, and write the values of that step.

        Args:
            state: What `state_dict` returned.
            strict: Whether the schedule, the unit, the field and the plateau must be the
                same; if not, only the number of steps and the plateau's counters are taken.

        Raises:
            ValueError: If they are not, or the version is another; nothing is changed.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"state must have version {_VERSION}, got {state.get('version')!r}")
        mine = self.state_dict()
        if strict:
            for name in ("unit", "field", "spec"):
                if state[name] != mine[name]:
                    raise ValueError(
                        f"the state is of another scheduler: its {name} is {state[name]!r}, "
                        f"this one's is {mine[name]!r}; strict=False takes the steps alone"
                    )
            theirs, ours = ((s["plateau"] or {}).get("spec") for s in (state, mine))
            if theirs != ours:
                raise ValueError(
                    f"the state is of another scheduler: its plateau is {theirs!r}, this "
                    f"one's is {ours!r}; strict=False takes the steps alone"
                )
        self.steps = state["steps"]
        if self.plateau is not None and state["plateau"] is not None:
            self.plateau.load_state_dict(state["plateau"]["state"])
        self._write()

    def _factor(self, step: int) -> float:
        factor = self.schedule._factor(step)
        return factor if self.plateau is None else factor * self.plateau.multiplier

    def _write(self) -> None:
        factor = self._factor(self.steps)
        groups = self.optimizer.param_groups
        initial = self._initial
        try:
            self._written = written = [group[initial] * factor for group in groups]
        except KeyError:
            for group in groups:
                self._keep_initial(group)
            self._written = written = [group[initial] * factor for group in groups]
        if self._is_plain:
            for group, value in zip(groups, written):
                group[self.field] = value
            return
        for group, value in zip(groups, written):
            if self.field == "momentum" and "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            elif isinstance(group[self.field], Tensor):
                group[self.field].fill_(value)
            else:
                group[self.field] = value

    def _check_written(self) -> None:
        # A group that was added since has nothing written.
        for index, (group, written) in enumerate(zip(self.optimizer.param_groups, self._written)):
            if group[self.field] != written:
                raise RuntimeError(
                    f"{self.field} of param group {index} is {group[self.field]!r}, but its "
                    f"scheduler had written {written!r}: let nothing else write it, or change "
                    f"the group's {self._initial!r} instead"
                )

    def _keep_initial(self, group: dict[str, Any]) -> None:
        if self.field == "momentum" and "betas" in group:
            value = group["betas"][0]
        elif self.field in group:
            value = group[self.field]
        else:
            raise ValueError(
                f"field must be one that {type(self.optimizer).__name__} has, got "
                f"{self.field!r}: its groups have {', '.join(sorted(group))}"
            )
        # torch's schedulers keep the initial value of a tensor as a tensor.
        group[self._initial] = float(group.get(self._initial, value))
        self._is_plain = self._is_plain and value is group.get(self.field)
        self._is_plain = self._is_plain and not isinstance(value, Tensor)
