"""Lion (Chen et al., 2023, arXiv:2302.06675) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.memory import full_like
from hotloop.optimizers.elementwise import ElementwiseStep
from hotloop.optimizers.reference import Reference, check_at_least, check_betas

__all__ = ["Lion", "TorchLion", "lion_step"]


def lion_step(param: Tensor, grad: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
    """Take Lion's step on one parameter, in place."""
    beta1, beta2 = group["betas"]
    lr = float(group["lr"])
    mean = momentum.lerp(grad, 1 - beta1)
    # torch's sign of NaN is 0, which would hide it.
    sign = torch.where(mean.isnan(), mean, mean.sign())
    param.mul_(1 - lr * group["weight_decay"]).add_(sign, alpha=-lr)
    momentum.lerp_(grad, 1 - beta2)


class TorchLion(Reference):
    """`Lion` without kernels."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, weight_decay=weight_decay)
        check_betas(betas)
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a momentum of zero."""
        return {"exp_avg": full_like(param, 0.0)}

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its momentum in place."""
        lion_step(param, grad, state["exp_avg"], group)


class Lion(ElementwiseStep, TorchLion):
    """Lion, with the step in Mojo on CPU tensors.

    With gradient g, parameter p and momentum m, `exp_avg` in the state:

        p = (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    (Chen et al., 2023, arXiv:2302.06675, "Symbolic discovery of optimization algorithms").
    The sign of NaN is NaN, so that it does not go unnoticed. float32 and float64 parameters
    have the same bits on both backends; bfloat16 ones are rounded once a step by the kernel.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0; a third to a tenth of AdamW's.
        betas: The weight of the momentum in the sign, and its decay, in [0, 1).
        weight_decay: The decoupled weight decay, at least 0; three to ten times AdamW's.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    fields = ("lr", "betas", "weight_decay", "maximize")
    torch_options = ()
    kernel_name = "LION"
    tensor_names = ("exp_avg",)
    step_name = None
    create_state = TorchLion.create_state
