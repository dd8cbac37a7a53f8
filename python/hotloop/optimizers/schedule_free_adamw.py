"""Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682) with Mojo kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.memory import full_like
from hotloop.optimizers.reference import check_at_least, check_betas
from hotloop.optimizers.schedule_free import ScheduleFreeReference, ScheduleFreeStep, start_z

__all__ = ["ScheduleFreeAdamW", "TorchScheduleFreeAdamW"]


class TorchScheduleFreeAdamW(ScheduleFreeReference):
    """`ScheduleFreeAdamW` without kernels."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
    ) -> None:
        check_betas(betas)
        check_at_least(0, eps=eps)
        if betas[0] == 0:
            raise ValueError(f"betas[0] must be above 0, got {betas!r}")
        self._start(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "r": r,
                "weight_lr_power": weight_lr_power,
                "maximize": maximize,
            },
        )

    def _interpolation(self, group: dict[str, Any]) -> float:
        return float(group["betas"][0])

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return z at the parameter and a second moment of zero."""
        return {"z": start_z(param), "exp_avg_sq": full_like(param, 0.0)}

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update y, in the parameter, and the state in place."""
        lr, weight, z, v = group["step_lr"], group["step_weight"], state["z"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        u = grad / (v / _bias2(group)).sqrt_().add_(group["eps"])
        if group["weight_decay"] != 0:
            u.add_(param, alpha=group["weight_decay"])
        param.lerp_(z, weight).add_(u, alpha=lr * (beta1 * (1 - weight) - 1))
        z.add_(u, alpha=-lr)


class ScheduleFreeAdamW(ScheduleFreeStep, TorchScheduleFreeAdamW):
    """Schedule-free AdamW, with the step in Mojo on CPU tensors.

    With gradient g at y, learning rate l (warmed up linearly over `warmup_steps`) and weight
    c of the step, at step t from 1:

        v = beta2 v + (1 - beta2) g^2
        u = g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y
        w_t = t^r (max l so far)^weight_lr_power, c = w_t / (w_1 + ... + w_t)
        y = (1 - c) y + c z + l (beta1 (1 - c) - 1) u
        z = z - l u

    (Defazio et al., 2024, arXiv:2405.15682, "The Road Less Scheduled"). The parameters hold
    y in training; call `eval()` before validation or saving, which puts the average
    x = (y - (1 - beta1) z) / beta1 into them, and `train()` before going on. Needs no
    learning rate schedule. Both backends have the same bits in float32 and float64 but for
    torch's square roots, which are not always correctly rounded.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0; one to ten times AdamW's.
        betas: How much of x is in y, in (0, 1), and the decay of v, in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: The weight decay at y, at least 0.
        warmup_steps: Steps in which the rate grows to `lr`, at least 0.
        r: The power of t in the weights.
        weight_lr_power: The power of the learning rate in the weights.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
        RuntimeError: From `step`, after `eval` without `train`.
    """

    fields = ("step_lr", "betas", "step_weight", "k", "eps", "weight_decay", "maximize")
    kernel_name = "SCHEDULE_FREE_ADAMW"
    tensor_names = ("z", "exp_avg_sq")
    create_state = TorchScheduleFreeAdamW.create_state

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of the Mojo rule."""
        beta1, beta2 = group["betas"]
        values = (group["step_lr"], beta1, group["step_weight"], beta2, _bias2(group))
        return (*map(float, values), group["eps"], group["weight_decay"], float(group["maximize"]))


def _bias2(group: dict[str, Any]) -> float:
    return 1 - float(group["betas"][1]) ** int(group["k"] + 1)
