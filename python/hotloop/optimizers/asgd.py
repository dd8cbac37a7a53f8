"""Averaged SGD (Polyak and Juditsky, 1992) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["ASGD"]


class ASGD(ElementwiseStep, torch.optim.ASGD):
    """`torch.optim.ASGD`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g (plus
    `weight_decay` times the parameter p) and average a, at step t:

        p = (1 - lambd eta) p - eta g
        a = a + mu (p - a)
        eta = lr / (1 + lambd lr t)^alpha, mu = 1 / max(1, t - t0)

    where the first eta is lr and the first mu 1 (Polyak and Juditsky, 1992, "Acceleration
    of stochastic approximation by averaging").

    float32 and float64 parameters have the bits of torch's single-tensor loop;
    bfloat16 ones are rounded once a step, and torch's after each operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "lambd", "alpha", "t0", "weight_decay", "maximize")
    kernel_name = "ASGD"
    tensor_names = ("ax",)
    scalar_names = ("eta", "mu")

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return torch's state: eta starts at the learning rate, mu at 1."""
        rates = {"eta": float(group["lr"]), "mu": 1.0}
        return super().create_state(param, group) | {
            name: torch.tensor(rate, dtype=torch.float32) for name, rate in rates.items()
        }
