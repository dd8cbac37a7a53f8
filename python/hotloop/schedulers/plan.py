"""How many steps a run has."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["StepPlan", "plan_steps"]


class StepPlan(NamedTuple):
    """The steps of a run.

    Attributes:
        batches_per_epoch: Batches that each process sees in an epoch.
        updates_per_epoch: Optimizer updates of an epoch.
        updates: Optimizer updates of the run.
    """

    batches_per_epoch: int
    updates_per_epoch: int
    updates: int


def plan_steps(
    *,
    samples: int | None = None,
    batches: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    accumulate: int = 1,
    world_size: int = 1,
    drop_last: bool = False,
    max_steps: int | None = None,
) -> StepPlan:
    """Count the updates of a run, which is what schedules want to know.

    An epoch has `samples / (batch_size world_size)` batches, rounded up, or down with
    `drop_last`, and `batches / accumulate` updates, rounded up: what is left at the end of an
    epoch makes an update of its own.

    Args:
        samples: Samples of the whole data set; needs `batch_size`.
        batches: In their stead, batches that each process sees in an epoch.
        batch_size: Samples of a batch of one process.
        epochs: Epochs of the run.
        accumulate: Batches whose gradients make one update.
        world_size: Processes that share the samples.
        drop_last: Whether an incomplete last batch is left out.
        max_steps: The most updates of the run; alone, where the data's size is unknown.

    Raises:
        ValueError: If an argument is not a positive int, or neither the data's size
            with `epochs` nor `max_steps` is known.
    """
    given = {
        "samples": samples,
        "batches": batches,
        "batch_size": batch_size,
        "epochs": epochs,
        "accumulate": accumulate,
        "world_size": world_size,
        "max_steps": max_steps,
    }
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if samples is not None and batches is not None:
        raise ValueError(f"give samples or batches, not both: got {samples} and {batches}")
    if samples is not None:
        if batch_size is None:
            raise ValueError(f"samples ({samples}) need batch_size, got None")
        share = batch_size * world_size
        batches = samples // share if drop_last else -(-samples // share)
    if batches is None:
        if max_steps is None:
            raise ValueError("the data's size is unknown: give samples, batches or max_steps")
        return StepPlan(0, 0, max_steps)
    per_epoch = -(-batches // accumulate)
    if epochs is None and max_steps is None:
        raise ValueError("the run's length is unknown: give epochs or max_steps")
    updates = per_epoch * epochs if epochs is not None else max_steps
    assert updates is not None
    return StepPlan(batches, per_epoch, updates if max_steps is None else min(updates, max_steps))
