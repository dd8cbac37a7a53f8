"""The run that the tests of this folder stop, kill and resume."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from hotloop.callbacks import Callback, Checkpointing, EarlyStopping, TrainState
from hotloop.checkpoint import flatten
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.metrics import Accuracy
from hotloop.optimizers import AdamW
from hotloop.precision import Precision
from hotloop.schedulers import Cosine, ReduceOnPlateau, Scheduler

EPOCHS, BATCHES = 3, 5
#: Names of values that are times.
TIMES = ("seconds", "samples_per_second")


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples of which each has new noise whenever it is drawn."""

    def __init__(self, size: int = 8 * BATCHES - 3) -> None:
        generator = torch.Generator().manual_seed(3)
        self._inputs = torch.randn(size, 6, generator=generator)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs = self._inputs[index]
        return inputs + 0.1 * torch.randn(6), (inputs.sum() > 0).long()


class SignalAt(Callback):
    """Sends this process a signal after one of the run's batches."""

    def __init__(self, batch: int, number: int = signal.SIGTERM) -> None:
        self._left = batch
        self._number = number

    def on_batch_end(self, state: TrainState) -> None:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(self._number)


class Slow(Callback):
    """Tells when a run has begun, and sleeps in each batch and validation.

    Args:
        began: The file that is made when the run begins.
    """

    def __init__(self, began: Path) -> None:
        self._began = began

    def on_train_begin(self, state: TrainState) -> None:
        self._began.touch()

    def on_batch_end(self, state: TrainState) -> None:
        time.sleep(0.003)

    def on_validation_begin(self, state: TrainState) -> None:
        time.sleep(0.003)


def make_trainer(
    directory: Path | None = None,
    *,
    workers: int = 0,
    accumulate: int = 1,
    precision: str = "fp32",
    is_own_sampler: bool = False,
    every: str | int | None = 1,
    is_async: bool = False,
    resume: str | None = None,
    callbacks: tuple[Callback, ...] = (),
    epochs: int = EPOCHS,
    **saving: Any,
) -> Trainer:
    """Return a trainer with dropout, batch norm, shuffling, an average, a plateau and more.

    Args:
        directory: Where it saves; None for nowhere.
        workers: Worker processes of the loader.
        accumulate: Batches of an update.
        precision: That of `Precision`; "fp16" overflows at some updates.
        is_own_sampler: Whether the order is that of `ShuffledSampler`.
        every: Cadence of checkpoints.
        is_async: Whether they are written in a thread.
        resume: As in `Trainer`.
        callbacks: Further ones.
        epochs: Length of the run.
        **saving: Further arguments of `Checkpointing`.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
    )
    optimizer: Optimizer = AdamW(model.parameters(), lr=0.01)
    plateau = ReduceOnPlateau("val_loss", factor=0.5, patience=0, threshold=0.5)
    data = Noisy()
    loader: Any = data
    if not is_own_sampler:
        loader = DataLoader(data, 8, shuffle=True, num_workers=workers)
    if directory is not None:
        saving = {"keep_last": None, "metric": "val_loss", **saving}
        callbacks = (*callbacks, Checkpointing(directory, every, is_async=is_async, **saving))
    return Trainer(
        model,
        TrainingConfig(
            epochs=epochs,
            batch_size=8,
            accumulate=accumulate,
            log_every=2,
            validate_every="0.5 epochs",
            clip_norm=1.0,
            average_decay=0.9,
            seed=7,
            progress=False,
        ),
        loader,
        DataLoader(data, 16),
        (*callbacks, EarlyStopping(patience=50, restore_best=True)),
        loss=nn.functional.cross_entropy,
        optimizer=optimizer,
        scheduler=Scheduler(optimizer, Cosine(), plateau=plateau, total=EPOCHS * BATCHES),
        metrics={"accuracy": Accuracy()},
        precision=Precision(precision, init_scale=2.0**16, growth_interval=2),
        resume=resume,
    )


def outcome(trainer: Trainer) -> dict[str, str]:
    """Return checksums of everything a run ends with, by name, but for its times."""
    state = {**trainer.state_dict(), "stop_reason": trainer.history.stop_reason}
    plain, tensors = flatten(_without_times(state))
    sums = {name: xxhash.xxh3_64_hexdigest(_bytes(tensor)) for name, tensor in tensors.items()}
    return {**sums, "plain": repr(plain)}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_times(each) for key, each in value.items() if not str(key).endswith(TIMES)
        }
    return value


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def run(directory: Path | None, stop_at: int | None = None, **variant: Any) -> dict[str, str]:
    """Train to the end, or to a signal after a batch of the run.

    Args:
        directory: As in `make_trainer`.
        stop_at: How many batches this process trains on before it gets SIGTERM; None for all.
        **variant: As in `make_trainer`.
    """
    callbacks = () if stop_at is None else (SignalAt(stop_at),)
    trainer = make_trainer(directory, callbacks=callbacks, **variant)
    trainer.train()
    return outcome(trainer)


def is_over(directory: Path, **variant: Any) -> bool:
    """Tell whether the run of a directory has had all its updates."""
    trainer = make_trainer(directory, resume="auto", **variant)
    return trainer._run.is_complete or trainer.history.stop_reason is not None


def run_slowly(directory: Path, began: Path, **variant: Any) -> dict[str, str]:
    """Train to the end as `run` does, slowly enough to be hit by a signal anywhere.

    The process leads a group of its own, to which its workers belong.
    """
    os.setpgrp()
    trainer = make_trainer(directory, callbacks=(Slow(began),), **variant)
    trainer.train()
    return outcome(trainer)
