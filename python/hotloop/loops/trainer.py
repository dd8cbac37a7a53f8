"""The trainer: puts a model, its data, an optimizer and callbacks together."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hotloop.callbacks import (
    Accumulate,
    Action,
    Callback,
    Callbacks,
    EarlyStopping,
    KeepWeights,
    LogMetrics,
    ProgressBar,
    RestoreWeights,
    Validate,
)
from hotloop.config import TrainingConfig
from hotloop.loops.batch import device_of, to_device
from hotloop.loops.history import History
from hotloop.loops.measurement import Measurement
from hotloop.loops.pace import Pace
from hotloop.loops.run import Run
from hotloop.loops.schedules import AnySchedule, Schedules
from hotloop.loops.training_loop import Observer, Update, train_epoch
from hotloop.loops.training_step import (
    Loss,
    StepFunction,
    StepOutput,
    StepResult,
    call_model,
)
from hotloop.loops.validation_loop import evaluate, evaluation_mode
from hotloop.metrics import Metric
from hotloop.monitoring import Tracker
from hotloop.optimizers import WeightAverage, create_optimizer
from hotloop.precision import Precision, numerics
from hotloop.schedulers import Schedule, Scheduler, create_schedule

__all__ = ["Trainer"]

Loaders = Iterable[Any] | Mapping[str, Iterable[Any]] | None


class Trainer:
    """Trains a model, validating, logging and stopping as it is told.

    A batch goes through `training_step`; when a window of them is full the gradients go
    through `optimizer_step`, the schedules move, and the callbacks see a `TrainState` and may
    return actions. After an update come, in this order: schedules, the logging window,
    `on_step_end`, the actions asked for, a validation and a save if they are due.

    Args:
        model: Trained in place.
        config: The settings; None for the defaults.
        train_loader: Yields batches, anew for each epoch; or a dataset to make a loader of,
            which shuffles.
        val_loader: Held-out batches or a dataset; several by name; None to validate nothing.
        callbacks: Called in this order, before those that the config asks for.
        loss: As in `forward`: of batches (inputs, target), maps predictions and targets to the
            mean, or to a `LossSum`. None if the model or `step_fn` computes it.
        optimizer: Any torch optimizer over the model's parameters, in place of the config's.
        scheduler: A schedule of the learning rate, a scheduler, one of torch's, or several,
            in place of the config's.
        schedule_unit: What moves plain schedules and those of torch, "step" or "epoch"; a
            `Scheduler` knows its own. torch's ReduceLROnPlateau moves with each epoch and
            sees "val_loss", or "train_loss" without validation.
        metrics: Further metrics by name; validation has copies of its own.
        step_fn: A forward pass of the user's own, as in `forward`.
        precision: In place of the config's.
        average: Follows the model's parameters and takes their place in validation, in place
            of the config's.
        trackers: Where logging windows, epochs and validations are written to.
        run_id: The name of the run for the trackers; under the same name they go on where a run
            that is resumed has ended.
        save: Called with `state_dict()` at the config's `save_every`.
        clock: Returns seconds.

    Attributes:
        callbacks: The callbacks, to add to and remove from.
        history: What was measured so far.

    Raises:
        ValueError: If settings do not fit together, or a schedule or a cadence needs a length
            that the loader does not tell.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig | None = None,
        train_loader: Iterable[Any] | Dataset[Any] | None = None,
        val_loader: Loaders | Dataset[Any] = None,
        callbacks: Iterable[Callback] = (),
        *,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
        scheduler: AnySchedule | Iterable[AnySchedule] | None = None,
        schedule_unit: str = "step",
        metrics: Mapping[str, Metric] | None = None,
        step_fn: StepFunction | None = None,
        precision: Precision | None = None,
        average: WeightAverage | None = None,
        trackers: Iterable[Tracker] = (),
        run_id: str | None = None,
        save: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        config = _with_limits(TrainingConfig() if config is None else config)
        if config.save_every is not None and save is None:
            raise ValueError(f"save_every={config.save_every!r} needs save=..., which is None")
        if step_fn is not None and loss is not None:
            raise ValueError("step_fn computes the loss; pass it or loss, not both")
        self.config = config
        self.device = device_of(model) if config.device is None else torch.device(config.device)
        self.model = model.to(self.device)
        self.loss = loss
        self.step_fn = step_fn
        self.train_loader, self._val_loaders = _loaders(config, train_loader, val_loader)
        self.optimizer = optimizer or create_optimizer(
            model,
            config.optimizer,
            config.learning_rate,
            config.weight_decay,
            **config.optimizer_options,
        )
        self.precision = precision or Precision(config.precision, self.device)
        if average is None and config.average_decay is not None:
            average = WeightAverage(model, config.average_decay)
        self.average = average
        self.metrics = dict(metrics or {})
        self._val_metrics = copy.deepcopy(self.metrics)
        self._measurement = Measurement(self.metrics)
        self.accumulate = config.accumulate
        self._save = save
        self._clock = clock
        self.callbacks = Callbacks((*callbacks, *_callbacks_of(config, trackers, run_id)))
        watches_validation = config.early_stopping is not None and config.monitor[:4] == "val_"
        if watches_validation and not self._val_loaders:
            raise ValueError(
                f"early_stopping watches {config.monitor!r}, which needs a val_loader; set "
                "monitor='train_loss' to watch training"
            )
        batches = _length(self.train_loader)
        self._run = Run(
            self.callbacks,
            (self.optimizer,),
            self._apply,
            epochs=config.epochs,
            max_steps=config.max_steps,
            max_seconds=config.max_seconds,
            steps_per_epoch=None if batches is None else -(-batches // config.accumulate),
            batches_per_epoch=batches,
            log_every=config.log_every,
            is_strict=config.nonfinite == "raise" and self.precision.scaler is None,
            clock=clock,
        )
        if scheduler is None and (config.scheduler is not None or config.warmup):
            scheduler = create_schedule(config.scheduler or "constant", warmup=config.warmup)
        self.schedules = Schedules(
            self.optimizer,
            _several(scheduler),
            unit=schedule_unit,
            epochs=config.epochs,
            steps=self._run.steps,
        )
        every = config.validate_every if self._val_loaders else None
        self._validate_pace = Pace(every, self._run.steps_per_epoch, clock)
        self._save_pace = Pace(config.save_every, self._run.steps_per_epoch, clock)
        self._wants_validation = False
        self._validated_at = -1
        self._kept: dict[str, Any] | None = None

    @property
    def history(self) -> History:
        """What was measured so far."""
        return self._run.history

    def train(self) -> History:
        """Train to the end of the run, and return what was measured.

        After a `Stop`, an exception or `load_state_dict` it goes on where the run was, behind
        the batches that the epoch has had.

        Raises:
            ValueError: If there is nothing to train on, a loader yields no sample, or the run
                has reached its end.
            NonFiniteError: If a loss or gradient is not finite and the config says "raise".
        """
        if self.train_loader is None:
            raise ValueError("train needs a train_loader, which is None")
        run, config = self._run, self.config
        if run.is_complete:
            raise ValueError(
                f"the run is over, at epoch {run.epoch} and step {run.step}; make a new Trainer to "
                "train on"
            )
        if run.step == 0 and config.seed is not None:
            _seed(config.seed)
        with numerics(deterministic=config.deterministic, tf32=config.tf32), run.active():
            while not run.is_over:
                run.call("on_epoch_begin")
                if not run.is_over:
                    self._train_epoch()
        return self.history

    def validate(self) -> dict[str, float]:
        """Measure the model, or its average, on the validation data.

        Returns:
            "val_loss" and the metrics with the same prefix; with several loaders "val_NAME_loss".

        Raises:
            ValueError: If there is no validation data, or a loader yields no sample.
        """
        if not self._val_loaders:
            raise ValueError("validate needs a val_loader, which is None")
        values: dict[str, float] = {}
        for prefix, loader in self._val_loaders.items():
            values |= self._evaluate(prefix, loader)
        return values

    def test(self, loader: Iterable[Any]) -> dict[str, float]:
        """Measure the model, or its average, on further data.

        Args:
            loader: The batches.

        Returns:
            "test_loss" and the metrics with the same prefix.

        Raises:
            ValueError: If the loader yields no sample.
        """
        return self._evaluate("test", _limited(loader, self.config.limit_test_batches))

    @torch.inference_mode()
    def predict(self, loader: Iterable[Any]) -> Any:
        """Return what the model, or its average, says of each sample.

        Args:
            loader: The batches: with a loss inputs, or pairs as in training, of which the
                targets are not used; otherwise what the model is called with, or the step
                function, whose predictions count.

        Returns:
            The outputs of all batches, joined along the first dimension if they are tensors,
            and as a list if not; on the CPU.

        Raises:
            ValueError: If the loader yields no batch.
            TypeError: If the step function returns no predictions.
        """
        outputs = []
        with self._averaged(), evaluation_mode(self.model):
            for batch in _limited(loader, self.config.limit_test_batches):
                batch = to_device(batch, self.device)
                with self.precision.context():
                    output = self._predict(batch)
                outputs.append(to_device(output, torch.device("cpu")))
        if not outputs:
            raise ValueError("the loader yields no batch; check its dataset and batch size")
        return torch.cat(outputs) if isinstance(outputs[0], Tensor) else outputs

    def _predict(self, batch: Any) -> Any:
        if self.step_fn is not None:
            output = self.step_fn(self.model, batch)
            if not isinstance(output, StepOutput) or output.preds is None:
                raise TypeError(
                    "predict needs predictions; return StepOutput(loss, preds) from the step "
                    f"function, which returned {type(output).__name__}"
                )
            return output.preds
        if self.loss is None:
            return call_model(self.model, batch)
        return self.model(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part, not copied, and how far the run is.

        The states of random generators and of the loader are not among them.
        """
        run = self._run
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedules": self.schedules.state_dict(),
            "precision": self.precision.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "history": self.history.state_dict(),
            "measurement": self._measurement.state_dict(),
            "accumulate": self.accumulate,
            "kept": self._kept,
            "validated_at": self._validated_at,
            "progress": {name: getattr(run, name) for name in _PROGRESS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, behind the batches that the epoch has had.

        The training metrics of that epoch, but for the loss, are those of its rest.

        Args:
            state: What `state_dict` returned, of a trainer with the same parts.

        Raises:
            ValueError: If the state lacks a part or has one more, or a part does not fit.
        """
        wrong = sorted(self.state_dict().keys() ^ state.keys())
        if wrong:
            raise ValueError(f"the state does not fit: {', '.join(wrong)} missing or unknown")
        if (state["average"] is None) != (self.average is None):
            raise ValueError("the state and the trainer must both have an average, or none")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedules.load_state_dict(state["schedules"])
        self.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.callbacks.load_state_dict(state["callbacks"])
        self.history.load_state_dict(state["history"])
        self._measurement.load_state_dict(state["measurement"])
        self.accumulate = state["accumulate"]
        self._kept = state["kept"]
        self._validated_at = state["validated_at"]
        for name in _PROGRESS:
            setattr(self._run, name, state["progress"][name])

    def _train_epoch(self) -> None:
        """Train on the batches that the epoch has not had."""
        run, config = self._run, self.config
        batches = self.train_loader
        assert batches is not None
        # Those of an update that failed come again.
        run.batch = run.behind
        if run.batch == 0:
            self._measurement.restart()
        else:
            batches = itertools.islice(batches, run.batch, None)
        start = self._clock()
        watch = _Watch(self)
        measured = train_epoch(
            self.model,
            self.optimizer,
            self.loss,
            batches,
            observer=watch,
            step_fn=self.step_fn,
            accumulate=lambda: self.accumulate,
            max_norm=config.clip_norm,
            max_value=config.clip_value,
            average=self.average,
            precision=self.precision,
            nonfinite=config.nonfinite,
            measurement=self._measurement,
        )
        is_whole = not watch.is_cut or run.batch == _length(self.train_loader)
        values = {f"train_{name}": value for name, value in measured.items()}
        run.metrics = run.metrics | values
        if self._validate_pace.is_due_after_epoch(run.epoch):
            self._wants_validation = True
        self._validate_if_wanted()
        is_validated = self._validated_at == run.step
        # Those of a validation are in the history already.
        values["seconds"] = self._clock() - start
        self.history.update(values, run.step)
        run.metrics = run.metrics | values
        if is_validated:
            values |= {name: value for name, value in run.metrics.items() if name[:4] == "val_"}
        if is_whole:
            self.schedules.after_epoch(values, is_validated=is_validated)
        run.call("on_epoch_end")
        self._validate_if_wanted()
        if is_whole:
            run.end_epoch()
            if self._save_pace.is_due_after_epoch(run.epoch - 1):
                self._call_save()

    def _between_updates(self, update: Update) -> None:
        """Validate and save, if it is time or asked for."""
        step, updates = self._run.step, self._run.updates
        if update.is_applied and self._validate_pace.is_due(step, updates):
            self._wants_validation = True
        self._validate_if_wanted()
        if update.is_applied and self._save_pace.is_due(step, updates):
            self._call_save()

    def _validate_if_wanted(self) -> None:
        run = self._run
        if not self._wants_validation or not self._val_loaders or self._validated_at == run.step:
            self._wants_validation = False
            return
        self._wants_validation = False
        self._validated_at = run.step
        run.call("on_validation_begin")
        values = self.validate()
        run.metrics = run.metrics | values
        self.history.update(values, run.step)
        run.call("on_validation_end")

    def _call_save(self) -> None:
        assert self._save is not None
        self._save(self.state_dict())

    def _evaluate(self, prefix: str, loader: Iterable[Any]) -> dict[str, float]:
        with self._averaged():
            values = evaluate(
                self.model,
                self.loss,
                loader,
                self._val_metrics,
                step_fn=self.step_fn,
                precision=self.precision,
            )
        return {f"{prefix}_{name}": value for name, value in values.items()}

    def _averaged(self) -> Any:
        has_average = self.average is not None and self.average.updates > 0
        return self.average.swap() if has_average and self.average is not None else nullcontext()

    def _apply(self, action: Action) -> None:
        if isinstance(action, Accumulate):
            self.accumulate = action.batches
        elif isinstance(action, KeepWeights):
            with self._averaged():
                average = None if self.average is None else self.average.state_dict()
                self._kept = copy.deepcopy({"model": self.model.state_dict(), "average": average})
        elif isinstance(action, RestoreWeights):
            if self._kept is not None:
                # What was validated becomes the model's, and the average is the same.
                self.model.load_state_dict(self._kept["model"])
                if self.average is not None:
                    self.average.load_state_dict(self._kept["average"])
        elif isinstance(action, Validate):
            self._wants_validation = True


_PROGRESS = ("epoch", "behind", "updates", "step", "samples", "skipped", "metrics")


class _Watch(Observer):
    """Tells a trainer what happens in an epoch."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._run = trainer._run
        self._hooks = trainer.callbacks.hooks
        self._schedules = trainer.schedules
        self._has_paces = trainer._validate_pace.is_of_updates or trainer._save_pace.is_of_updates
        #: Whether the run was over before the loader was.
        self.is_cut = False

    def before_batch(self) -> None:
        if self._hooks["on_batch_begin"]:
            self._run.call("on_batch_begin")

    def after_batch(self, result: StepResult) -> None:
        self._run.batch += 1
        if self._hooks["on_batch_end"]:
            self._run.call("on_batch_end")

    def after_update(self, update: Update) -> bool:
        if update.is_applied and self._schedules.move_with_updates:
            self._schedules.after_update()
        self._run.count(update)
        if self._has_paces or self._trainer._wants_validation:
            self._trainer._between_updates(update)
        self.is_cut = self._run.is_over
        return self.is_cut


def _with_limits(config: TrainingConfig) -> TrainingConfig:
    if config.fast_dev_run:
        few = config.fast_dev_run
        return dataclasses.replace(
            config,
            epochs=1,
            max_steps=None,
            max_seconds=None,
            validate_every="1 epoch",
            save_every=None,
            limit_train_batches=few,
            limit_val_batches=few,
            limit_test_batches=few,
        )
    if config.epochs is config.max_steps is config.max_seconds is None:
        return dataclasses.replace(config, epochs=1)
    return config


def _loaders(
    config: TrainingConfig, train: Any, val: Any
) -> tuple[Iterable[Any] | None, dict[str, Iterable[Any]]]:
    train_loader = _loader(train, config, is_shuffled=True)
    if train_loader is not None:
        train_loader = _limited(train_loader, config.limit_train_batches)
        if config.overfit_batches is not None:
            # The same batches each time, so that the model can learn them by heart.
            train_loader = list(_limited(train_loader, config.overfit_batches))
            val = None if val is None else train_loader
    named = val if isinstance(val, Mapping) else {"": val}
    return train_loader, {
        f"val_{name}" if name else "val": _limited(_loader(each, config), config.limit_val_batches)
        for name, each in named.items()
        if each is not None
    }


def _loader(data: Any, config: TrainingConfig, *, is_shuffled: bool = False) -> Any:
    if isinstance(data, DataLoader) or not isinstance(data, Dataset):
        return data
    is_shuffled = is_shuffled and not isinstance(data, IterableDataset)
    generator = None
    if is_shuffled and config.seed is not None:
        generator = torch.Generator().manual_seed(config.seed)
    return DataLoader(data, config.batch_size, shuffle=is_shuffled, generator=generator)


def _limited(loader: Iterable[Any], limit: int | float | None) -> Iterable[Any]:
    if limit is None:
        return loader
    if isinstance(limit, float):
        if not isinstance(loader, Sized):
            raise ValueError(
                f"a fraction of the batches, {limit!r}, needs their number, and the loader does "
                "not tell it; pass how many"
            )
        limit = max(1, round(limit * len(loader)))
    return _First(loader, limit)


class _First:
    """The first batches of a loader, each time."""

    def __init__(self, loader: Iterable[Any], count: int) -> None:
        self._loader = loader
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self._loader, self._count)

    def __len__(self) -> int:
        # Of a loader without a length this raises the TypeError that `len` does there.
        return min(self._count, len(self._loader))  # type: ignore[arg-type]


def _callbacks_of(
    config: TrainingConfig, trackers: Iterable[Tracker], run_id: str | None
) -> list[Callback]:
    callbacks: list[Callback] = []
    if config.early_stopping is not None:
        callbacks.append(
            EarlyStopping(config.monitor, patience=config.early_stopping, mode=config.monitor_mode)
        )
    trackers = tuple(trackers)
    if trackers and not config.fast_dev_run:
        callbacks.append(LogMetrics(trackers, config=config.to_dict(), run_id=run_id))
    if config.progress:
        callbacks.append(ProgressBar())
    return callbacks


def _several(scheduler: Any) -> tuple[AnySchedule, ...]:
    if scheduler is None:
        return ()
    if isinstance(scheduler, (Schedule, Scheduler, LRScheduler)):
        return (scheduler,)
    return tuple(scheduler)


def _length(loader: Iterable[Any] | None) -> int | None:
    if not isinstance(loader, Sized):
        return None
    # A loader over an iterable dataset has the method and no length.
    try:
        return len(loader)
    except TypeError:
        return None


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
