"""Schedulers by name or by spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from hotloop.errors import unknown_name
from hotloop.schedulers.length import Length
from hotloop.schedulers.schedule import Schedule, find, from_spec
from hotloop.schedulers.scheduler import Scheduler
from hotloop.schedulers.warmup import Warmup

__all__ = ["create_schedule", "create_scheduler"]


def create_scheduler(
    optimizer: Optimizer,
    scheduler_type: str | Mapping[str, Any],
    max_epochs: int | None = None,
    steps_per_epoch: int | None = None,
    warmup_steps: Length = 0,
    **options: Any,
) -> Scheduler:
    """Make a scheduler that moves once for each update.

    `create_scheduler(optimizer, "cosine", 10, 500, warmup_steps=0.03, end=0.1)` and
    `create_scheduler(optimizer, {"name": "cosine", "total": 5000, "warmup": 0.03, "end": 0.1})`
    are the same.

    Args:
        optimizer: Any torch optimizer.
        scheduler_type: The name of a schedule, such as "cosine" or "one_cycle", whose case
            and underscores do not matter; or a spec: a dict with "name", the schedule's
            arguments, and if wanted "total" and "warmup".
        max_epochs: Epochs of the run.
        steps_per_epoch: Updates of an epoch.
        warmup_steps: Linear warm-up before the schedule, in steps or as a fraction of the
            run. A schedule with a warm-up of its own takes it as that.
        **options: Arguments of the schedule.

    Raises:
        ValueError: If a name is unknown, a value is out of range, or the schedule needs the
            length of the run and it is not known.
        TypeError: If the schedule has no such argument.
    """
    total = None
    if max_epochs is not None and steps_per_epoch is not None:
        for name, value in (("max_epochs", max_epochs), ("steps_per_epoch", steps_per_epoch)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        total = max_epochs * steps_per_epoch
    schedule = create_schedule(scheduler_type, total, warmup_steps, **options)
    return Scheduler(optimizer, schedule)


def create_schedule(
    schedule: str | Mapping[str, Any],
    total: int | None = None,
    warmup: Length = 0,
    **options: Any,
) -> Schedule:
    """Make a schedule by its name or from a spec.

    Args:
        schedule: As the `scheduler_type` of `create_scheduler`.
        total: The length of the run, in steps; None leaves open lengths open.
        warmup: As the `warmup_steps` of `create_scheduler`.
        **options: Arguments of the schedule.

    Raises:
        ValueError: If a name is unknown or a value is out of range.
        TypeError: If the schedule has no such argument.
    """
    if isinstance(schedule, Mapping):
        options = {**schedule, **options}
        total = options.pop("total", total)
        if "name" not in options:
            raise ValueError(f"a spec needs the name of a schedule, got {dict(schedule)!r}")
        name = options.pop("name")
    else:
        name = schedule
    cls = find(name)
    known = [field.name for field in dataclasses.fields(cls)]
    if "warmup" not in known:
        warmup = options.pop("warmup", warmup)
    elif warmup != 0:
        options["warmup"] = warmup
        warmup = 0
    for option in options:
        if option not in known:
            raise TypeError(unknown_name(f"argument of the schedule {cls.name!r}", option, known))
    made = from_spec({"name": name, **options})
    if warmup != 0:
        made = Warmup(warmup).then(made)
    return made if total is None else made.resolve(total)
