"""The trainer: puts a model, its data, an optimizer and callbacks together."""

from __future__ import annotations

import copy
import dataclasses
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from hotloop.callbacks import (
    Accumulate,
    Action,
    Callback,
    Callbacks,
    Checkpointing,
    EarlyStopping,
    KeepWeights,
    LogMetrics,
    ProgressBar,
    RestoreWeights,
    Save,
    Validate,
)
from hotloop.callbacks.pace import Pace
from hotloop.checkpoint import CheckpointManager
from hotloop.config import TrainingConfig
from hotloop.data import generators_of
from hotloop.errors import BackendError, NonFiniteError, UnsupportedModelError, unknown_name
from hotloop.loops.batch import device_of, to_device
from hotloop.loops.feed import Feed
from hotloop.loops.history import History
from hotloop.loops.loaders import First, length_of, limited, loaders_of
from hotloop.loops.measurement import Measurement, Metrics, numbers_of
from hotloop.loops.native_loop import NativeLoop
from hotloop.loops.run import Run
from hotloop.loops.saver import Saver
from hotloop.loops.schedules import AnySchedule, Schedules
from hotloop.loops.signals import Signals
from hotloop.loops.training_loop import Observer, Update, train_epoch
from hotloop.loops.training_step import (
    Loss,
    StepFunction,
    StepOutput,
    StepResult,
    call_model,
)
from hotloop.loops.validation_loop import evaluate, evaluation_mode
from hotloop.loops.window import Window
from hotloop.monitoring import Tracker
from hotloop.optimizers import WeightAverage, create_optimizer
from hotloop.precision import Precision, numerics
from hotloop.schedulers import Schedule, Scheduler, create_schedule

__all__ = ["Trainer"]

_ENGINES = ("auto", "native", "torch")

_LOGGER = logging.getLogger("hotloop")

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
        metrics: Further metrics: a mapping of names to metrics of hotloop, torchmetrics or one's
            own, or a collection of either library. Validation has copies of its own. Values that
            are no numbers, such as confusion matrices, are not in the history: `validate` and
            `test` return them.
        step_fn: A forward pass of the user's own, as in `forward`.
        precision: In place of the config's.
        average: Follows the model's parameters and takes their place in validation, in place
            of the config's.
        trackers: Where logging windows, epochs and validations are written to.
        run_id: The name of the run for the trackers; under the same name they go on where a run
            that is resumed has ended.
        checkpoints: A directory or a manager, for a `Checkpointing` callback with the cadence
            and the monitored value of the config. Without it and without such a callback
            nothing is saved.
        resume: "auto" to go on from the newest checkpoint that is not damaged, if there is
            one; the path of a checkpoint to go on from that one; None to begin anew.
        engine: Who computes the updates: "torch"; "native", the kernels, for a model, loss,
            optimizer and loader that have them, see docs/native.md; or "auto", the kernels where
            they can and torch elsewhere. Batches, learning rates, history and checkpoints are the
            same. The kernels make the updates between two that somebody looks at in one call.
        clock: Returns seconds.

    Attributes:
        callbacks: The callbacks, to add to and remove from.
        engine: "torch" or "native".
        engine_reason: Why it is "torch" where "auto" was asked for; else empty.
        history: What was measured so far.

    Raises:
        ValueError: If settings do not fit together, or a schedule or a cadence needs a length
            that the loader does not tell.
        UnsupportedModelError: If the engine is "native" and something has no kernel; the text
            names it.
        BackendError: If the engine is "native" and there are no kernels on this machine.
        CheckpointError: If there are checkpoints to resume from and none is good.
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
        metrics: Metrics = None,
        step_fn: StepFunction | None = None,
        precision: Precision | None = None,
        average: WeightAverage | None = None,
        trackers: Iterable[Tracker] = (),
        run_id: str | None = None,
        checkpoints: str | Path | CheckpointManager | None = None,
        resume: str | Path | None = None,
        engine: str = "torch",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        config = _with_limits(TrainingConfig() if config is None else config)
        if config.save_every is not None and checkpoints is None:
            raise ValueError(
                f"save_every={config.save_every!r} needs checkpoints=..., which is None"
            )
        if step_fn is not None and loss is not None:
            raise ValueError("step_fn computes the loss; pass it or loss, not both")
        self.config = config
        self.device = device_of(model) if config.device is None else torch.device(config.device)
        self.model = model.to(self.device)
        self.loss = loss
        self.step_fn = step_fn
        self.train_loader, self._val_loaders = loaders_of(config, train_loader, val_loader)
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
        self.metrics = metrics
        self._val_metrics = copy.deepcopy(metrics)
        self._measurement = Measurement(metrics, self.device)
        self.accumulate = config.accumulate
        self._clock = clock
        self.callbacks = Callbacks(
            (*callbacks, *_callbacks_of(config, trackers, run_id, checkpoints))
        )
        watches_validation = config.early_stopping is not None and config.monitor[:4] == "val_"
        if watches_validation and not self._val_loaders:
            raise ValueError(
                f"early_stopping watches {config.monitor!r}, which needs a val_loader; set "
                "monitor='train_loss' to watch training"
            )
        batches = length_of(self.train_loader)
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
        self._wants_validation = False
        self._validated_at = -1
        self._kept: dict[str, Any] | None = None
        loaders = (self.train_loader, *self._val_loaders.values())
        self._native, self.engine_reason = self._choose(engine)
        self.engine = "torch" if self._native is None else "native"
        source: Iterable[Any] = () if self.train_loader is None else self.train_loader
        if self._native is not None:
            source = self._native.loader
        self._feed = Feed(source, _generators_of(loaders))
        self._signals = Signals()
        self._seed = 0
        #: The batches of an update at which a signal ended the run.
        self._window: Window | None = None
        self._is_updating = False
        self._is_resumed = False
        self._rollbacks = 0
        self._saver = Saver(
            self.callbacks, self._run, config, self.state_dict, self.load_state_dict
        )
        if config.nonfinite == "rollback" and self._saver.checkpointing is None:
            raise ValueError(
                "nonfinite='rollback' needs checkpoints to roll back to; pass "
                "checkpoints=DIRECTORY or a Checkpointing callback"
            )
        if resume == "auto" and not config.fast_dev_run:
            self._is_resumed = self._saver.load_newest() is not None
        elif resume is not None and not config.fast_dev_run:
            self.load_checkpoint(resume)

    def _choose(self, engine: str) -> tuple[NativeLoop | None, str]:
        """Return the loop of the kernels, or None and why torch computes the updates."""
        if engine not in _ENGINES:
            raise ValueError(unknown_name("engine", str(engine), _ENGINES))
        if engine == "torch":
            return None, ""
        config = self.config
        settings = {
            "step_fn": self.step_fn is None,
            "no loss": self.loss is not None,
            "average": self.average is None,
            "accumulate": config.accumulate == 1,
            "clip_value": config.clip_value is None,
            "precision": self.precision.dtype is None and self.precision.scaler is None,
            "a callback with on_batch_begin or on_batch_end": not (
                self.callbacks.hooks["on_batch_begin"] or self.callbacks.hooks["on_batch_end"]
            ),
        }
        try:
            if not all(settings.values()):
                wrong = ", ".join(name for name, is_fine in settings.items() if not is_fine)
                raise UnsupportedModelError(f"engine='native' does without: {wrong}")
            loop = NativeLoop(
                self.model,
                self.loss,
                self.optimizer,
                self.train_loader,
                max_norm=config.clip_norm,
                is_skipping=config.nonfinite != "raise",
            )
        except (UnsupportedModelError, BackendError) as error:
            if engine == "native":
                raise
            _LOGGER.info("torch computes the updates: %s", error)
            return None, str(error)
        return loop, ""

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
            CheckpointError: If a checkpoint cannot be saved and `Checkpointing` does not only
                warn of that, or if there are some to roll back to and none is good.
            KeyboardInterrupt: After SIGINT; with `Checkpointing`, once the run is saved.
            SystemExit: After another signal of `Checkpointing`, once the run is saved; the
                status is 128 plus its number. A save that fails here is only logged.
        """
        if self.train_loader is None:
            raise ValueError("train needs a train_loader, which is None")
        run, config = self._run, self.config
        is_resumed, self._is_resumed = self._is_resumed, False
        if is_resumed and (run.is_complete or self.history.stop_reason is not None):
            _LOGGER.warning(
                "the run is finished, at epoch %d and step %d%s: there is nothing to train",
                run.epoch,
                run.step,
                "" if self.history.stop_reason is None else f" ({self.history.stop_reason})",
            )
            return self.history
        if run.is_complete:
            raise ValueError(
                f"the run is over, at epoch {run.epoch} and step {run.step}; make a new Trainer to "
                "train on"
            )
        if not self._feed.rewind() and run.step == 0:
            if config.seed is not None:
                _seed(config.seed)
            self._seed = torch.initial_seed() % (1 << 63)
        checkpointing = self._saver.checkpointing
        self._signals = Signals(() if checkpointing is None else checkpointing.signals)
        with numerics(deterministic=config.deterministic, tf32=config.tf32), self._signals:
            try:
                with run.active():
                    try:
                        self._train_epochs()
                    except BaseException as error:
                        self._end(error)
                self._saver.save_if_wanted()
            finally:
                self._saver.wait()
            # One that came when the run was at its end.
            self._signals.check()
        return self.history

    def _train_epochs(self) -> None:
        run = self._run
        while not run.is_over:
            self._signals.check()
            run.call("on_epoch_begin")
            if run.is_over:
                return
            try:
                self._train_epoch()
            except _NonFiniteUpdate as error:
                self._roll_back(error)

    def validate(self) -> dict[str, Any]:
        """Measure the model, or its average, on the validation data.

        Returns:
            "val_loss" and the metrics with the same prefix, as from `evaluate`; with several
            loaders "val_NAME_loss".

        Raises:
            ValueError: If there is no validation data, or a loader yields no sample.
        """
        if not self._val_loaders:
            raise ValueError("validate needs a val_loader, which is None")
        values: dict[str, Any] = {}
        for prefix, loader in self._val_loaders.items():
            values |= self._evaluate(prefix, loader)
        return values

    def test(self, loader: Iterable[Any]) -> dict[str, Any]:
        """Measure the model, or its average, on further data.

        Args:
            loader: The batches.

        Returns:
            "test_loss" and the metrics with the same prefix, as from `evaluate`.

        Raises:
            ValueError: If the loader yields no sample.
        """
        return self._evaluate("test", limited(loader, self.config.limit_test_batches))

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
            for batch in limited(loader, self.config.limit_test_batches):
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

        That is what a run needs to go on bit for bit: also the states of the random
        generators, and between the batches of an update their gradients.
        """
        window = None
        if self._window is not None:
            window = {**self._window.state_dict(), "gradients": [p.grad for p in self._params()]}
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
            "wants_validation": self._wants_validation,
            "progress": self._run.state_dict(),
            "window": window,
            "feed": self._feed.state_dict(),
            "seed": self._seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, behind the batches that the epoch has had.

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
        self._measurement.load_state_dict(to_device(state["measurement"], self.device))
        self.accumulate = state["accumulate"]
        self._kept = state["kept"]
        self._validated_at = state["validated_at"]
        self._wants_validation = state["wants_validation"]
        self._run.load_state_dict(state["progress"])
        self._is_updating = False
        self._window = None
        if state["window"] is not None:
            self._window = Window.from_state(to_device(state["window"], self.device))
            for param, grad in zip(self._params(), state["window"]["gradients"]):
                param.grad = None if grad is None else grad.to(param.device)
        self._feed.load_state_dict(state["feed"])
        self._seed = state["seed"]

    def save_checkpoint(self, name: str | None = None, is_best: bool | None = None) -> Path:
        """Save a checkpoint now; in a hook, as of the last update.

        Args:
            name: Its name; such a checkpoint stays until it is replaced or removed. None
                names it by the step, and it stays as long as the manager's rules say.
            is_best: As in `CheckpointManager.save`.

        Returns:
            Its directory.

        Raises:
            ValueError: If there is nowhere to save, or the name is not allowed.
            CheckpointError: If it cannot be saved.
        """
        return self._saver.save(name, is_best)

    def load_checkpoint(self, path: str | Path) -> None:
        """Go on from a checkpoint.

        Args:
            path: Its directory, or with checkpoints of its own a name, "latest" or "best".

        Raises:
            CheckpointError: If it does not exist, is damaged, or is of a run with other parts.
        """
        self._saver.load(path)
        self._is_resumed = True

    def _end(self, error: BaseException) -> NoReturn:
        """Save what can be saved of a run that fails, and raise what ends it."""
        checkpointing = self._saver.checkpointing
        is_signal = self._signals.received is not None
        if checkpointing is None or self._signals.is_repeated or self._run.is_over:
            raise error
        if is_signal and isinstance(error, Exception):
            # Not where the run is whole, and a run that goes on must not differ.
            raise self._signals.ending() from error
        if not is_signal and not checkpointing.saves_after(error):
            raise error
        if self._is_updating:
            _LOGGER.warning(
                "the run ended inside of an update, which leaves weights that are half old and "
                "half new: they are not saved, and the last checkpoint stays the newest"
            )
        else:
            if self._window is None:
                # The batches of the update that was not made come again.
                self._run.batch = self._run.behind
            self._saver.save_failed()
        raise error

    def _roll_back(self, error: _NonFiniteUpdate) -> None:
        """Go on from the last good checkpoint, without the batches of the update."""
        self._rollbacks += 1
        text = f"{error}, in batches {error.batches} of epoch {self._run.epoch}"
        if self._rollbacks > self.config.max_rollbacks:
            raise NonFiniteError(
                f"{text}, after {self.config.max_rollbacks} rollbacks; look at the data and the "
                "learning rate, or allow more by max_rollbacks"
            )
        left_out = {(self._run.epoch, batch) for batch in error.batches}
        left_out |= self._feed.left_out
        manifest = self._saver.load_newest()
        if manifest is None:
            raise NonFiniteError(f"{text}, and there is no checkpoint to roll back to")
        self._feed.rewind()
        self._feed.left_out = left_out
        _LOGGER.warning(
            "%s: the run goes on from %r at step %d without them",
            text,
            manifest.name,
            self._run.step,
        )

    def _params(self) -> list[Tensor]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def _train_epoch(self) -> None:
        """Train on the batches that the epoch has not had, and end it if it has had all."""
        run = self._run
        if not run.is_ending:
            run.is_ending = self._train_batches()
            self._is_updating = False
        is_whole = run.is_ending
        run.call("on_epoch_end")
        self._validate_if_wanted(is_interruptible=False)
        if is_whole:
            run.end_epoch()
            if not run.is_over:
                self._saver.save_if_wanted()

    def _train_batches(self) -> bool:
        """Train on the batches that the epoch has not had; return whether they were all of them."""
        run, config, window = self._run, self.config, self._window
        if window is None:
            # Those of an update that failed come again.
            run.batch = run.behind
        if run.batch == 0:
            self._measurement.restart()
        else:
            # What a signal broke off.
            self._validate_if_wanted()
        batches = self._feed.batches(run.epoch, run.batch, self._pass_over, self._signals.check)
        start = self._clock()
        watch = _Watch(self, window)
        if self._feed.has_workers:
            batches = self._loaded(batches, watch)
        self._window = None
        if self._native is None:
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
                nonfinite="skip" if config.nonfinite == "rollback" else config.nonfinite,
                measurement=self._measurement,
                window=window,
            )
        else:
            if self.accumulate != 1:
                raise UnsupportedModelError(
                    f"accumulate is {self.accumulate}, and the kernels update after each batch; "
                    "train with engine='torch'"
                )
            measured = self._native.train_epoch(
                batches,
                run,
                self.schedules,
                self.callbacks,
                self._measurement,
                watch,
                lambda: min(
                    run.updates_left, self._validate_pace.updates_left(run.step, run.updates)
                ),
                self._seed,
            )
        is_whole = not watch.is_cut or run.batch == length_of(self.train_loader)
        values = {f"train_{name}": value for name, value in numbers_of(measured).items()}
        run.metrics = run.metrics | values
        if self._validate_pace.is_due_after_epoch(run.epoch):
            self._wants_validation = True
        try:
            self._validate_if_wanted()
        except BaseException:
            # The end of the epoch comes again, and asks for it anew.
            self._wants_validation = False
            raise
        self._is_updating = True
        is_validated = self._validated_at == run.step
        # Those of a validation are in the history already.
        values["seconds"] = self._clock() - start
        self.history.update(values, run.step)
        run.metrics = run.metrics | values
        if is_validated:
            values |= {name: value for name, value in run.metrics.items() if name[:4] == "val_"}
        if is_whole:
            self.schedules.after_epoch(values, is_validated=is_validated)
        return is_whole

    def _loaded(self, batches: Iterable[Any], watch: _Watch) -> Iterator[Any]:
        """Yield batches that worker processes load; where one fails, the run is whole."""
        iterator = iter(batches)
        self._signals.hold_workers()
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                self._window = watch.window
                if self._signals.received is None:
                    raise
                raise self._signals.ending() from error
            yield batch

    def _pass_over(self) -> None:
        """Count a batch that is left out."""
        self._run.batch += 1

    def _between_updates(self) -> None:
        """Validate, save and end, as it is asked for."""
        if self._run.is_over:
            # What is left is done first: there is no going on from here.
            self._validate_if_wanted(is_interruptible=False)
            return
        self._signals.check()
        self._validate_if_wanted()
        self._saver.save_if_wanted()

    def _validate_if_wanted(self, *, is_interruptible: bool = True) -> None:
        run = self._run
        if not self._wants_validation or not self._val_loaders or self._validated_at == run.step:
            self._wants_validation = False
            return
        self._wants_validation = False
        validated_at, random_state = self._validated_at, self._feed.random_state()
        self._validated_at = run.step
        try:
            run.call("on_validation_begin")
            values: dict[str, float] = {}
            for prefix, loader in self._val_loaders.items():
                can_go_on = is_interruptible and not run.is_over
                batches = self._signals.watch(loader) if can_go_on else loader
                values |= numbers_of(self._evaluate(prefix, batches))
        except BaseException:
            # It comes again, and draws the same numbers.
            self._validated_at, self._wants_validation = validated_at, True
            self._feed.set_random_state(random_state)
            raise
        run.metrics = run.metrics | values
        self.history.update(values, run.step)
        run.call("on_validation_end")

    def _evaluate(self, prefix: str, loader: Iterable[Any]) -> dict[str, Any]:
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
                # The end of the run is another one then.
                self._saver.forget()
        elif isinstance(action, Validate):
            self._wants_validation = True
        elif isinstance(action, Save):
            self._saver.is_wanted = True


class _NonFiniteUpdate(Exception):  # noqa: N818
    """An update was left out because something was not finite."""

    def __init__(self, batches: range) -> None:
        super().__init__("a loss or a gradient is not finite")
        self.batches = list(batches)


class _Watch(Observer):
    """Tells a trainer what happens in an epoch."""

    def __init__(self, trainer: Trainer, window: Window | None) -> None:
        #: Batches of an update that has not been made.
        self.window = window
        self._trainer = trainer
        self._run = trainer._run
        self._hooks = trainer.callbacks.hooks
        self._schedules = trainer.schedules
        self._has_pace = trainer._validate_pace.is_of_updates
        self._rolls_back = (
            trainer.config.nonfinite == "rollback" and trainer.precision.scaler is None
        )
        self._signals = trainer._signals
        #: Whether the run was over before the loader was.
        self.is_cut = False

    def before_batch(self) -> None:
        if self._hooks["on_batch_begin"]:
            self._run.call("on_batch_begin")

    def after_batch(self, result: StepResult, window: Window) -> None:
        self._run.batch += 1
        self.window = None if window.is_full else window
        if self._hooks["on_batch_end"]:
            self._run.call("on_batch_end")
        if self._signals.received is not None and not window.is_full:
            self._trainer._window = window
            self._signals.check()

    def before_update(self) -> None:
        self._trainer._is_updating = True

    def after_update(self, update: Update) -> bool:
        trainer = self._trainer
        if self._rolls_back and not update.is_applied:
            raise _NonFiniteUpdate(range(self._run.behind, self._run.batch))
        if update.is_applied and self._schedules.move_with_updates:
            self._schedules.after_update(update.updates)
        self._run.count(update)
        # Before the hooks: where one of them fails, the run goes on with the validation.
        if self._has_pace and update.is_applied:
            step, updates = self._run.step, self._run.updates
            trainer._wants_validation |= trainer._validate_pace.is_due(step, updates)
        trainer._is_updating = False
        self._run.report(update)
        if (
            trainer._wants_validation
            or trainer._saver.is_wanted
            or self._signals.received is not None
        ):
            trainer._between_updates()
        self.is_cut = self._run.is_over
        return self.is_cut

    def after_interrupt(self, update: Update | None) -> None:
        if update is not None:
            self._schedules.after_update(update.updates)
            self._run.count(update)
        self._trainer._is_updating = False


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


def _callbacks_of(
    config: TrainingConfig,
    trackers: Iterable[Tracker],
    run_id: str | None,
    checkpoints: str | Path | CheckpointManager | None,
) -> list[Callback]:
    callbacks: list[Callback] = []
    if config.early_stopping is not None:
        callbacks.append(
            EarlyStopping(config.monitor, patience=config.early_stopping, mode=config.monitor_mode)
        )
    if checkpoints is not None and not config.fast_dev_run:
        every = config.save_every or "1 epoch"
        if not isinstance(checkpoints, CheckpointManager):
            checkpoints = CheckpointManager(
                checkpoints, metric=config.monitor, mode=config.monitor_mode
            )
        callbacks.append(Checkpointing(checkpoints, every))
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


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _generators_of(loaders: Iterable[Any]) -> list[torch.Generator]:
    found: list[torch.Generator] = []
    for loader in loaders:
        inner = loader.loader if isinstance(loader, First) else loader
        found += [each for each in generators_of(inner) if all(each is not x for x in found)]
    return found
