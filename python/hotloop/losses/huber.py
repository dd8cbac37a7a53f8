"""The Huber loss, which is squared for small errors and linear for large ones."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from hotloop.argument import check_number
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.pointwise import Rule, pointwise_loss

__all__ = ["huber"]


def huber(
    preds: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "sum_and_count",
) -> Tensor | LossSum:
    """Compute the loss of Huber (1964, doi:10.1214/aoms/1177703732) of each element.

        d^2 / 2 if |d| <= delta, else delta (|d| - delta / 2),  d = prediction - target

    The count is the number of elements, or the sum of their weights. The kernels compute the
    gradient together with the loss; it cannot be differentiated again.

    Args:
        preds: Any shape, computed in float32 at least.
        target: In the shape of `preds`, of any dtype.
        delta: Where the loss becomes linear, above 0.
        weight: A factor of at least 0 for each element, in a shape that broadcasts to that of
            `preds`. Torch's own mean divides by the number of elements all the same.
        reduction: "sum_and_count" for a `LossSum`, "mean" (0 if nothing counts), "sum", or "none"
            for the shape of `preds`.

    Returns:
        What `reduction` says.

    Raises:
        ValueError: If a shape does not fit, `preds` is not floating point, `delta` is not above 0,
            or there is no such reduction.
    """
    check_number("delta", delta, 0)
    if delta == 0:
        raise ValueError(f"delta must be above 0, got {delta!r}")
    losses = partial(functional.huber_loss, reduction="none", delta=delta)
    return pointwise_loss(Rule(1, losses, delta), preds, target, reduction, weight)
