"""Adan (Xie et al., 2022, arXiv:2208.06677) with Mojo kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.memory import full_like
from hotloop.optimizers.elementwise import ElementwiseStep
from hotloop.optimizers.reference import Reference, check_at_least, check_betas

__all__ = ["Adan", "TorchAdan"]

_TENSORS = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad")


class TorchAdan(Reference):
    """`Adan` without kernels."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas(betas, count=3)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a step count of 0, moments of zero and no previous gradient."""
        tensors = {name: full_like(param, 0.0) for name in _TENSORS}
        return {"step": torch.zeros((), dtype=torch.float32), **tensors}

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its state in place."""
        beta1, beta2, beta3 = group["betas"]
        lr = float(group["lr"])
        state["step"] += 1
        step = state["step"].item()
        m, d, n, previous = (state[name] for name in _TENSORS)
        change = torch.zeros_like(grad) if step == 1 else grad - previous
        previous.copy_(grad)
        m.lerp_(grad, 1 - beta1)
        d.lerp_(change, 1 - beta2)
        u = grad.add(change, alpha=beta2)
        n.mul_(beta3).addcmul_(u, u, value=1 - beta3)
        denominator = n.sqrt().div_(math.sqrt(1 - beta3**step)).add_(group["eps"])
        param.addcdiv_(m, denominator, value=-(lr / (1 - beta1**step)))
        param.addcdiv_(d, denominator, value=-(lr * beta2 / (1 - beta2**step)))
        param.div_(1 + lr * group["weight_decay"])


class Adan(ElementwiseStep, TorchAdan):
    """Adan, with the step in Mojo on CPU tensors.

    With gradient g, the one before it g' (g itself at the first step), parameter p, at
    step t:

        m = beta1 m + (1 - beta1) g
        d = beta2 d + (1 - beta2) (g - g')
        n = beta3 n + (1 - beta3) (g + beta2 (g - g'))^2
        s = sqrt(n) / sqrt(1 - beta3^t) + eps
        p = (p - lr (m / (1 - beta1^t) + beta2 d / (1 - beta2^t)) / s) / (1 + lr weight_decay)

    (Xie et al., 2022, arXiv:2208.06677, with their decays counted as torch counts Adam's:
    what the old value keeps). Both backends have the same bits in float32 and float64 but
    for torch's square roots, which are not always correctly rounded.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0.
        betas: The decays of gradients, differences and squares, in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: The proximal weight decay, at least 0.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    fields = ("lr", "betas", "eps", "weight_decay", "maximize")
    torch_options = ()
    kernel_name = "ADAN"
    tensor_names = _TENSORS
    create_state = TorchAdan.create_state
