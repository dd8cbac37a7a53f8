"""NAdam (Dozat, 2016) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["NAdam"]


class NAdam(ElementwiseStep, torch.optim.NAdam):
    """`torch.optim.NAdam`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g (plus
    `weight_decay` times the parameter p, unless decoupled) and Adam's moments m and v:

        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
        d = sqrt(v / (1 - beta2^t)) + eps
        p = p - lr ((1 - mu_t) / (1 - mu_1 ... mu_t) g
                    + mu_{t+1} / (1 - mu_1 ... mu_{t+1}) m) / d

    (Dozat, 2016, ICLR workshop, "Incorporating Nesterov momentum into Adam").
    `decoupled_weight_decay` first multiplies p by 1 - lr weight_decay.

    float32 and float64 parameters have the bits of torch's single-tensor loop but for
    its square roots, which come from MKL and are 1 ulp off in some 0.8 % of cases; the
    kernel's are not. bfloat16 parameters are rounded once a step, and torch's after each
    operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "momentum_decay",
        "decoupled_weight_decay",
        "maximize",
    )
    kernel_name = "NADAM"
    tensor_names = ("exp_avg", "exp_avg_sq")
    scalar_names = ("mu_product",)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return torch's state: the product of momenta starts at 1."""
        product = torch.ones((), dtype=torch.float32)
        return super().create_state(param, group) | {"mu_product": product}
