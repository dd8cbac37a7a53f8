"""Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101) with Mojo kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hotloop.layout import Outcome
from hotloop.memory import full_like
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import Around, UnsupportedError
from hotloop.optimizers.reference import Reference, check_at_least, check_betas

__all__ = ["Prodigy", "TorchProdigy"]

#: What the estimate of one distance for all groups needs to be the same in all of them.
_SHARED = (
    "lr",
    "betas",
    "beta3",
    "d0",
    "d_coef",
    "growth_rate",
    "use_bias_correction",
    "safeguard_warmup",
)
#: What a step changes in the groups.
_ESTIMATE = ("k", "d", "d_max", "d_numerator")


class TorchProdigy(Reference):
    """Prodigy in plain torch; `Prodigy` documents it."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas(betas)
        if beta3 is not None and not 0 <= beta3 < 1:
            raise ValueError(f"beta3 must be in [0, 1), or None for sqrt(beta2); got {beta3!r}")
        for name, value in (("d0", d0), ("d_coef", d_coef)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
        if not growth_rate >= 1:
            raise ValueError(f"growth_rate must be at least 1, got {growth_rate!r}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "beta3": beta3,
            "eps": eps,
            "weight_decay": weight_decay,
            "decouple": decouple,
            "use_bias_correction": use_bias_correction,
            "safeguard_warmup": safeguard_warmup,
            "d0": d0,
            "d_coef": d_coef,
            "growth_rate": growth_rate,
            "maximize": maximize,
            "k": 0,
            "d": d0,
            "d_max": d0,
            "d_numerator": 0.0,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return zero averages and a copy of the parameter, as the authors'."""
        averages = {name: full_like(param, 0.0) for name in ("exp_avg", "exp_avg_sq", "s")}
        return {**averages, "p0": param.detach().clone()}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter by its gradient, and the distance by all of them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_groups()
        first = self.param_groups[0]
        (beta1, beta2), beta3, d = first["betas"], _beta3(first), first["d"]
        rate = d * float(first["lr"])
        if first["use_bias_correction"]:
            step = first["k"] + 1
            rate *= math.sqrt(1 - beta2**step) / (1 - beta1**step)
        if rate == 0:
            return loss
        numerator = denominator = 0.0
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                state = self.state[param]
                if not state:
                    state.update(self.create_state(param, group))
                grad = -param.grad if group["maximize"] else param.grad
                if group["weight_decay"] != 0 and not group["decouple"]:
                    grad = grad.add(param, alpha=group["weight_decay"])
                state["exp_avg"].mul_(beta1).add_(grad, alpha=d * (1 - beta1))
                state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=d * d * (1 - beta2))
                weight = d / first["d0"] * (d if first["safeguard_warmup"] else rate)
                state["s"].mul_(beta3).add_(grad, alpha=weight)
                way = (state["p0"] - param).double()
                numerator += float((way * grad.double()).sum())
                denominator += float(torch.linalg.vector_norm(state["s"], 1, dtype=torch.float64))
        if denominator == 0:
            return loss
        self._estimate(d / first["d0"] * rate * numerator, denominator)
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                root = state["exp_avg_sq"].sqrt().add_(group["d"] * group["eps"])
                if group["weight_decay"] != 0 and group["decouple"]:
                    param.add_(param, alpha=-group["weight_decay"] * rate)
                param.addcdiv_(state["exp_avg"], root, value=-rate)
        return loss

    def _estimate(self, numerator: float, denominator: float) -> None:
        first = self.param_groups[0]
        d, d_max = first["d"], first["d_max"]
        numerator += _beta3(first) * first["d_numerator"]
        estimate = first["d_coef"] * numerator / denominator
        if d == first["d0"]:
            d = max(d, estimate)
        d_max = max(d_max, estimate)
        d = min(d_max, d * first["growth_rate"])
        self._set_estimate(first["k"] + 1, d, d_max, numerator)

    def _set_estimate(self, *values: float) -> None:
        for group in self.param_groups:
            group.update(zip(_ESTIMATE, values))

    def _check_groups(self) -> None:
        first = self.param_groups[0]
        for group in self.param_groups[1:]:
            for name in _SHARED:
                if group[name] != first[name]:
                    raise ValueError(
                        f"{name} must be the same in all param groups, which share one distance; "
                        f"got {first[name]!r} and {group[name]!r}"
                    )


class Prodigy(NativeStep, TorchProdigy):
    """Adam that estimates its learning rate from how far the parameters have come.

    With gradient g, parameter p and its start p0, distance d and r = d lr:

        m = beta1 m + (1 - beta1) d g
        v = beta2 v + (1 - beta2) d^2 g^2
        s = beta3 s + (d / d0) r g              (d in the place of r: `safeguard_warmup`)
        n = beta3 n + (d / d0) r sum g (p0 - p)
        d' = max(d, d_coef n / sum |s|)         (at most growth_rate d)
        p = p - r (m / (sqrt(v) + d' eps) + weight_decay p)

    as the authors' code has algorithm 4 of Mishchenko and Defazio, 2023, arXiv:2306.06101,
    with d at its largest estimate once it has left d0. The sums run over all parameters of
    all groups, in float64, so groups may differ only in eps, weight decay and maximize. `k`,
    `d`, `d_max` and `d_numerator`, the same in all groups, are what state dicts carry of the
    estimate. A step is two passes over memory; parameters of several dtypes have no kernel.
    `TorchProdigy` is the same in torch's operators: see `fallback_reason`.

    Args:
        params: Parameters, or groups of them.
        lr: Factor of the estimated rate, at least 0, for a schedule; 1 is the authors'. A step
            at 0 does nothing.
        betas: Decays of the moments m and v, in [0, 1).
        beta3: Decay of s and n, in [0, 1); None for the square root of beta2.
        eps: Added to the denominator, at least 0.
        weight_decay: At least 0.
        decouple: Whether weight decay shrinks p, or joins g.
        use_bias_correction: Whether r has Adam's bias corrections.
        safeguard_warmup: Whether to keep lr out of s, for schedules that warm up.
        d0: First distance, above 0.
        d_coef: Factor of the estimate, above 0.
        growth_rate: How many times larger a step may make d, at least 1.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range; at a step, if groups differ.
    """

    options = (*_SHARED, "eps", "weight_decay", "decouple", "maximize", *_ESTIMATE)
    step_name = None

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        self._check_groups()
        if len({param.dtype for group in self.param_groups for param in group["params"]}) > 1:
            raise UnsupportedError("the parameters have several dtypes")
        return "PRODIGY"

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `Prodigy`."""
        names = ["eps", "weight_decay", "d0", "d_coef", "growth_rate", "decouple"]
        names += ["use_bias_correction", "safeguard_warmup", "maximize"]
        values = [group["lr"], *group["betas"], _beta3(group), *(group[name] for name in names)]
        # A group that was added late learns of the estimate here.
        values += [self.param_groups[0][name] for name in _ESTIMATE]
        return tuple(map(float, values))

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the averages and of the parameter's start."""
        return ("exp_avg", "exp_avg_sq", "s", "p0")

    def _run_plan(
        self, around: Around, average: WeightAverage | None = None, *, is_skipped: bool = False
    ) -> int | None:
        outcome = super()._run_plan(around, average, is_skipped=is_skipped)
        if outcome == Outcome.DONE and not is_skipped:
            assert self._plan is not None
            k, *values = self._plan.hyperparameters(0)[-len(_ESTIMATE) :]
            self._set_estimate(int(k), *values)
            self._plan.take_values()
        return outcome


def _beta3(group: dict[str, Any]) -> float:
    beta3: float | None = group["beta3"]
    return math.sqrt(group["betas"][1]) if beta3 is None else beta3
