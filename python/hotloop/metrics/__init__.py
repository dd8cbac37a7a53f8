"""What a training loop measures: state machines with `update`, `compute` and `reset`."""

from hotloop.metrics.accuracy import Accuracy
from hotloop.metrics.mean import Mean
from hotloop.metrics.metric import Metric
from hotloop.metrics.metric_tracker import MetricTracker

__all__ = ["Accuracy", "Mean", "Metric", "MetricTracker"]
