"""hotloop's metrics as those of torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotloop.metrics.metric import Metric

if TYPE_CHECKING:
    from hotloop.metrics.torch_metric import TorchMetric

__all__ = ["as_torchmetrics"]


def as_torchmetrics(metric: Metric) -> TorchMetric:
    """Return a `torchmetrics.Metric` that counts with a copy of a metric.

    It has all that torchmetrics' own ones have: `forward` with the value of a batch, which is
    counted once, synchronisation over processes, where states are gathered and merged, and a
    place in a `torchmetrics.MetricCollection`. Values are tensors of its dtype, float32 unless
    `set_dtype` says otherwise; in dicts and tuples, too.

    Args:
        metric: The metric, with what it has counted.

    Raises:
        ImportError: If torchmetrics is not installed; the extra "metrics" has it.
        TypeError: If it is no metric of hotloop.
    """
    if not isinstance(metric, Metric):
        raise TypeError(f"metric must be a hotloop.metrics.Metric, got {type(metric).__name__}")
    try:
        from hotloop.metrics.torch_metric import TorchMetric
    except ImportError as error:
        raise ImportError(
            f"as_torchmetrics needs torchmetrics, which cannot be imported ({error}): "
            "pip install 'hotloop[metrics]'"
        ) from error
    return TorchMetric(metric)
