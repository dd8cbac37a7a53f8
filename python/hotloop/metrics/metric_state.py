"""What metrics have counted, of hotloop and of torchmetrics, taken out and put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["load_state", "state_of"]


def state_of(name: str, metric: Any) -> dict[str, Any]:
    """Return what a metric has counted, not copied where it is one of torchmetrics.

    Args:
        name: What the metric is called, for the error.
        metric: The metric.

    Raises:
        TypeError: If it has no state to give.
    """
    if hasattr(metric, "metric_state"):
        # torchmetrics leaves out of its state_dict what a metric has counted.
        return {path: dict(part.metric_state) for path, part in _parts_of(metric)}
    if hasattr(metric, "state_dict") and hasattr(metric, "load_state_dict"):
        return dict(metric.state_dict())
    raise TypeError(
        f"metric {name!r} cannot be saved: {type(metric).__name__} needs the methods state_dict() "
        "and load_state_dict(state) of hotloop.metrics.Metric"
    )


def load_state(metric: Any, state: Mapping[str, Any]) -> None:
    """Give a metric what `state_of` has returned for one like it."""
    if not hasattr(metric, "metric_state"):
        metric.load_state_dict(state)
        return
    for path, part in _parts_of(metric):
        for key in part.metric_state:
            # A copy, as it counts in place.
            setattr(part, key, _moved(copy.deepcopy(state[path][key]), part.device))


def _parts_of(metric: nn.Module) -> list[tuple[str, Any]]:
    """Return a torchmetrics metric and those that it is made of, by path."""
    return [
        (path, part)
        for path, part in metric.named_modules()
        # A collection has the states of its metrics, which are parts of their own.
        if hasattr(part, "metric_state") and not isinstance(part, nn.ModuleDict)
    ]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(each, device) for each in value]
    return value.to(device) if isinstance(value, Tensor) else value
