"""What a pass over data measures: the loss, and the user's metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.loops.batch import to_device
from hotloop.loops.training_step import StepResult
from hotloop.metrics import Metric

__all__ = ["Measurement", "NumberMean", "RunningLoss"]

#: Losses that are kept apart before they are added up, which takes one call for all.
_KEPT = 256


class NumberMean:
    """The mean of plain numbers, NaN of none."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        """Count a number."""
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

    Args:
        metrics: Further metrics by name; they are reset.

    Attributes:
        loss: The loss of the updates that were applied.
        grad_norm: The norm of their gradients, where it was measured.
        samples: How many samples were seen.
        skipped: How many updates were left out.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None) -> None:
        self.loss = RunningLoss()
        self._metrics = dict(metrics or {})
        self.restart()

    def restart(self) -> None:
        """Begin the next epoch."""
        self.loss.restart()
        self.grad_norm = NumberMean()
        self.samples = 0
        self.skipped = 0
        for metric in self._metrics.values():
            metric.reset()

    def update(self, result: StepResult) -> None:
        """Count the samples of a batch, and show it to the metrics.

        Raises:
            ValueError: If there are metrics, and the step kept its predictions.
        """
        self.samples += result.samples
        if not self._metrics:
            return
        if result.preds is None:
            raise ValueError(
                "metrics need predictions and targets; return "
                "StepOutput(loss, preds, target) from the step function"
            )
        for metric in self._metrics.values():
            metric.update(result.preds, result.target)

    def compute(self) -> dict[str, float]:
        """Return "loss" and each metric's value.

        Raises:
            ValueError: If no sample was counted.
        """
        if self.samples == 0:
            raise ValueError("the loader yields no samples; check its dataset and batch size")
        values = {name: metric.compute() for name, metric in self._metrics.items()}
        return {"loss": self.loss.mean()} | values

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
            "metrics": {name: _state_of(name, each) for name, each in self._metrics.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: If it has other metrics. Nothing is changed then.
        """
        if set(state["metrics"]) != set(self._metrics):
            raise ValueError(
                f"the state has the metrics {sorted(state['metrics'])}, and there are "
                f"{sorted(self._metrics)}; pass the same metrics as in the saved run"
            )
        # Before anything is loaded: it resets the metrics.
        self.restart()
        self.loss.load_state_dict(state["loss"])
        self.grad_norm.sum, self.grad_norm.count = state["grad_norm"]
        self.samples, self.skipped = state["samples"], state["skipped"]
        for name, metric in self._metrics.items():
            _load_state(metric, state["metrics"][name])


def _state_of(name: str, metric: Any) -> dict[str, Any]:
    if hasattr(metric, "metric_state"):
        # torchmetrics leaves out of its state_dict what a metric has counted.
        return {path: dict(part.metric_state) for path, part in _parts_of(metric)}
    if hasattr(metric, "state_dict") and hasattr(metric, "load_state_dict"):
        return dict(metric.state_dict())
    raise TypeError(
        f"metric {name!r} cannot be saved: {type(metric).__name__} needs the methods state_dict() "
        "and load_state_dict(state) of hotloop.metrics.Metric"
    )


def _load_state(metric: Any, state: Mapping[str, Any]) -> None:
    if not hasattr(metric, "metric_state"):
        metric.load_state_dict(state)
        return
    for path, part in _parts_of(metric):
        for key in part.metric_state:
            # A copy, as it counts in place.
            value = copy.deepcopy(state[path][key])
            setattr(part, key, to_device(value, part.device))


def _parts_of(metric: nn.Module) -> list[tuple[str, Any]]:
    """Return a torchmetrics metric and those that it is made of, by path."""
    return [(path, part) for path, part in metric.named_modules() if hasattr(part, "metric_state")]
