"""A loop that the user writes, with the run around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hotloop.callbacks import Action, Callback, Callbacks, Save
from hotloop.config import TrainingConfig
from hotloop.loops.batch import first_length, to_device
from hotloop.loops.history import History
from hotloop.loops.measurement import RunningLoss
from hotloop.loops.run import Run
from hotloop.loops.training_loop import Update

__all__ = ["Steps"]


class Steps:
    """Iterates over batches on their device; what happens to them is the user's.

    Counting, callbacks, logging windows and the end of the run are as in `Trainer`; forward
    and backward passes, and as many optimizers as it takes, stand in the loop's body:

        with Steps(loader, epochs=5, optimizers=(of_d, of_g)) as steps:
            for batch in steps:
                ...
                steps.log(loss=loss, d_loss=d_loss)

    Each turn counts as one update. Hooks are those of the train, the epochs, the batches and
    the steps; of the actions only `Stop` has an effect.

    Args:
        loader: Yields batches, anew for each epoch.
        epochs: Length of the run in epochs; None if something else ends it. Without any limit
            it is 1.
        max_steps: Length of the run in turns.
        max_seconds: Length of the run in seconds.
        optimizers: Whose learning rates callbacks and history see.
        callbacks: As in `Trainer`.
        device: Where batches are moved.
        log_every: Cadence of logging windows.
        clock: Returns seconds.

    Raises:
        ValueError: If a limit or a cadence is out of its range.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        optimizers: Iterable[Optimizer] = (),
        callbacks: Iterable[Callback] = (),
        device: torch.device | str = "cpu",
        log_every: str | int = "50 steps",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        TrainingConfig(
            epochs=epochs, max_steps=max_steps, max_seconds=max_seconds, log_every=log_every
        )
        if epochs is max_steps is max_seconds is None:
            epochs = 1
        self._loader = loader
        self._device = torch.device(device)
        try:
            length: int | None = len(loader)  # type: ignore[arg-type]
        except TypeError:
            length = None
        self._run = Run(
            Callbacks(callbacks),
            tuple(optimizers),
            _ignore,
            epochs=epochs,
            max_steps=max_steps,
            max_seconds=max_seconds,
            steps_per_epoch=length,
            batches_per_epoch=length,
            log_every=log_every,
            is_strict=False,
            clock=clock,
        )
        self._active: AbstractContextManager[None] | None = None
        self._values: dict[str, RunningLoss] = {}
        #: The names of this epoch.
        self._logged: set[str] = set()
        self._loss = torch.tensor(float("nan"))

    @property
    def history(self) -> History:
        """What was logged so far."""
        return self._run.history

    def __enter__(self) -> Steps:
        """Begin the run."""
        active = self._run.active()
        active.__enter__()
        self._active = active
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the run, as failed if the body raised."""
        assert self._active is not None
        active, self._active = self._active, None
        active.__exit__(kind, error, traceback)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches of all epochs.

        Raises:
            RuntimeError: If the run has not begun.
            ValueError: If the loader yields no batch.
        """
        if self._active is None:
            raise RuntimeError("iterate inside of `with steps:`, so that the run can end properly")
        run = self._run
        while not run.is_over:
            run.call("on_epoch_begin")
            if run.is_over:
                return
            self._logged = set()
            for running in self._values.values():
                # A logging window may go on in the next epoch.
                running.restart()
            for batch in self._loader:
                run.call("on_batch_begin")
                yield to_device(batch, self._device)
                self._count(batch)
                if run.is_over:
                    break
            if run.batch == 0:
                raise ValueError("the loader yields no batch; check its dataset and batch size")
            values = {
                f"train_{name}": running.mean()
                for name, running in self._values.items()
                if name in self._logged
            }
            run.metrics = run.metrics | values
            run.history.update(values, run.step)
            run.call("on_epoch_end")
            run.end_epoch()

    def log(self, **values: Tensor | float) -> None:
        """Measure values of this turn; "loss" is what progress shows.

        Args:
            **values: Scalars. They stay on their device until the end of the epoch, which
                records their means as "train_NAME"; logging windows record that of "loss".

        Raises:
            ValueError: If a value is no scalar.
        """
        for name, value in values.items():
            if isinstance(value, Tensor):
                scalar = value.detach()
            else:
                scalar = torch.tensor(value, dtype=torch.float64)
            if scalar.ndim:
                raise ValueError(f"{name} must be a scalar, got shape {tuple(scalar.shape)}")
            self._values.setdefault(name, RunningLoss()).add([scalar], [1])
            self._logged.add(name)
            if name == "loss":
                self._loss = scalar

    def _count(self, batch: Any) -> None:
        run = self._run
        run.batch += 1
        run.call("on_batch_end")
        running = self._values.get("loss")
        update = Update(
            [self._loss], [1], first_length(batch) or 0, (), is_applied=True, running=running
        )
        run.count(update)
        run.report(update)


def _ignore(action: Action) -> None:
    if isinstance(action, Save):
        raise TypeError(
            "Steps does not know what to save; in place of Checkpointing call "
            "CheckpointManager.save with the states of the loop"
        )
