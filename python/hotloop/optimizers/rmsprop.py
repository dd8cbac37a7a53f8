"""RMSprop (Tieleman and Hinton, 2012) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch

from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["RMSprop"]


class RMSprop(ElementwiseStep, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g
    (plus `weight_decay` times the parameter p) and mean square v:

        v = alpha v + (1 - alpha) g^2
        u = g / (sqrt(v) + eps)
        p = p - lr u, or with momentum b = momentum b + u and p = p - lr b

    (Tieleman and Hinton, 2012, Coursera lecture 6.5). `centered` puts v - a^2 in the place
    of v, with the mean gradient a (Graves, 2013, arXiv:1308.0850).

    float32 and float64 parameters have the bits of torch's single-tensor loop but for
    its square roots, which come from MKL and are 1 ulp off in some 0.8 % of cases; the
    kernel's are not. bfloat16 parameters are rounded once a step, and torch's after each
    operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "alpha", "eps", "weight_decay", "momentum", "maximize")
    kernel_options = ("centered",)
    kernel_name = "RMSPROP"

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        name = f"{super().kernel(group)}_CENTERED" if group["centered"] else super().kernel(group)
        return f"{name}_MOMENTUM" if group["momentum"] > 0 else name

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the averages and of the buffer."""
        names = ["square_avg"]
        names += ["grad_avg"] if group["centered"] else []
        names += ["momentum_buffer"] if group["momentum"] > 0 else []
        return tuple(names)
