"""Lion (Chen et al., 2023, arXiv:2302.06675) with an 8-bit momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.optimizers.blockwise import SIGNED, BlockwiseKernels, BlockwiseReference
from hotloop.optimizers.lion import lion_step
from hotloop.optimizers.reference import check_at_least, check_betas

__all__ = ["Lion8bit", "TorchLion8bit"]


class TorchLion8bit(BlockwiseReference):
    """`Lion8bit` without kernels."""

    codes = {"exp_avg": SIGNED}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, weight_decay=weight_decay)
        check_betas(betas)
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def update_wide(
        self,
        param: Tensor,
        grad: Tensor,
        moments: list[Tensor],
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """Take Lion's step."""
        lion_step(param, grad, moments[0], group)


class Lion8bit(BlockwiseKernels, TorchLion8bit):
    """Lion whose momentum takes one byte an element, with the step in Mojo on CPU tensors.

    With gradient g, parameter p and momentum m:

        p = (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    computed in float32. Between steps m is kept in the dynamic tree code (see `TreeCode`),
    relative to the largest size in each block of 256 elements (Dettmers et al., 2021,
    arXiv:2110.02861).

    State of a parameter with n elements: `exp_avg`, uint8 of the parameter's shape, and
    `exp_avg_absmax`, float32 of ceil(n / 256) elements: 1.02 bytes an element, against 4.
    Parameters of fewer than 4096 elements keep `exp_avg` in float32.

    The sign of NaN is NaN. If the new m is infinite or NaN, its block's absmax becomes NaN:
    from the next step on all 256 elements are NaN.

    Parameters may be float32 or bfloat16; others run on torch, see `fallback_reason`.
    Both give equal bits.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0.
        betas: The weight of m in the sign, and its decay, in [0, 1).
        weight_decay: The decoupled weight decay, at least 0.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    options = ("lr", "betas", "weight_decay", "maximize")
    step_name = None
    coded_kernel = "LION_8BIT"
    small_kernels = {torch.float32: "LION", torch.bfloat16: "LION_WIDE_STATE"}

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `Lion`."""
        beta1, beta2 = group["betas"]
        values = (group["lr"], beta1, beta2, group["weight_decay"])
        return (*map(float, values), float(group["maximize"]))
