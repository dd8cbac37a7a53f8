"""AdamW with 8-bit moments (Dettmers et al., 2021, arXiv:2110.02861)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from hotloop.optimizers.blockwise import (
    SIGNED,
    UNSIGNED,
    BlockwiseKernels,
    BlockwiseReference,
)
from hotloop.optimizers.reference import check_at_least, check_betas

__all__ = ["AdamW8bit", "TorchAdamW8bit"]


class TorchAdamW8bit(BlockwiseReference):
    """`AdamW8bit` without kernels: torch's AdamW between decoding and encoding."""

    codes = {"exp_avg": SIGNED, "exp_avg_sq": UNSIGNED}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        fast_math: bool = False,
    ) -> None:
        check_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas(betas)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "fast_math": fast_math,
        }
        super().__init__(params, defaults)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a step count of 0 and moments of zero."""
        return {"step": torch.zeros((), dtype=torch.float32), **super().create_state(param, group)}

    def update_wide(
        self,
        param: Tensor,
        grad: Tensor,
        moments: list[Tensor],
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """Call torch's AdamW."""
        exp_avg, exp_avg_sq = moments
        beta1, beta2 = group["betas"]
        is_on_cpu = param.device.type == "cpu"
        adamw(
            [param],
            [grad],
            [exp_avg],
            [exp_avg_sq],
            [],
            [state["step"]],
            # Which rounds as the kernels do.
            fused=True if is_on_cpu else None,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


class AdamW8bit(BlockwiseKernels, TorchAdamW8bit):
    """AdamW whose moments take one byte an element, with the step in Mojo on CPU tensors.

    The formula is that of `hotloop.optimizers.AdamW`, computed in float32. Between steps
    the moments are kept in the dynamic tree code (see `TreeCode`), relative to the largest
    size in each block of 256 elements (Dettmers et al., 2021, arXiv:2110.02861). A step
    updates the parameters with the moments before they are rounded to codes.

    State of a parameter with n elements: `step`, float32; `exp_avg` and `exp_avg_sq`, uint8
    of the parameter's shape; `exp_avg_absmax` and `exp_avg_sq_absmax`, float32 of
    ceil(n / 256) elements: 2.03 bytes an element, against 8. Parameters of fewer than 4096
    elements keep `exp_avg` and `exp_avg_sq` in float32.

    If a new moment is infinite or NaN, so is the parameter's element as in AdamW, and its
    block's absmax becomes NaN: from the next step on all 256 elements are NaN.

    Parameters may be float32 or bfloat16; others run on torch, see `fallback_reason`.
    Both give equal bits, unless `fast_math` asks for less.

    Args:
        params: The parameters, or param groups.
        lr: The learning rate, at least 0.
        betas: The decays of the two moments, in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: The decoupled weight decay, at least 0.
        maximize: Whether to climb instead of descend.
        fast_math: Whether the kernel may approximate square root and division, as in
            `AdamW`, where the moments are codes and eps is above 0.

    Raises:
        ValueError: If a hyperparameter is out of range.
    """

    options = ("lr", "betas", "eps", "weight_decay", "maximize", "fast_math")
    step_name = "step"
    coded_kernel = "ADAMW_8BIT"
    small_kernels = {torch.float32: "ADAMW", torch.bfloat16: "ADAMW_WIDE_STATE"}

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the kernel for coded state."""
        is_fast = group["fast_math"] and group["eps"] > 0
        return f"{self.coded_kernel}_FAST" if is_fast else self.coded_kernel

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `Adam`."""
        beta1, beta2 = group["betas"]
        values = (group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
        return (*map(float, values), float(group["maximize"]))
