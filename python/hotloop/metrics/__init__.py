"""What a training loop measures: state machines with `update`, `compute` and `reset`."""

from hotloop.metrics.accuracy import Accuracy
from hotloop.metrics.mean import Mean
from hotloop.metrics.metric import Metric

__all__ = ["Accuracy", "Mean", "Metric"]
