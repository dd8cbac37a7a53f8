"""Adagrad (Duchi, Hazan and Singer, 2011) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.memory import full_like
from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["Adagrad"]


class Adagrad(ElementwiseStep, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g
    (plus `weight_decay` times the parameter p) and sum of squares s at step t:

        s = s + g^2
        p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    (Duchi, Hazan and Singer, 2011, JMLR 12).

    float32 and float64 parameters have the bits of torch's single-tensor loop but for
    its square roots, which come from MKL and are 1 ulp off in some 0.8 % of cases; the
    kernel's are not. bfloat16 parameters are rounded once a step, and torch's after each
    operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value", "maximize")
    torch_options = ("differentiable",)
    kernel_name = "ADAGRAD"
    tensor_names = ("sum",)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return torch's state, which its constructor makes for all parameters it is given."""
        # Not the group's own value, which torch ignores.
        start = full_like(param, self.defaults["initial_accumulator_value"])
        return {"step": torch.zeros((), dtype=torch.float32), "sum": start}
