"""The loop that trains a network in a Mojo program."""

from std.random import random_ui64, seed as set_seed
from std.utils.numerics import isfinite, nan

from ..callbacks import Action, Callback, Progress
from ..core import UpdateRule
from ..models import Dataset, Layer, Network, Objective, Outcome
from ..optimizers import Optimizer, Parameter
from ..schedulers import LRScheduler


struct Batches(Movable):
    """The samples of each epoch in a new order, which a seed decides."""

    var order: List[Int64]
    """The samples of the epoch, in order."""
    var batch_size: Int
    """Samples in a batch; the last one may be smaller."""
    var is_shuffled: Bool
    """Whether each epoch has an order of its own."""

    def __init__(
        out self,
        samples: Int,
        batch_size: Int,
        *,
        is_shuffled: Bool = True,
        seed: Int = 0,
    ):
        """Starts with the samples in their own order.

        Args:
            samples: How many samples there are.
            batch_size: Samples in a batch.
            is_shuffled: Whether each epoch has an order of its own.
            seed: Where the random numbers begin.
        """
        self.order = [Int64(i) for i in range(samples)]
        self.batch_size = batch_size
        self.is_shuffled = is_shuffled
        set_seed(seed)

    def begin_epoch(mut self):
        """Shuffles the samples (Fisher and Yates, 1938; Durstenfeld, 1964)."""
        if not self.is_shuffled:
            return
        for i in range(len(self.order) - 1, 0, -1):
            var j = Int(random_ui64(0, UInt64(i)))
            var kept = self.order[i]
            self.order[i] = self.order[j]
            self.order[j] = kept

    def count(self) -> Int:
        """Counts the batches.

        Returns:
            The number of batches of an epoch.
        """
        return (len(self.order) + self.batch_size - 1) // self.batch_size

    def batch(self, index: Int) -> Span[Int64, origin_of(self.order)]:
        """Views a batch.

        Args:
            index: Which one.

        Returns:
            Its samples.
        """
        var first = index * self.batch_size
        var last = min(first + self.batch_size, len(self.order))
        return Span(self.order)[first:last]


@fieldwise_init
struct EpochValues(ImplicitlyCopyable, Movable):
    """What was measured over a pass."""

    var loss: Float64
    """The mean loss."""
    var accuracy: Float64
    """The fraction of samples that was classified right."""


struct Trainer[
    Model: Layer, Loss: Objective, Rule: UpdateRule, Rate: LRScheduler
](Movable):
    """Trains a network: batches, gradients, updates, validations, callbacks.

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
    var step: Int
    """How many updates were applied."""
    var history: List[EpochValues]
    """What was measured over the training data of each epoch."""
    var val_history: List[EpochValues]
    """What was measured over the validation data after each epoch."""
    var _kept: List[List[Scalar[Self.dtype]]]

    def __init__(
        out self,
        var network: Network[Self.Model],
        loss: Self.Loss,
        rule: Self.Rule,
        var scheduler: Self.Rate,
    ):
        """Takes what a run consists of.

        Args:
            network: The network.
            loss: The loss.
            rule: The optimizer's rule.
            scheduler: The learning rate's scheduler.
        """
        self.network = network^
        self.loss = loss
        self.optimizer = Optimizer[Self.Rule, Self.dtype](rule)
        self.scheduler = scheduler^
        self.step = 0
        self.history = []
        self.val_history = []
        self._kept = []

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
        """Trains for some epochs, with a validation after each.

        Parameters:
            Watcher: The type of the callbacks.

        Args:
            data: What to train on.
            validation: What to validate on.
            callbacks: What watches the run.
            epochs: How many epochs, at least 1.
            seed: Where the random orders begin.

        Raises:
            Error: If the data do not fit, a loss is not finite, or a callback
                raises.
        """
        if epochs < 1:
            raise Error("epochs must be at least 1, got ", epochs)
        var batches = Batches(data.samples, self.network.batch_size, seed=seed)
        self.scheduler.start(self.optimizer)
        var progress = Progress(
            epoch=0,
            epochs=epochs,
            step=self.step,
            batch=0,
            loss=nan[DType.float64](),
            accuracy=nan[DType.float64](),
            val_loss=nan[DType.float64](),
            val_accuracy=nan[DType.float64](),
            learning_rate=self.optimizer.learning_rate(),
        )
        var stops = self._apply(callbacks.on_train_begin(progress))
        for epoch in range(epochs):
            if stops:
                break
            progress.epoch = epoch
            stops = self._apply(callbacks.on_epoch_begin(progress))
            var total = Outcome(0, 0)
            batches.begin_epoch()
            for index in range(batches.count()):
                if stops:
                    break
                var order = batches.batch(index)
                var outcome = self._train_batch(data, order)
                total.loss += outcome.loss
                total.correct += outcome.correct
                progress.step = self.step
                progress.batch = index
                progress.learning_rate = self.optimizer.learning_rate()
                progress.loss = outcome.loss / Float64(len(order))
                stops = self._apply(callbacks.on_batch_end(progress))
            self.scheduler.after_epoch(self.optimizer)
            var values = _values(total, data)
            self.history.append(values)
            progress.loss = values.loss
            progress.accuracy = values.accuracy
            var found = self.evaluate(validation)
            self.val_history.append(found)
            progress.val_loss = found.loss
            progress.val_accuracy = found.accuracy
            if self._apply(callbacks.on_validation_end(progress)):
                stops = True
            if self._apply(callbacks.on_epoch_end(progress)):
                stops = True
        _ = self._apply(callbacks.on_train_end(progress))

    def evaluate(mut self, data: Dataset[Self.dtype]) raises -> EpochValues:
        """Measures the loss of data, without training.

        Args:
            data: The data.

        Returns:
            The mean loss, and the accuracy.

        Raises:
            Error: If the data do not fit.
        """
        var batches = Batches(
            data.samples, self.network.batch_size, is_shuffled=False
        )
        var total = Outcome(0, 0)
        for index in range(batches.count()):
            var outcome = self.network.evaluate(
                data, batches.batch(index), self.loss
            )
            total.loss += outcome.loss
            total.correct += outcome.correct
        return _values(total, data)

    def _train_batch(
        mut self, data: Dataset[Self.dtype], order: Span[Int64, _]
    ) raises -> Outcome:
        var outcome = self.network.gradient(data, order, self.loss, self.step)
        if not isfinite(outcome.loss):
            raise Error(
                "the loss is ",
                outcome.loss,
                " after ",
                self.step,
                " updates; the parameters are those before it",
            )
        self.optimizer.step(self.network.parameters)
        self.scheduler.after_update(self.optimizer)
        self.step += 1
        return outcome

    def _apply(mut self, action: Action) -> Bool:
        ref parameters = self.network.parameters
        if action.keeps:
            self._kept = []
            for i in range(len(parameters)):
                self._kept.append(parameters[i].value.copy())
        if action.restores:
            for i in range(len(self._kept)):
                for j in range(len(self._kept[i])):
                    parameters[i].value[j] = self._kept[i][j]
        return action.stops


def _values[dtype: DType](total: Outcome, data: Dataset[dtype]) -> EpochValues:
    var samples = Float64(data.samples)
    var accuracy = nan[DType.float64]()
    if len(data.labels) > 0:
        accuracy = Float64(total.correct) / samples
    return EpochValues(total.loss / samples, accuracy)
