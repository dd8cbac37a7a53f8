"""The metric of torchmetrics that counts with one of hotloop. Importing it needs torchmetrics."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Mapping
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from hotloop.metrics.metric import Metric

__all__ = ["TorchMetric"]


class TorchMetric(torchmetrics.Metric):
    """What `as_torchmetrics` returns.

    To torchmetrics its state is a list of tensors of bytes, each what one process has counted;
    such lists are joined where metrics are merged or synchronised.

    Args:
        metric: The metric that counts; it is copied.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = copy.deepcopy(metric)
        # Adding the state sets it to nothing counted.
        self.add_state("packed", [], dist_reduce_fx=None)
        self._metric.load_state_dict(metric.state_dict())
        self._read_signature()

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Whether a higher value is a better one; None if neither is."""
        return self._metric.higher_is_better

    @property
    def packed(self) -> list[Tensor]:
        """What was counted: one tensor of bytes."""
        buffer = io.BytesIO()
        torch.save({"metric": repr(self._metric), "state": self._metric.state_dict()}, buffer)
        packed = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        return [packed.to(self.device)]

    @packed.setter
    def packed(self, parts: list[Tensor]) -> None:
        merged = self._fresh()
        for part in parts:
            # `set_dtype` makes numbers of the bytes.
            content = io.BytesIO(part.to("cpu", torch.uint8).numpy().tobytes())
            found = torch.load(content, map_location="cpu", weights_only=True)
            if found["metric"] != repr(self._metric):
                raise ValueError(
                    f"only states of {self._metric} can be merged, got one of {found['metric']}"
                )
            other = self._fresh()
            other.load_state_dict(found["state"])
            merged.merge(other)
        self._metric = merged

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Count one batch: the arguments are those of the metric's `update`."""
        self._metric.update(*args, **kwargs)

    def compute(self) -> Any:
        """Return the value over everything counted, in all processes."""
        return self._tensors(self._metric.compute())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Count one batch and return its own value.

        Args:
            args: Those of the metric's `update`.
            kwargs: As well.
        """
        if self.dist_sync_on_step:
            return super().forward(*args, **kwargs)
        if self._is_synced:
            raise TorchMetricsUserError("forward cannot count while synced; call unsync first")
        batch = self._fresh()
        batch.update(*args, **kwargs)
        value = self._tensors(batch.compute())
        self._metric.merge(batch)
        self._update_count += 1
        self._computed = None
        self._forward_cache = value
        return value

    def reset(self) -> None:
        """Forget everything counted."""
        super().reset()
        self._metric.reset()

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of its text."""
        return repr(self._metric)

    def __hash__(self) -> int:
        # The base class has the hash of the state's tensors, which here are new each time.
        return id(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._read_signature()

    def _fresh(self) -> Metric:
        """Return a metric of the same kind that has counted nothing."""
        metric = copy.copy(self._metric)
        metric.reset()
        return metric

    def _read_signature(self) -> None:
        # By it a collection chooses which keyword arguments to pass.
        self._update_signature = inspect.signature(self._metric.update)

    def _tensors(self, value: Any) -> Any:
        if isinstance(value, (bool, int, float)):
            return torch.tensor(value, dtype=self.dtype, device=self.device)
        if isinstance(value, Tensor):
            return value.to(self.device)
        if isinstance(value, Mapping):
            return {name: self._tensors(each) for name, each in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self._tensors, value))
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._tensors, value))
        return value
