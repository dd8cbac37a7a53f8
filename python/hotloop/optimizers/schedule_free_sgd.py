"""Schedule-free SGD (Defazio et al., 2024, arXiv:2405.15682) with Mojo kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.optimizers.schedule_free import ScheduleFreeReference, ScheduleFreeStep, start_z

__all__ = ["ScheduleFreeSGD", "TorchScheduleFreeSGD"]


class TorchScheduleFreeSGD(ScheduleFreeReference):
    """`ScheduleFreeSGD` without kernels."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
    ) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), got {momentum!r}")
        self._start(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "r": r,
                "weight_lr_power": weight_lr_power,
                "maximize": maximize,
            },
        )

    def _interpolation(self, group: dict[str, Any]) -> float:
        return float(group["momentum"])

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return z at the parameter."""
        return {"z": start_z(param)}

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update y, in the parameter, and z in place."""
        lr, weight, z = group["step_lr"], group["step_weight"], state["z"]
        if group["weight_decay"] != 0:
            grad = grad.add(param, alpha=group["weight_decay"])
        param.lerp_(z, weight).add_(grad, alpha=lr * (group["momentum"] * (1 - weight) - 1))
        z.add_(grad, alpha=-lr)


class ScheduleFreeSGD(ScheduleFreeStep, TorchScheduleFreeSGD):
    """Schedule-free SGD, with the step in Mojo on CPU tensors.

    With gradient g at y (plus `weight_decay` times y), learning rate l (warmed up linearly
    over `warmup_steps`) and weight c of the step, at step t from 1:

        w_t = t^r (max l so far)^weight_lr_power, c = w_t / (w_1 + ... + w_t)
        y = (1 - c) y + c z + l (momentum (1 - c) - 1) g
        z = z - l g

    (Defazio et al., 2024, arXiv:2405.15682, "The Road Less Scheduled"). The parameters hold
    y in training; call `eval()` before validation or saving, which puts the average
    x = (y - (1 - momentum) z) / momentum into them, and `train()` before going on. Needs
    no learning rate schedule. Both backends have the same bits in float32 and float64.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0; larger than SGD's.
        momentum: How much of x is in y, in (0, 1).
        weight_decay: The weight decay at y, at least 0.
        warmup_steps: Steps in which the rate grows to `lr`, at least 0.
        r: The power of t in the weights.
        weight_lr_power: The power of the learning rate in the weights.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
        RuntimeError: From `step`, after `eval` without `train`.
    """

    fields = ("step_lr", "momentum", "step_weight", "weight_decay", "maximize")
    kernel_name = "SCHEDULE_FREE_SGD"
    tensor_names = ("z",)
    create_state = TorchScheduleFreeSGD.create_state
