"""The loop that trains a network in a Mojo program."""

from std.utils.numerics import inf, nan

from ..callbacks import Action, Callback, Callbacks, Progress
from ..checkpoint import TensorFile
from ..core import UpdateRule
from ..models import Dataset, Layer, Network, Objective, Outcome
from ..optimizers import Optimizer
from ..schedulers import LRScheduler
from .batches import Batches
from .metric import Metric, NoMetric
from .saver import (
    COLUMNS,
    KEPT,
    MODEL,
    copy_tensors,
    get_count,
    get_history,
    get_optimizer,
    get_tensors,
    place_tensors,
    put_history,
    put_optimizer,
    put_tensors,
)
from .training_step import TrainingStep
from .validation_loop import EpochValues, evaluate, predict

comptime VERSION = "1"
"""The version of the files of runs."""


struct Trainer[
    Model: Layer, Loss: Objective, Rule: UpdateRule, Rate: LRScheduler
](Movable):
    """Trains a network: batches, gradients, updates, validations, callbacks, files.

    Parameters:
        Model: The type of the model.
        Loss: The type of the loss.
        Rule: The optimizer's rule.
        Rate: The type of the learning rate's scheduler.
    """

    comptime dtype = Self.Model.dtype
    """The dtype of samples and parameters."""

    var network: Network[Self.Model]
    """The network."""
    var loss: Self.Loss
    """The loss."""
    var optimizer: Optimizer[Self.Rule, Self.dtype]
    """The optimizer."""
    var scheduler: Self.Rate
    """The learning rate's scheduler."""
    var training_step: TrainingStep[Self.dtype]
    """What makes updates of batches."""
    var step: Int
    """How many updates were applied."""
    var epoch: Int
    """How many epochs were completed."""
    var history: List[EpochValues]
    """What was measured over the training data of each epoch."""
    var val_history: List[EpochValues]
    """What was measured over the validation data after each epoch; NaN without any."""
    var val_metrics: List[Float64]
    """The metric of the validation data after each epoch; NaN without one."""
    var _kept: List[List[Scalar[Self.dtype]]]
    var _saves: List[String]

    def __init__(
        out self,
        var network: Network[Self.Model],
        loss: Self.Loss,
        rule: Self.Rule,
        var scheduler: Self.Rate,
        *,
        accumulation: Int = 1,
        max_norm: Float64 = inf[DType.float64](),
    ) raises:
        """Takes what a run consists of.

        Args:
            network: The network.
            loss: The loss.
            rule: The optimizer's rule.
            scheduler: The learning rate's scheduler.
            accumulation: How many batches make an update, as if they were one
                batch, at least 1; the last update of an epoch may have fewer.
            max_norm: The largest norm of a gradient, above 0; larger ones are
                scaled down to it. Infinite for any.

        Raises:
            Error: If a number is out of its range.
        """
        self.network = network^
        self.loss = loss
        self.optimizer = Optimizer[Self.Rule, Self.dtype](rule)
        self.scheduler = scheduler^
        self.training_step = TrainingStep[Self.dtype](
            accumulation=accumulation, max_norm=max_norm
        )
        self.step = 0
        self.epoch = 0
        self.history = []
        self.val_history = []
        self.val_metrics = []
        self._kept = []
        self._saves = []

    def train[
        Watcher: Callback
    ](
        mut self,
        data: Dataset[Self.dtype],
        validation: Dataset[Self.dtype],
        mut callbacks: Watcher,
        *,
        epochs: Int,
        seed: Int = 0,
    ) raises:
        """Trains until there were so many epochs, with a validation after each.

        Those of earlier calls and of a file that was loaded count. An epoch that
        a callback breaks off counts, too.

        Parameters:
            Watcher: The type of the callbacks.

        Args:
            data: What to train on.
            validation: What to validate on.
            callbacks: What watches the run.
            epochs: How many epochs, at least 1.
            seed: What the orders of samples depend on, besides the epoch.

        Raises:
            Error: If the data do not fit, a loss or a gradient is not finite, a
                file cannot be written, or a callback raises.
        """
        var nothing = NoMetric()
        self._train(data, validation, True, callbacks, nothing, epochs, seed)

    def train[
        Watcher: Callback, Measure: Metric
    ](
        mut self,
        data: Dataset[Self.dtype],
        validation: Dataset[Self.dtype],
        mut callbacks: Watcher,
        mut metric: Measure,
        *,
        epochs: Int,
        seed: Int = 0,
    ) raises:
        """Trains until there were so many epochs, with a validation and a metric after each.

        Parameters:
            Watcher: The type of the callbacks.
            Measure: The type of the metric.

        Args:
            data: What to train on.
            validation: What to validate on.
            callbacks: What watches the run.
            metric: What else to measure on the validation data; it forgets what
                it has counted before each validation.
            epochs: How many epochs, at least 1.
            seed: What the orders of samples depend on, besides the epoch.

        Raises:
            Error: If the data do not fit, a loss or a gradient is not finite, the
                metric has no value, a file cannot be written, or a callback raises.
        """
        self._train(data, validation, True, callbacks, metric, epochs, seed)

    def train[
        Watcher: Callback
    ](
        mut self,
        data: Dataset[Self.dtype],
        mut callbacks: Watcher,
        *,
        epochs: Int,
        seed: Int = 0,
    ) raises:
        """Trains until there were so many epochs, without validations.

        Parameters:
            Watcher: The type of the callbacks.

        Args:
            data: What to train on.
            callbacks: What watches the run.
            epochs: How many epochs, at least 1.
            seed: What the orders of samples depend on, besides the epoch.

        Raises:
            Error: If the data do not fit, a loss or a gradient is not finite, a
                file cannot be written, or a callback raises.
        """
        var nothing = NoMetric()
        self._train(data, data, False, callbacks, nothing, epochs, seed)

    def evaluate(mut self, data: Dataset[Self.dtype]) raises -> EpochValues:
        """Measures the loss of data, without training.

        Args:
            data: The data.

        Returns:
            The mean loss, and the accuracy.

        Raises:
            Error: If the data do not fit.
        """
        return evaluate(self.network, self.loss, data)

    def evaluate[
        Measure: Metric
    ](
        mut self, data: Dataset[Self.dtype], mut metric: Measure
    ) raises -> EpochValues:
        """Measures the loss of data and a metric, without training.

        Parameters:
            Measure: The type of the metric.

        Args:
            data: The data.
            metric: The metric, which counts every sample.

        Returns:
            The mean loss, and the accuracy.

        Raises:
            Error: If the data do not fit.
        """
        return evaluate(self.network, self.loss, data, metric)

    def predict(
        mut self, data: Dataset[Self.dtype]
    ) raises -> List[Scalar[Self.dtype]]:
        """Computes the outputs for data.

        Args:
            data: The data.

        Returns:
            The outputs, one sample after the other.

        Raises:
            Error: If the data do not fit.
        """
        return predict(self.network, data)

    def save(self, path: String) raises:
        """Writes all that a run goes on from, but for callbacks.

        Args:
            path: The file, of the safetensors format: the parameters are
                `model.0.weight` and so on, as torch names and shapes them. It is
                complete, or not there.

        Raises:
            Error: If it cannot be written.
        """
        self.save(path, Callbacks(()))

    def save[Watcher: Callback](self, path: String, callbacks: Watcher) raises:
        """Writes all that a run goes on from.

        Parameters:
            Watcher: The type of the callbacks.

        Args:
            path: The file, as above.
            callbacks: What watches the run.

        Raises:
            Error: If it cannot be written.
        """
        var file = TensorFile()
        put_tensors(file, self.network, copy_tensors(self.network), MODEL)
        put_tensors(file, self.network, self._kept, KEPT)
        put_optimizer(file, self.network, self.optimizer)
        put_history(file, self.history, self.val_history, self.val_metrics)
        file.header.metadata["version"] = VERSION
        file.header.metadata["step"] = String(self.step)
        file.header.metadata["epoch"] = String(self.epoch)
        file.header.metadata["seed"] = String(self.network.seed)
        file.header.metadata["scheduler"] = self.scheduler.state_dict()
        file.header.metadata["callbacks"] = callbacks.state_dict()
        file.save(path)

    def load(mut self, path: String) raises:
        """Goes on where a file was saved, but for callbacks.

        Args:
            path: The file.

        Raises:
            Error: If it cannot be read, or is of another run; the parameters are
                left as they were then.
        """
        var nobody = Callbacks(())
        self._load(path, nobody)

    def load[
        Watcher: Callback
    ](mut self, path: String, mut callbacks: Watcher) raises:
        """Goes on where a file was saved.

        Parameters:
            Watcher: The type of the callbacks.

        Args:
            path: The file.
            callbacks: What watches the run, as when the file was saved.

        Raises:
            Error: If it cannot be read, or is of another run; the parameters are
                left as they were then.
        """
        self._load(path, callbacks)

    def _load[
        Watcher: Callback
    ](mut self, path: String, mut callbacks: Watcher) raises:
        var file = TensorFile.load(path)
        try:
            self._read(file, callbacks)
        except error:
            raise Error("cannot go on from ", path, ": ", error)

    def _read[
        Watcher: Callback
    ](mut self, file: TensorFile, mut callbacks: Watcher) raises:
        if file.string("version") != VERSION:
            raise Error(
                "its version is ", file.string("version"), ", not ", VERSION
            )
        var values = get_tensors(file, self.network, MODEL)
        var kept = List[List[Scalar[Self.dtype]]]()
        if len(values) > 0 and file.has(
            KEPT + self.network.model.label(0).name
        ):
            kept = get_tensors(file, self.network, KEPT)
        var step = get_count(file, "step")
        var epoch = get_count(file, "epoch")
        # Dropout's masks depend on it.
        var seed = Int(file.string("seed"))
        var numbers = get_history(file, epoch)
        var scheduler = file.string("scheduler")
        callbacks.load_state_dict(file.string("callbacks"))
        get_optimizer(file, self.network, self.optimizer)
        self.scheduler.load_state_dict(scheduler)
        place_tensors(self.network, values)
        self._kept = kept^
        self.network.seed = seed
        self.step = step
        self.epoch = epoch
        self.history = []
        self.val_history = []
        self.val_metrics = []
        for i in range(0, len(numbers), COLUMNS):
            self.history.append(EpochValues(numbers[i], numbers[i + 1]))
            self.val_history.append(EpochValues(numbers[i + 2], numbers[i + 3]))
            self.val_metrics.append(numbers[i + 4])

    def _train[
        Watcher: Callback, Measure: Metric
    ](
        mut self,
        data: Dataset[Self.dtype],
        validation: Dataset[Self.dtype],
        validates: Bool,
        mut callbacks: Watcher,
        mut metric: Measure,
        epochs: Int,
        seed: Int,
    ) raises:
        if epochs < 1:
            raise Error("epochs must be at least 1, got ", epochs)
        var batches = Batches(data.samples, self.network.batch_size, seed=seed)
        self.scheduler.start(self.optimizer)
        var progress = Progress(
            epoch=self.epoch,
            epochs=epochs,
            step=self.step,
            batch=0,
            loss=nan[DType.float64](),
            accuracy=nan[DType.float64](),
            val_loss=nan[DType.float64](),
            val_accuracy=nan[DType.float64](),
            val_metric=nan[DType.float64](),
            learning_rate=self.optimizer.learning_rate(),
        )
        self._saves = []
        var stops = self._apply(callbacks.on_train_begin(progress))
        while self.epoch < epochs and not stops:
            progress.epoch = self.epoch
            stops = self._apply(callbacks.on_epoch_begin(progress))
            batches.begin_epoch(self.epoch)
            var values = self._train_epoch(
                data, batches, callbacks, progress, stops
            )
            self.scheduler.after_epoch(self.optimizer)
            progress.loss = values.loss
            progress.accuracy = values.accuracy
            progress.learning_rate = self.optimizer.learning_rate()
            var found = EpochValues(nan[DType.float64](), nan[DType.float64]())
            if validates:
                stops |= self._apply(callbacks.on_validation_begin(progress))
                metric.reset()
                found = self.evaluate(validation, metric)
                progress.val_loss = found.loss
                progress.val_accuracy = found.accuracy
                progress.val_metric = metric.compute()
                stops |= self._apply(callbacks.on_validation_end(progress))
            self.history.append(values)
            self.val_history.append(found)
            self.val_metrics.append(progress.val_metric)
            self.epoch += 1
            stops |= self._apply(callbacks.on_epoch_end(progress))
            self._save_all(callbacks)
        _ = self._apply(callbacks.on_train_end(progress))
        self._save_all(callbacks)

    def _train_epoch[
        Watcher: Callback
    ](
        mut self,
        data: Dataset[Self.dtype],
        batches: Batches,
        mut callbacks: Watcher,
        mut progress: Progress,
        mut stops: Bool,
    ) raises -> EpochValues:
        var total = Outcome(0, 0)
        var trained = 0
        var window = self.training_step.accumulation
        for index in range(batches.count()):
            # An update is completed, and then the run ends.
            if stops and index % window == 0:
                break
            progress.batch = index
            stops |= self._apply(callbacks.on_batch_begin(progress))
            var order = batches.batch(index)
            var outcome = self._train_batch(data, batches, index)
            total.loss += outcome.loss
            total.correct += outcome.correct
            trained += len(order)
            progress.step = self.step
            progress.learning_rate = self.optimizer.learning_rate()
            progress.loss = outcome.loss / Float64(len(order))
            stops |= self._apply(callbacks.on_batch_end(progress))
        return EpochValues.of(total, trained, len(data.labels) > 0)

    def _train_batch(
        mut self, data: Dataset[Self.dtype], batches: Batches, index: Int
    ) raises -> Outcome:
        var window = self.training_step.accumulation
        var first = index // window * window
        var last = min(first + window, batches.count()) - 1
        var samples = 0
        for i in range(first, last + 1):
            samples += len(batches.batch(i))
        var order = batches.batch(index)
        try:
            var outcome = self.training_step.add(
                self.network,
                data,
                order,
                self.loss,
                batch=self.epoch * batches.count() + index,
                is_first=index == first,
                weight=Float64(len(order)) / Float64(samples),
            )
            if index == last:
                self.training_step.apply(
                    self.network.parameters, self.optimizer
                )
                self.scheduler.after_update(self.optimizer)
                self.step += 1
            return outcome
        except error:
            raise Error(
                error,
                " after ",
                self.step,
                " updates; the parameters are those before it",
            )

    def _apply(mut self, action: Action) raises -> Bool:
        if action.keeps:
            self._kept = copy_tensors(self.network)
        if action.restores:
            place_tensors(self.network, self._kept)
        for path in action.saves:
            if path not in self._saves:
                self._saves.append(path)
        return action.stops

    def _save_all[Watcher: Callback](mut self, callbacks: Watcher) raises:
        for path in self._saves:
            self.save(path, callbacks)
        self._saves = []
