"""Adam (Kingma and Ba, 2014, arXiv:1412.6980) with Mojo kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.layout import KERNELS
from hotloop.memory import full_like
from hotloop.optimizers.optimizer import Closure, NativeStep
from hotloop.optimizers.plan import DTYPES, StateLayout, UnsupportedError
from hotloop.optimizers.state_dict import LayoutStateDict

__all__ = ["Adam"]

#: The dtypes that `state_dtype` and `master_weights` are about.
NARROW = (torch.bfloat16, torch.float16)

_MASTER = "_MASTER"
_WIDE_STATE = "_WIDE_STATE"


class AdamKernels(NativeStep, LayoutStateDict):
    """What `Adam` and `AdamW` tell a plan, and their options for 16-bit parameters."""

    options: tuple[str, ...] = (
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
        "state_dtype",
        "master_weights",
    )
    own_options = {"fast_math": False, "state_dtype": None, "master_weights": False}
    step_name = "step"

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        for option in ("capturable", "differentiable"):
            if group[option]:
                raise UnsupportedError(f"{option}=True")
        name = "ADAMW" if group["decoupled_weight_decay"] else "ADAM"
        check_state_dtype(group["state_dtype"])
        if group["amsgrad"]:
            name += "_AMSGRAD"
        if group["master_weights"]:
            return name + _MASTER
        if group["state_dtype"] is not None:
            return name + _WIDE_STATE
        # Without eps a second moment of 0 has no reciprocal to approximate.
        is_fast = group["fast_math"] and group["eps"] > 0 and not group["amsgrad"]
        return f"{name}_FAST" if is_fast else name

    def param_kernel(self, kernel: str, param: Tensor) -> str:
        """Return the name of the kernel for one parameter."""
        if param.dtype not in NARROW:
            return kernel.removesuffix(_MASTER).removesuffix(_WIDE_STATE)
        if kernel not in KERNELS:
            raise UnsupportedError("amsgrad with state_dtype or master_weights")
        return kernel

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `Adam`: lr, betas, eps, weight decay, maximize."""
        beta1, beta2 = group["betas"]
        values = (group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
        return (*map(float, values), float(group["maximize"]))

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the moments."""
        names = ("exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the moments, and the master weights if they are kept."""
        names = self.state_names(group)
        if not _is_wide(param, group):
            return dict.fromkeys(names, StateLayout(param.dtype))
        if group["master_weights"]:
            names += ("master",)
        return dict.fromkeys(names, StateLayout(torch.float32))

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return torch's state for `fused=True`: a float32 step count and zero moments."""
        state = {"step": torch.zeros((), dtype=torch.float32)}
        for name, layout in self.state_layouts(param, group).items():
            state[name] = full_like(param.detach(), 0.0, layout.dtype)
        if "master" in state:
            state["master"].copy_(param.detach())
        return state

    def _read_state(
        self, param: Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> dict[str, Tensor]:
        if not _is_wide(param, group):
            return {}  # What torch loads is right.
        if group["master_weights"]:
            state = {"master": param.detach().float(), **state}
        return super()._read_state(param, group, state)

    def _torch_step(self, closure: Closure | None = None) -> Any:
        pairs = [(p, group) for group in self.param_groups for p in group["params"]]
        if not any(_is_wide(param, group) for param, group in pairs):
            return super()._torch_step(closure)
        # torch has no step for state of another dtype, so it gets float32 parameters.
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        state = self.__dict__["state"]
        lists = [group["params"] for group in self.param_groups]
        wide: dict[Tensor, Tensor] = {}
        for group, params in zip(self.param_groups, lists):
            for param in params:
                if param.grad is None or not _is_wide(param, group):
                    continue
                if not state[param]:
                    state[param].update(self.create_state(param, group))
                copy = state[param].get("master", param).detach().to(torch.float32)
                copy.grad = param.grad.to(torch.float32)
                state[copy] = state[param]
                wide[param] = copy
            if wide:
                group["params"] = [wide.get(param, param) for param in params]
        try:
            super()._torch_step()
        finally:
            for group, params in zip(self.param_groups, lists):
                group["params"] = params
            for copy in wide.values():
                copy.grad = None
                del state[copy]
        with torch.no_grad():
            for param, copy in wide.items():
                param.copy_(copy)
        return loss

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


def check_state_dtype(dtype: torch.dtype | None) -> None:
    """Raise a ValueError unless state may be kept in `dtype`."""
    if dtype not in (None, torch.float32):
        raise ValueError(f"state_dtype must be torch.float32 or None, got {dtype!r}")


def _is_wide(param: Tensor, group: dict[str, Any]) -> bool:
    """Tell whether the state of `param` is wider than `param`."""
    is_asked = group.get("master_weights") or group.get("state_dtype") is not None
    return is_asked and param.dtype in NARROW


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

    Arguments, param groups, state and state dict are torch's, but for the last three. With
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
            most 2^-19 of itself. AMSGrad, eps = 0, torch, and 16-bit parameters with one of
            the following stay exact.
        state_dtype: torch.float32 to keep the moments of bfloat16 and float16 parameters in
            float32; None for the parameter's dtype, as torch's.
        master_weights: Whether to keep such parameters in float32, too: `state["master"]`
            gets the bits of the optimizer on float32, and the parameter is what it rounds
            to. What is written to the parameter between steps is lost.

    Raises:
        ValueError: If `state_dtype` is neither None nor torch.float32, or another
            hyperparameter is out of range; that error is torch's.
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
        state_dtype: torch.dtype | None = None,
        master_weights: bool = False,
    ) -> None:
        check_state_dtype(state_dtype)
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
        self._add_own_options(
            fast_math=fast_math, state_dtype=state_dtype, master_weights=master_weights
        )
