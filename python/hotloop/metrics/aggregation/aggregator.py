"""Base of the metrics of values."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from hotloop import backend
from hotloop.metrics.metric import Metric

__all__ = ["FLOATS", "Aggregator", "check_weights", "checked_weights", "plain_floats"]

#: The numbers of the dtypes that kernels read as values.
FLOATS = {dtype: number for dtype, number in backend.DTYPES.items() if dtype.is_floating_point}


class Aggregator(Metric):
    """A metric of values, such as losses or norms, without targets.

    NaN is not left out: the value of a metric that has counted one is NaN. Values of weight 0
    are left out whatever they are. On a CUDA device nothing waits for it before `compute`.
    """

    @abstractmethod
    def update(self, value: Tensor | float, weight: Any = None) -> None:  # type: ignore[override]
        """Count values.

        Args:
            value: A number, or a tensor of any shape and real dtype.
            weight: A factor of at least 0 for each, a number or a tensor that broadcasts to
                the shape of `value`; 1 by default.

        Raises:
            ValueError: If the weight has another shape or, on the CPU, is negative or not
                finite. Nothing is counted then.
        """


def plain_floats(values: Tensor | float) -> Tensor:
    """Return values without graph, contiguous and of a float dtype that kernels read."""
    if not isinstance(values, Tensor):
        return torch.tensor(values, dtype=torch.float64)
    values = values.detach()
    if values.device.type == "mps":
        # Metal has no float64.
        values = values.cpu()
    if values.dtype not in FLOATS:
        values = values.to(torch.float64)
    return values.contiguous()


def checked_weights(weight: Tensor | float, like: Tensor) -> Tensor:
    """Return weights for each element of a tensor, in float64 and contiguous.

    Args:
        weight: A number, or a tensor that broadcasts to the shape of `like`.
        like: The values.

    Raises:
        ValueError: If it does not broadcast or, on the CPU, is negative or not finite.
    """
    weights = torch.as_tensor(weight).detach().to(like.device, torch.float64)
    try:
        weights = weights.broadcast_to(like.shape)
    except RuntimeError:
        raise ValueError(
            f"weight must have a shape that broadcasts to {tuple(like.shape)}, got "
            f"{tuple(weights.shape)}"
        ) from None
    if weights.is_cpu:
        check_weights(weights)
    return weights.contiguous()


def check_weights(weights: Tensor) -> None:
    """Raise ValueError for the first weight that is negative or not finite."""
    is_good = (weights >= 0) & (weights < torch.inf)
    if not is_good.all():
        index = is_good.logical_not().nonzero()[0].tolist()
        raise ValueError(
            f"weight{index if index else ''} is {weights[tuple(index)].item()}, must be finite "
            "and at least 0"
        )
