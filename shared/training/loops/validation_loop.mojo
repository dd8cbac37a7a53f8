"""Passes over data without training."""

from std.utils.numerics import nan

from ..models import Dataset, Layer, Network, Objective, Outcome
from .batches import Batches
from .metric import Metric, NoMetric


@fieldwise_init
struct EpochValues(ImplicitlyCopyable, Movable):
    """What was measured over a pass."""

    var loss: Float64
    """The mean loss."""
    var accuracy: Float64
    """The fraction of samples that was classified right; NaN without classes."""

    @staticmethod
    def of(total: Outcome, samples: Int, has_classes: Bool) -> Self:
        """Divides sums by the number of samples.

        Args:
            total: The sums over the samples.
            samples: How many there were.
            has_classes: Whether they have classes.

        Returns:
            The means; NaN without samples.
        """
        var accuracy = nan[DType.float64]()
        if has_classes:
            accuracy = Float64(total.correct) / Float64(samples)
        return Self(total.loss / Float64(samples), accuracy)


def evaluate[
    Model: Layer, Loss: Objective, Measure: Metric
](
    mut network: Network[Model],
    loss: Loss,
    data: Dataset[Model.dtype],
    mut metric: Measure,
) raises -> EpochValues:
    """Measures the loss of data, and a metric.

    Parameters:
        Model: The type of the model.
        Loss: The type of the loss.
        Measure: The type of the metric.

    Args:
        network: The network.
        loss: The loss.
        data: The data.
        metric: The metric, which counts every sample.

    Returns:
        The mean loss, and the accuracy.

    Raises:
        Error: If the data do not fit.
    """
    var batches = Batches(data.samples, network.batch_size, is_shuffled=False)
    var total = Outcome(0, 0)
    for index in range(batches.count()):
        var order = batches.batch(index)
        var outcome = network.evaluate(data, order, loss)
        total.loss += outcome.loss
        total.correct += outcome.correct
        if metric.reads():
            metric.update(_copy_outputs(network, len(order)), data, order)
    return EpochValues.of(total, data.samples, len(data.labels) > 0)


def evaluate[
    Model: Layer, Loss: Objective
](
    mut network: Network[Model], loss: Loss, data: Dataset[Model.dtype]
) raises -> EpochValues:
    """Measures the loss of data.

    Parameters:
        Model: The type of the model.
        Loss: The type of the loss.

    Args:
        network: The network.
        loss: The loss.
        data: The data.

    Returns:
        The mean loss, and the accuracy.

    Raises:
        Error: If the data do not fit.
    """
    var nothing = NoMetric()
    return evaluate(network, loss, data, nothing)


def predict[
    Model: Layer
](mut network: Network[Model], data: Dataset[Model.dtype]) raises -> List[
    Scalar[Model.dtype]
]:
    """Computes the outputs for data.

    Parameters:
        Model: The type of the model.

    Args:
        network: The network.
        data: The data.

    Returns:
        The outputs, one sample after the other.

    Raises:
        Error: If the data do not fit.
    """
    var batches = Batches(data.samples, network.batch_size, is_shuffled=False)
    var result = List[Scalar[Model.dtype]]()
    for index in range(batches.count()):
        var order = batches.batch(index)
        _ = network.forward(data, order)
        result.extend(_copy_outputs(network, len(order)))
    return result^


def _copy_outputs[
    Model: Layer
](mut network: Network[Model], samples: Int) -> List[Scalar[Model.dtype]]:
    """Copies the outputs of the last samples, one sample after the other."""
    var outputs = network.outputs()
    var result = List[Scalar[Model.dtype]](
        capacity=samples * network.model.outputs()
    )
    for s in range(samples):
        for f in range(network.model.outputs()):
            result.append(
                outputs.elements[unsafe_offset=f * outputs.row_stride + s]
            )
    return result^
