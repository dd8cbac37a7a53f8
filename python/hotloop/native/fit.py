"""A whole run in one call, for data in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.config import TrainingConfig
from hotloop.programs.native_trainer import as_tensor
from hotloop.programs.objective import objective_of, torch_loss
from hotloop.schedulers import Schedule, create_schedule

if TYPE_CHECKING:
    from hotloop.callbacks import Callback
    from hotloop.loops.history import History
    from hotloop.loops.measurement import Metrics

__all__ = ["fit"]


def fit(
    model: nn.Module,
    x: Any,
    y: Any,
    *,
    loss: Any,
    optimizer: str | torch.optim.Optimizer = "adamw",
    learning_rate: float = 1e-3,
    epochs: int = 1,
    batch_size: int = 32,
    schedule: Schedule | str | None = None,
    validation: tuple[Any, Any] | None = None,
    metrics: Metrics = None,
    callbacks: Iterable[Callback] = (),
    early_stopping: int | None = None,
    clip_norm: float | None = None,
    checkpoints: str | Path | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
    seed: int | None = None,
) -> History:
    """Train a model on data in memory, with every update in Mojo.

    It is a `hotloop.loops.Trainer` with `engine="native"`: callbacks, early stopping, checkpoints
    and their resume, signals and the history are its own.

    Args:
        model: As in `NativeTrainer`; trained in place.
        x: Samples in the model's dtype, a tensor or a NumPy array, which is not copied.
        y: What they should be: class indices, or numbers in the model's dtype.
        loss: "cross_entropy", "mse", "huber", "bce_with_logits", "poisson", or torch's loss of
            that kind.
        optimizer: A name of `hotloop.optimizers`, or one of its optimizers.
        learning_rate: For an optimizer by name.
        epochs: How often each sample is trained on.
        batch_size: Samples of a batch; the last one of an epoch may be smaller.
        schedule: Of the learning rate over all updates, or its name.
        validation: Samples and what they should be, measured after each epoch.
        metrics: As in `Trainer`.
        callbacks: The same.
        early_stopping: Epochs without a lower "val_loss", or "train_loss" without validation, that
            end the run; None for never.
        clip_norm: The largest norm of all gradients that enters an update.
        checkpoints: A directory to save to after each epoch.
        resume: "auto" or a path, as in `Trainer`.
        progress: Whether there is a progress bar.
        seed: Decides the order of the samples; None for one that differs with each call.

    Returns:
        What was measured.

    Raises:
        UnsupportedModelError: If a part has no kernel; the text names it.
        BackendError: If there are no kernels on this machine.
        ValueError: If an argument is out of its range, or the data do not fit.
        NonFiniteError: If a loss or gradient is not finite; the update was not made.
    """
    # Not with the module: who wants a NativeTrainer alone does without the half of its imports.
    from hotloop.loops import Trainer

    objective = objective_of(loss)
    function = torch_loss(objective)

    def dataset(samples: Any, target: Any) -> TensorDataset:
        samples, target = as_tensor("x", samples), as_tensor("y", target)
        if objective.has_labels:
            target = target if target.is_floating_point() else target.to(torch.int64)
        elif target.ndim == 1:
            # Beside outputs of shape (N, 1), as torch's losses want them.
            target = target.unsqueeze(1)
        lengths = [len(each) if each.ndim else 0 for each in (samples, target)]
        if 0 in lengths or lengths[0] != lengths[1]:
            raise ValueError(f"x and y must be as long, got {lengths[0]} and {lengths[1]}")
        return TensorDataset(samples, target)

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        clip_norm=clip_norm,
        early_stopping=early_stopping,
        monitor="train_loss" if validation is None else "val_loss",
        log_every="1 epoch",
        progress=progress,
        seed=seed,
        optimizer=optimizer if isinstance(optimizer, str) else "adamw",
        learning_rate=learning_rate,
    )
    trainer = Trainer(
        model,
        config,
        dataset(x, y),
        None if validation is None else DataLoader(dataset(*validation), 1024),
        callbacks,
        loss=function,
        optimizer=None if isinstance(optimizer, str) else optimizer,
        scheduler=create_schedule(schedule) if isinstance(schedule, str) else schedule,
        metrics=metrics,
        checkpoints=checkpoints,
        resume=resume,
        engine="native",
    )
    return trainer.train()
