"""RAdam (Liu et al., 2019, arXiv:1908.03265) with Mojo kernels."""

from __future__ import annotations

import torch

from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["RAdam"]


class RAdam(ElementwiseStep, torch.optim.RAdam):
    """`torch.optim.RAdam`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g (plus
    `weight_decay` times the parameter p, unless decoupled) and Adam's moments m and v, whose
    corrections are c1 and c2 at step t:

        rho = rho_inf - 2 t beta2^t / c2, rho_inf = 2 / (1 - beta2) - 1
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        p = p - lr m / c1 r sqrt(c2) / (sqrt(v) + eps) if rho > 5 else p - lr m / c1

    (Liu et al., 2019, arXiv:1908.03265). `decoupled_weight_decay` first multiplies p by
    1 - lr weight_decay.

    float32 and float64 parameters have the bits of torch's single-tensor loop but for
    its square roots, which come from MKL and are 1 ulp off in some 0.8 % of cases; the
    kernel's are not. bfloat16 parameters are rounded once a step, and torch's after each
    operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize")
    kernel_name = "RADAM"
    tensor_names = ("exp_avg", "exp_avg_sq")
