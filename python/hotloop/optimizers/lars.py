"""LARS (You et al., 2017, arXiv:1708.03888) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.memory import full_like
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.reference import Reference, check_at_least

__all__ = ["LARS", "TorchLARS"]


class TorchLARS(Reference):
    """LARS in plain torch; `LARS` documents it."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        check_at_least(
            0,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            eps=eps,
        )
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                "nesterov=True needs momentum above 0 and dampening 0; got "
                f"momentum={momentum!r}, dampening={dampening!r}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a step count and, with momentum, a zero buffer."""
        state: dict[str, Any] = {"step": torch.zeros((), dtype=torch.float32)}
        if group["momentum"] != 0:
            # -0.0 is the one start that leaves both signs of a zero gradient alone.
            state["momentum_buffer"] = full_like(param, -0.0)
        return state

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its state in place."""
        momentum, weight_decay = group["momentum"], group["weight_decay"]
        param_norm, grad_norm = (
            float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in (param, grad)
        )
        local_lr = 1.0
        if param_norm != 0 and grad_norm != 0:
            denominator = grad_norm + weight_decay * param_norm + group["eps"]
            local_lr = group["trust_coefficient"] * param_norm / denominator
        if weight_decay != 0:
            grad = grad.add(param, alpha=weight_decay)
        grad = grad * local_lr
        state["step"] += 1
        if momentum != 0:
            # The first gradient enters the buffer whole, as in torch's SGD.
            weight = 1.0 if state["step"] == 1 else 1 - group["dampening"]
            if "momentum_buffer" not in state:  # Momentum was 0 so far.
                state["momentum_buffer"] = full_like(param, -0.0)
            buffer = state["momentum_buffer"].mul_(momentum).add_(grad, alpha=weight)
            grad = grad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        param.add_(grad, alpha=-float(group["lr"]))


class LARS(NativeStep, TorchLARS):
    """SGD with momentum and a learning rate for each tensor.

    With gradient g, parameter p and buffer b, which starts as the first u:

        u = trust_coefficient |p| / (|g| + weight_decay |p| + eps) (g + weight_decay p)
        b = momentum b + (1 - dampening) u
        p = p - lr (u + momentum b if nesterov else b)

    after You et al., 2017, arXiv:1708.03888, with the learning rate outside the buffer as in
    `torch.optim.SGD`. Norms are 2-norms of whole tensors, summed in float64; where |p| or |g|
    is 0 the factor of (g + weight_decay p) is 1, so that parameters that start at 0 move.
    It is common to give biases and norm layers a `torch.optim.SGD` of their own. A step is
    two passes over memory. `TorchLARS` is the same in torch's operators, for what has no
    kernel: see `fallback_reason`.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate, at least 0; a float or a tensor with one element.
        momentum: Decay of the buffer, at least 0; 0 keeps none.
        dampening: How much less than 1 a new u weighs in the buffer, after the first.
        weight_decay: How much of p joins g, at least 0.
        nesterov: Whether to look ahead; needs momentum and no dampening.
        trust_coefficient: How long a step is relative to p at lr 1, at least 0.
        eps: Added to the denominator, at least 0.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    options = (
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
        "trust_coefficient",
        "eps",
        "maximize",
    )
    step_name = "step"

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        if group["momentum"] == 0:
            return "LARS"
        return "LARS_NESTEROV" if group["nesterov"] else "LARS_MOMENTUM"

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `LARS`."""
        names = ("lr", "momentum", "dampening", "weight_decay", "trust_coefficient", "eps")
        return (*(float(group[name]) for name in names), float(group["maximize"]))

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the name of the buffer, if there is momentum."""
        return () if group["momentum"] == 0 else ("momentum_buffer",)
