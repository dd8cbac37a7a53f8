"""AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101) with Mojo kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hotloop.optimizers.adam import AdamKernels, check_state_dtype

__all__ = ["AdamW"]


class AdamW(AdamKernels, torch.optim.AdamW):
    """`torch.optim.AdamW`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's, but for the last three. With
    gradient g and parameter p at step t:

        p = (1 - lr weight_decay) p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    `amsgrad` puts the largest v so far in the place of v. float32, float64 and bfloat16
    parameters get the bits of `torch.optim.AdamW(fused=True)`, on either backend.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable,
            differentiable, fused: As torch's.
        fast_math: Whether float32 and bfloat16 parameters may be updated with approximate
            square roots and divisions: the change of a parameter in one step is off by at
            most 2^-19 of itself. AMSGrad, eps = 0, torch, and 16-bit parameters with one of
            the following stay exact.
        state_dtype: torch.float32 to keep the moments of bfloat16 and float16 parameters in
            float32; None for the parameter's dtype, as torch's.
        master_weights: Whether to keep such parameters in float32, too: `state["master"]`
            gets the bits of the optimizer on float32, and the parameter is what it rounds
            to. What is written to the parameter between steps is lost.

    Raises:
        ValueError: If `state_dtype` is neither None nor torch.float32, or another
            hyperparameter is out of range; that error is torch's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        fast_math: bool = False,
        state_dtype: torch.dtype | None = None,
        master_weights: bool = False,
    ) -> None:
        check_state_dtype(state_dtype)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self._add_own_options(
            fast_math=fast_math, state_dtype=state_dtype, master_weights=master_weights
        )
