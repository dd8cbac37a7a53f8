"""LAMB (You et al., 2019, arXiv:1904.00962) with Mojo kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hotloop.memory import full_like
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.reference import Reference, check_at_least, check_betas

__all__ = ["LAMB", "TorchLAMB"]


class TorchLAMB(Reference):
    """LAMB in plain torch; `LAMB` documents it."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas(betas)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a float32 step count and zero moments, as torch's Adam."""
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": full_like(param, 0.0),
            "exp_avg_sq": full_like(param, 0.0),
        }

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its state in place."""
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = float(state["step"])
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        direction = first / denominator.mul_(1 - beta1**step)
        if group["weight_decay"] != 0:
            direction.add_(param, alpha=group["weight_decay"])
        param_norm, norm = (
            float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
            for tensor in (param, direction)
        )
        ratio = 1.0 if param_norm == 0 or norm == 0 else param_norm / norm
        param.add_(direction, alpha=-float(group["lr"]) * ratio)


class LAMB(NativeStep, TorchLAMB):
    """Adam whose step is as long, relative to each tensor, as the learning rate.

    With gradient g and parameter p at step t:

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p
        p = p - lr (|p| / |u|) u

    which is algorithm 2 of You et al., 2019, arXiv:1904.00962, with the identity for its
    scaling function. Norms are 2-norms of whole tensors, summed in float64; where one is 0
    the ratio is 1, so that parameters that start at 0 move. A step is two passes over
    memory. `TorchLAMB` is the same in torch's operators, for what has no kernel: see
    `fallback_reason`.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate, at least 0; a float or a tensor with one element.
        betas: Decays of the moments m and v, in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: How much of p joins u, at least 0.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    options = ("lr", "betas", "eps", "weight_decay", "maximize")
    step_name = "step"

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        return "LAMB"

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `LAMB`."""
        values = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        return (*map(float, values), float(group["maximize"]))

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the moments."""
        return ("exp_avg", "exp_avg_sq")
