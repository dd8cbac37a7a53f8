"""Adadelta (Zeiler, 2012, arXiv:1212.5701) with Mojo kernels."""

from __future__ import annotations

import torch

from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["Adadelta"]


class Adadelta(ElementwiseStep, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g
    (plus `weight_decay` times the parameter p), mean squares v and d:

        v = rho v + (1 - rho) g^2
        u = sqrt(d + eps) / sqrt(v + eps) g
        d = rho d + (1 - rho) u^2
        p = p - lr u

    (Zeiler, 2012, arXiv:1212.5701).

    float32 and float64 parameters have the bits of torch's single-tensor loop but for
    its square roots, which come from MKL and are 1 ulp off in some 0.8 % of cases; the
    kernel's are not. bfloat16 parameters are rounded once a step, and torch's after each
    operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "rho", "eps", "weight_decay", "maximize")
    kernel_name = "ADADELTA"
    tensor_names = ("square_avg", "acc_delta")
