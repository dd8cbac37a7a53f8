"""What a pass over data measures: the loss, and the user's metrics."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hotloop.metrics import Mean, Metric

__all__ = ["Measurement"]


class Measurement:
    """The mean loss over all samples and further metrics of one pass.

    Args:
        metrics: Further metrics by name; they are reset.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None) -> None:
        self._loss = Mean()
        self._metrics = dict(metrics or {})
        self.samples = 0
        for metric in self._metrics.values():
            metric.reset()

    def update(self, loss: Tensor, preds: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            loss: Scalar mean over the batch.
            preds: The model's output, shape (N, ...).
            target: The targets, shape (N, ...).
        """
        self.samples += len(target)
        self._loss.update(loss, len(target))
        for metric in self._metrics.values():
            metric.update(preds, target)

    def compute(self) -> dict[str, float]:
        """Return "loss" and each metric's value.

        Raises:
            ValueError: If no sample was counted.
        """
        if self.samples == 0:
            raise ValueError("the loader yields no samples; check its dataset and batch size")
        values = {name: metric.compute() for name, metric in self._metrics.items()}
        return {"loss": self._loss.compute()} | values
