"""Sophia-G (Liu et al., 2023, arXiv:2305.14342) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.memory import full_like
from hotloop.optimizers.elementwise import ElementwiseStep
from hotloop.optimizers.reference import Reference, check_at_least, check_betas

__all__ = ["SophiaG", "TorchSophiaG"]


class TorchSophiaG(Reference):
    """`SophiaG` without kernels."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        eps: float = 1e-12,
        weight_decay: float = 0.1,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, rho=rho, weight_decay=weight_decay)
        check_betas(betas)
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be above 0 and finite, got {eps!r}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a momentum and a Hessian of zero."""
        return {name: full_like(param, 0.0) for name in ("exp_avg", "hessian")}

    @torch.no_grad()
    def update_hessian(self, samples: int) -> None:
        """Move the Hessian's diagonal by the Gauss-Newton-Bartlett estimate.

        The present gradients g must be those of the mean loss with labels that were drawn
        from the model's own output; h = beta2 h + (1 - beta2) samples g^2.

        Args:
            samples: Number of labels that were drawn, at least 1.

        Raises:
            ValueError: If `samples` is below 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples!r}")
        for group in self.param_groups:
            beta2 = group["betas"][1]
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state.update(self.create_state(param, group))
                weight = (1 - beta2) * samples
                state["hessian"].mul_(beta2).addcmul_(param.grad, param.grad, value=weight)

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its momentum in place."""
        lr = float(group["lr"])
        m = state["exp_avg"].lerp_(grad, 1 - group["betas"][0])
        ratio = m / (state["hessian"] * group["rho"]).clamp_(min=group["eps"])
        param.mul_(1 - lr * group["weight_decay"]).add_(ratio.clamp_(-1, 1), alpha=-lr)


class SophiaG(ElementwiseStep, TorchSophiaG):
    """Sophia-G, with the step in Mojo on CPU tensors.

    With gradient g, parameter p, momentum m and an estimate h of the Hessian's diagonal:

        m = beta1 m + (1 - beta1) g
        p = (1 - lr weight_decay) p - lr clip(m / max(rho h, eps), 1)

    (Liu et al., 2023, arXiv:2305.14342). h changes only in `update_hessian`, which is to be
    called every ten steps or so. Until its first call h is 0 and each step is lr times the
    sign of m:

        logits = model(inputs)
        labels = torch.distributions.Categorical(logits=logits).sample()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.update_hessian(samples=len(labels))
        optimizer.zero_grad()

    Both backends have the same bits in float32 and float64.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0.
        betas: The decays of momentum and Hessian, in [0, 1).
        rho: The factor of the Hessian, at least 0.
        eps: The least denominator, above 0.
        weight_decay: The decoupled weight decay, at least 0.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    fields = ("lr", "betas", "rho", "eps", "weight_decay", "maximize")
    torch_options = ()
    kernel_name = "SOPHIAG"
    tensor_names = ("exp_avg", "hessian")
    step_name = None
    create_state = TorchSophiaG.create_state

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of the Mojo rule, which has no use for the Hessian's decay."""
        lr, beta1, _, *others = super().hyperparameters(group)
        return (lr, beta1, *others)
