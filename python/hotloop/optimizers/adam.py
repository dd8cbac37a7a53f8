"""Adam (Kingma and Ba, 2014, arXiv:1412.6980) with Mojo kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.optimizers.memory import full_like
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import DTYPES, UnsupportedError

__all__ = ["Adam"]


class AdamKernels(NativeStep):
    """What `Adam` and `AdamW` tell a plan."""

    options = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "decoupled_weight_decay",
        "amsgrad",
        "maximize",
        "capturable",
        "differentiable",
        "fast_math",
    )
    own_options = {"fast_math": False}
    step_name = "step"

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        for option in ("capturable", "differentiable"):
            if group[option]:
                raise UnsupportedError(f"{option}=True")
        name = "ADAMW" if group["decoupled_weight_decay"] else "ADAM"
        if group["amsgrad"]:
            return f"{name}_AMSGRAD"
        # Without eps a second moment of 0 has no reciprocal to approximate.
        return f"{name}_FAST" if group["fast_math"] and group["eps"] > 0 else name

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `Adam`: lr, betas, eps, weight decay, maximize."""
        beta1, beta2 = group["betas"]
        values = (group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
        return (*map(float, values), float(group["maximize"]))

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the moments."""
        names = ("exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return torch's state for `fused=True`: a float32 step count and zero moments."""
        moments = {name: full_like(param, 0.0) for name in self.state_names(group)}
        return {"step": torch.zeros((), dtype=torch.float32), **moments}

    @contextmanager
    def _exact_fallback(self) -> Iterator[None]:
        # The kernels round as torch's fused implementation does. torch takes it only on
        # request, so a group that asked for none gets it for the time of the step.
        groups = [group for group in self.param_groups if _may_be_fused(group)]
        for group in groups:
            group["fused"] = True
        try:
            yield
        finally:
            for group in groups:
                group["fused"] = None
        # torch's fused kernels do not tell autograd that they wrote to the parameters.
        params = itertools.chain.from_iterable(group["params"] for group in groups)
        torch.autograd.graph.increment_version([p for p in params if p.grad is not None])


def _may_be_fused(group: dict[str, Any]) -> bool:
    return (
        group["fused"] is None
        and group["foreach"] is None
        and not group["capturable"]
        and not group["differentiable"]
        and all(
            param.device.type == "cpu"
            and param.dtype in DTYPES
            and type(param).__torch_dispatch__ is Tensor.__torch_dispatch__
            for param in group["params"]
        )
    )


class Adam(AdamKernels, torch.optim.Adam):
    """`torch.optim.Adam`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's, but for `fast_math`. With
    gradient g (plus `weight_decay` times the parameter p) at step t:

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    `amsgrad` puts the largest v so far in the place of v (Reddi et al., 2018,
    arXiv:1904.09237). float32, float64 and bfloat16 parameters round where torch's
    `fused=True` does; the tests compare the bits. Whatever has no kernel runs on torch:
    see `fallback_reason`.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable,
            differentiable, fused, decoupled_weight_decay: As torch's.
        fast_math: Whether float32 and bfloat16 parameters may be updated with approximate
            square roots and divisions: the change of a parameter in one step is off by at
            most 2^-19 of itself. AMSGrad and eps = 0 stay exact, and so does torch.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        fast_math: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._add_own_options(fast_math=fast_math)
