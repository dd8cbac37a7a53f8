"""What a pass over data measures: the loss, and the user's metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hotloop.loops.training_step import StepResult
from hotloop.metrics import MetricCollection, MetricLike
from hotloop.metrics.metric_state import load_state, state_of
from hotloop.rows import Rows

__all__ = ["Measurement", "Metrics", "NumberMean", "RunningLoss", "numbers_of"]

#: Metrics by name, or a collection of them, of hotloop or torchmetrics.
Metrics: TypeAlias = "Mapping[str, MetricLike] | nn.ModuleDict | None"

#: Losses that are kept apart before they are added up, which takes one call for all.
_KEPT = 256


class NumberMean:
    """The mean of plain numbers, NaN of none."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.count = 0

    def add(self, values: Iterable[float]) -> None:
        """Count numbers, one after the other."""
        for value in values:
            self.sum += value
            self.count += 1

    @property
    def value(self) -> float:
        """The mean."""
        return self.sum / self.count if self.count else math.nan


class RunningLoss:
    """The mean of losses, each weighed by its count, in float64: of an epoch and of a window.

    Losses stay on their device until somebody asks.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._counts: list[Tensor | float] = []
        self._sums: Tensor | None = None
        # The sum of the losses, and of their counts.
        self._epoch = [0.0, 0.0]
        self._window = [0.0, 0.0]

    def add(self, losses: Iterable[Tensor], counts: Iterable[Tensor | float]) -> None:
        """Count losses.

        Args:
            losses: Scalars without graph.
            counts: How many items each is the mean of; a mean of none may be NaN.
        """
        self._losses += losses
        self._counts += counts
        if len(self._losses) >= _KEPT:
            self._add_up()

    def window(self) -> float | None:
        """Return the mean since the last call, None of nothing."""
        self._read()
        total, count = self._window
        self._window = [0.0, 0.0]
        return total / count if count else None

    def mean(self) -> float:
        """Return the mean of the epoch, NaN of nothing."""
        self._read()
        total, count = self._epoch
        return total / count if count else math.nan

    def restart(self) -> None:
        """Begin the next epoch; a window may go on."""
        self._read()
        self._epoch = [0.0, 0.0]

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, and what has not been added up: sums depend on the order."""
        return {
            "losses": _packed(self._losses),
            "counts": _packed(self._counts),
            "sums": self._sums,
            "epoch": list(self._epoch),
            "window": list(self._window),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._losses, self._counts = list(state["losses"]), list(state["counts"])
        self._sums = state["sums"]
        self._epoch, self._window = list(state["epoch"]), list(state["window"])

    def _read(self) -> None:
        """Read the sums from the device, all at once, if there are any."""
        self._add_up()
        if self._sums is None:
            return
        total, count = self._sums.tolist()
        self._sums = None
        for sums in (self._epoch, self._window):
            sums[0] += total
            sums[1] += count

    def _add_up(self) -> None:
        if not self._losses:
            return
        device = self._losses[0].device
        # Metal has no float64.
        wide = torch.float32 if device.type == "mps" else torch.float64
        losses = torch.stack(self._losses).to(wide)
        if any(isinstance(count, Tensor) for count in self._counts):
            parts = [torch.as_tensor(count, device=device) for count in self._counts]
            counts = torch.stack([part.to(wide) for part in parts])
        else:
            counts = torch.tensor(self._counts, dtype=wide, device=device)
        # The mean of nothing is NaN, and 0 times that is no better.
        totals = torch.where(counts == 0, 0.0, losses * counts)
        sums = torch.stack((totals.sum(), counts.sum()))
        self._sums = sums if self._sums is None else self._sums + sums
        self._losses.clear()
        self._counts.clear()


def _packed(values: Sequence[Tensor | float]) -> Tensor | list[Tensor | float]:
    """Return one tensor in place of many, which a list of it makes many again."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors or len(tensors) < len(values) or len({each.dtype for each in tensors}) > 1:
        return list(values)
    return torch.stack(tensors)


class Measurement:
    """The mean loss and further metrics of an epoch or another pass.

    Metrics that can share what they count do so, as in a `MetricCollection`.

    Args:
        metrics: Further metrics: a mapping of names to metrics of hotloop, torchmetrics or one's
            own, or a collection of either library. They are reset.
        device: Where the predictions are; torchmetrics' metrics are moved there. None to leave
            them where they are.

    Attributes:
        loss: The loss of the updates that were applied.
        grad_norm: The norm of their gradients, where it was measured.
        samples: How many samples were seen.
        skipped: How many updates were left out.

    Raises:
        TypeError: If `metrics` is neither a mapping nor a collection.
    """

    def __init__(self, metrics: Metrics = None, device: torch.device | None = None) -> None:
        self.loss = RunningLoss()
        self._metrics = _collected(metrics)
        if device is not None:
            _move(self._metrics, device)
        self.grad_norm = NumberMean()
        self.samples = 0
        self.skipped = 0

    @property
    def has_metrics(self) -> bool:
        """Whether predictions are looked at."""
        return self._metrics is not None

    def restart(self) -> None:
        """Begin the next epoch."""
        self.loss.restart()
        self.grad_norm = NumberMean()
        self.samples = 0
        self.skipped = 0
        if self._metrics is not None:
            self._metrics.reset()

    def update(self, result: StepResult) -> None:
        """Count the samples of a batch, and show it to the metrics.

        Raises:
            ValueError: If there are metrics, and the step kept its predictions.
        """
        self.samples += result.samples
        if self._metrics is None:
            return
        if result.preds is None:
            raise ValueError(
                "metrics need predictions and targets; return "
                "StepOutput(loss, preds, target) from the step function"
            )
        if isinstance(result.preds, Rows):
            self._metrics.update_rows(result.preds)
        else:
            self._metrics.update(result.preds, result.target)

    def compute(self) -> dict[str, Any]:
        """Return "loss" and each metric's value.

        Scalars are floats. The values of a metric that returns a mapping are named NAME_KEY.

        Raises:
            ValueError: If no sample was counted.
        """
        if self.samples == 0:
            raise ValueError("the loader yields no samples; check its dataset and batch size")
        values = {} if self._metrics is None else self._metrics.compute()
        return {"loss": self.loss.mean()} | {name: _plain(each) for name, each in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted, not copied.

        Raises:
            TypeError: If a metric has no state to give.
        """
        return {
            "loss": self.loss.state_dict(),
            "grad_norm": [self.grad_norm.sum, self.grad_norm.count],
            "samples": self.samples,
            "skipped": self.skipped,
            "metrics": {} if self._metrics is None else state_of("metrics", self._metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: If it has other metrics. Nothing is changed then.
        """
        known = {} if self._metrics is None else state_of("metrics", self._metrics)
        if set(state["metrics"]) != set(known):
            raise ValueError(
                f"the state has the metrics {sorted(state['metrics'])}, and there are "
                f"{sorted(known)}; pass the same metrics as in the saved run"
            )
        # Before anything is loaded: it resets the metrics.
        self.restart()
        self.loss.load_state_dict(state["loss"])
        self.grad_norm.sum, self.grad_norm.count = state["grad_norm"]
        self.samples, self.skipped = state["samples"], state["skipped"]
        if self._metrics is not None:
            load_state(self._metrics, state["metrics"])


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers: what a history holds, and a tracker shows."""
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _collected(metrics: Metrics) -> Any:
    """Return one metric that has counted nothing in place of several, None for none of them."""
    if metrics is None:
        return None
    # torchmetrics' collection is no mapping.
    if isinstance(metrics, (MetricCollection, nn.ModuleDict)):
        metrics.reset()  # type: ignore[operator]
        return metrics
    if isinstance(metrics, Mapping):
        for metric in metrics.values():
            # Before they share what they count.
            metric.reset()
        return MetricCollection(metrics) if metrics else None
    raise TypeError(
        "metrics must be a mapping of names to metrics, or a collection of them, got "
        f"{type(metrics).__name__}; for one metric pass {{'name': metric}}"
    )


def _move(metrics: Any, device: torch.device) -> None:
    """Move the metrics that hold their state on a device of their own."""
    for metric in metrics.values() if isinstance(metrics, Mapping) else (metrics,):
        if isinstance(metric, nn.Module):
            metric.to(device)


def _plain(value: Any) -> Any:
    is_scalar = isinstance(value, (Tensor, np.generic)) and value.ndim == 0
    return value.item() if is_scalar else value
