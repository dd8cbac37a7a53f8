"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.memory import full_like
from hotloop.optimizers.elementwise import ElementwiseStep
from hotloop.optimizers.reference import Reference, check_at_least, check_betas

__all__ = ["ADOPT", "TorchADOPT"]


class TorchADOPT(Reference):
    """`ADOPT` without kernels."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        clip: bool = True,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, weight_decay=weight_decay)
        check_betas(betas)
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be above 0 and finite, got {eps!r}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "clip": clip,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a step count of 0 and moments of zero."""
        moments = {name: full_like(param, 0.0) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), dtype=torch.float32), **moments}

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its state in place."""
        beta1, beta2 = group["betas"]
        lr = float(group["lr"])
        state["step"] += 1
        step = state["step"].item()
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if step == 1:
            torch.mul(grad, grad, out=v)
            return
        u = grad / v.sqrt().clamp_(min=group["eps"])
        if group["clip"]:
            limit = (step - 1) ** 0.25
            u.clamp_(-limit, limit)
        m.lerp_(u, 1 - beta1)
        param.mul_(1 - lr * group["weight_decay"]).add_(m, alpha=-lr)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)


class ADOPT(ElementwiseStep, TorchADOPT):
    """ADOPT, with the step in Mojo on CPU tensors.

    With gradient g and parameter p at step t, the first step sets v = g^2 and leaves p
    alone, as in the paper's algorithm. From then on:

        u = g / max(sqrt(v), eps), limited to [-c, c] with c = (t - 1)^0.25 if `clip`
        m = beta1 m + (1 - beta1) u
        p = (1 - lr weight_decay) p - lr m
        v = beta2 v + (1 - beta2) g^2

    (Taniguchi et al., 2024, arXiv:2411.02853). Both backends have the same bits in float32
    and float64 but for torch's square roots, which are not always correctly rounded.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0.
        betas: The decays of the two moments, in [0, 1).
        eps: The least denominator, above 0.
        weight_decay: The decoupled weight decay, at least 0.
        clip: Whether to limit normalized gradients.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    fields = ("lr", "betas", "eps", "weight_decay", "clip", "maximize")
    torch_options = ()
    kernel_name = "ADOPT"
    tensor_names = ("exp_avg", "exp_avg_sq")
    create_state = TorchADOPT.create_state
