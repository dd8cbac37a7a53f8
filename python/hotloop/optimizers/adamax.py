"""Adamax (Kingma and Ba, 2014, arXiv:1412.6980) with Mojo kernels."""

from __future__ import annotations

import torch

from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["Adamax"]


class Adamax(ElementwiseStep, torch.optim.Adamax):
    """`torch.optim.Adamax`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g
    (plus `weight_decay` times the parameter p), moment m and norm u at step t:

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p = p - lr / (1 - beta1^t) m / u

    (Kingma and Ba, 2014, arXiv:1412.6980).

    float32 and float64 parameters have the bits of torch's single-tensor loop;
    bfloat16 ones are rounded once a step, and torch's after each operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "betas", "eps", "weight_decay", "maximize")
    kernel_name = "ADAMAX"
    tensor_names = ("exp_avg", "exp_inf")
