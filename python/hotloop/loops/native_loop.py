"""Epochs whose updates are made by the kernels, as many in a call as nobody looks at."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from hotloop.callbacks import Callbacks
from hotloop.errors import NonFiniteError, UnsupportedModelError
from hotloop.loops.loaders import First
from hotloop.loops.measurement import Measurement
from hotloop.loops.run import Run
from hotloop.loops.schedules import Schedules
from hotloop.loops.training_loop import Observer, Update
from hotloop.loops.training_step import StepResult
from hotloop.programs import NativeTrainer
from hotloop.programs.native_trainer import PATIENCE

__all__ = ["NativeLoop", "index_loader"]


def index_loader(loader: Any) -> Any:
    """Return a loader of the sample numbers of a loader's batches.

    It draws what the loader draws, in the same order.

    Args:
        loader: A torch DataLoader over a TensorDataset of samples and targets, in this process and
            without a `collate_fn`; or the first batches of one.

    Raises:
        UnsupportedModelError: If it is another.
    """
    if isinstance(loader, First):
        return First(index_loader(loader.loader), loader.count)
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise UnsupportedModelError(
            f"the loader must be a torch DataLoader with a batch_size, got {type(loader).__name__}"
        )
    if type(loader.dataset) is not TensorDataset or len(loader.dataset.tensors) != 2:
        raise UnsupportedModelError(
            "the loader's dataset must be a TensorDataset of samples and targets, got "
            f"{type(loader.dataset).__name__}"
        )
    if loader.num_workers or loader.collate_fn is not default_collate:
        raise UnsupportedModelError("the loader must have no workers and no collate_fn")
    return DataLoader(
        range(len(loader.dataset)),  # type: ignore[arg-type]
        batch_sampler=loader.batch_sampler,
        generator=loader.generator,
        collate_fn=_as_is,
    )


def _as_is(indices: list[int]) -> list[int]:
    return indices


class NativeLoop:
    """Makes the updates of an epoch in Mojo.

    Args:
        model: As in `NativeTrainer`.
        loss: The same.
        optimizer: The same.
        loader: The loader of the training data.
        max_norm: The largest norm of the gradients that enters an update; None for any.
        is_skipping: Whether an update that is not finite is left out, and not an error.

    Raises:
        UnsupportedModelError: If a part has no kernel; the text names all of them.
        BackendError: If there are no kernels on this machine.
        ValueError: If the data do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        optimizer: torch.optim.Optimizer,
        loader: Any,
        *,
        max_norm: float | None,
        is_skipping: bool,
    ) -> None:
        #: Yields the numbers of the samples of each batch.
        self.loader = index_loader(loader)
        whole: Any = loader.loader if isinstance(loader, First) else loader
        if is_skipping and max_norm is None:
            max_norm = math.inf
        self._is_measured = max_norm is not None
        self._is_skipping = is_skipping
        self._trainer = NativeTrainer(
            model, loss=loss, optimizer=optimizer, batch_size=whole.batch_size, max_norm=max_norm
        )
        self._data = whole.dataset
        self._x, self._y = self._trainer.checked(*self._data.tensors)
        self._dtype = next(model.parameters()).dtype
        self._outputs: Tensor | None = None
        self._count = 1.0
        self._seed = 0

    def train_epoch(
        self,
        batches: Iterable[list[int]],
        run: Run,
        schedules: Schedules,
        callbacks: Callbacks,
        measurement: Measurement,
        observer: Observer,
        updates_left: Callable[[], float],
        seed: int,
    ) -> dict[str, Any]:
        """Update the model once for each batch.

        Args:
            batches: The numbers of their samples.
            run: Is told how many batches were had.
            schedules: The learning rates.
            callbacks: Who looks at steps.
            measurement: Where to count.
            observer: Looks between two calls of the kernels, and may end the epoch.
            updates_left: Returns after how many updates somebody wants to look.
            seed: What the masks of dropout depend on, beside the number of updates.

        Returns:
            As `hotloop.loops.train_epoch`.

        Raises:
            NonFiniteError: If a loss or gradient is not finite, and updates are not skipped.
            UnsupportedModelError: If a callback looks at batches.
            ValueError: If the data were changed, and do not fit any more.
        """
        if callbacks.hooks["on_batch_begin"] or callbacks.hooks["on_batch_end"]:
            raise UnsupportedModelError(
                "a callback with on_batch_begin or on_batch_end would not be called; take it away, "
                "or train with engine='torch'"
            )
        # The kernels read it as it is, and somebody may have written to it since the last epoch.
        self._x, self._y = self._trainer.checked(*self._data.tensors)
        self._trainer.model.train()
        self._seed = seed
        iterator = iter(batches)
        is_over = False
        while not is_over:
            left = 1.0
            if schedules.is_predictable:
                left = min(updates_left(), _steps_left(callbacks, run.step), self._count)
            orders = list(itertools.islice(iterator, max(1, int(left))))
            if not orders:
                break
            while orders and not is_over:
                done, is_over = self._train(orders, run, schedules, measurement, observer)
                orders = orders[done:]
        values = measurement.compute()
        if self._is_measured:
            values["grad_norm"] = measurement.grad_norm.value
            values["skipped_updates"] = measurement.skipped
        return values

    def _train(
        self,
        orders: list[list[int]],
        run: Run,
        schedules: Schedules,
        measurement: Measurement,
        observer: Observer,
    ) -> tuple[int, bool]:
        """Train on batches, and return how many were had, and whether the epoch ends."""
        samples = list(itertools.chain.from_iterable(orders))
        if measurement.has_metrics and len(orders) > 1 and len(set(samples)) < len(samples):
            # Each sample has one place for its outputs.
            samples, orders = orders[0], orders[:1]
        order = torch.tensor(samples)
        observer.before_update()
        outputs = None
        if measurement.has_metrics:
            if self._outputs is None:
                self._outputs = self._trainer.empty_outputs(len(self._x))
            outputs = self._outputs
        start = run.clock()
        rates = schedules.upcoming(len(orders)) if schedules.is_predictable else None
        # Masks of a run that goes on are those that they would have been.
        self._trainer.step = before = run.step
        sizes = [len(each) for each in orders]
        try:
            done = self._trainer.train_batches(self._x, self._y, order, rates, outputs, self._seed)
        except BaseException:
            done = self._trainer.step - before
            update = None
            if done:
                self._measure(order[: sum(sizes[:done])], outputs, measurement)
                update = self._counted(done, sizes, run, measurement)
            observer.after_interrupt(update)
            raise
        seconds = max(run.clock() - start, 1e-6)
        self._count = min(1e6, max(1.0, self._count * min(10.0, PATIENCE / seconds)))
        losses = self._trainer.losses
        # Also of a batch whose update is left out.
        self._measure(order[: sum(sizes[: done + 1])], outputs, measurement)
        is_over = False
        if done:
            is_over = observer.after_update(self._counted(done, sizes, run, measurement))
        if done < len(orders) and not is_over:
            if not self._is_skipping:
                raise NonFiniteError(
                    f"the loss of a batch is {losses[done]:g}, or a gradient is not finite, and "
                    "the update was left out; look at the batch and the learning rate, or set "
                    "nonfinite='skip' to go on without such updates"
                )
            measurement.skipped += 1
            run.batch += 1
            loss = torch.tensor(losses[done], dtype=self._dtype)
            is_measured = self._is_measured and math.isfinite(losses[done])
            norms = [float(self._trainer.grad_norms[done])] if is_measured else []
            update = Update([loss], [sizes[done]], sizes[done], norms, False, measurement.loss)
            is_over = observer.after_update(update)
            done += 1
        return done, is_over

    def _measure(self, order: Tensor, outputs: Tensor | None, measurement: Measurement) -> None:
        """Show samples to the metrics."""
        preds = None if outputs is None else outputs[order]
        target = None if outputs is None else self._data.tensors[1][order]
        nothing = torch.zeros(())
        measurement.update(StepResult(nothing, len(order), len(order), preds, target))

    def _counted(self, done: int, sizes: list[int], run: Run, measurement: Measurement) -> Update:
        """Count the batches that were trained on, and return their updates."""
        losses = torch.from_numpy(self._trainer.losses[:done].copy()).to(self._dtype).unbind()
        norms = self._trainer.grad_norms[:done].tolist() if self._is_measured else []
        measurement.loss.add(losses, sizes[:done])
        measurement.grad_norm.add(norms)
        run.batch += done
        return Update(
            [losses[-1]],
            [sizes[done - 1]],
            sum(sizes[:done]),
            norms,
            True,
            measurement.loss,
            done,
        )


def _steps_left(callbacks: Callbacks, step: int) -> float:
    """Return how many updates there are up to the next that a callback looks at."""
    left = math.inf
    for callback in callbacks:
        if callbacks.has_hook(callback, "on_step_end") and callback.step_cadence is not None:
            left = min(left, callback.step_cadence - step % callback.step_cadence)
    return left
