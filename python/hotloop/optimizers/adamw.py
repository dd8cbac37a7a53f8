"""AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101) with Mojo kernels."""

from __future__ import annotations

import torch

from hotloop.optimizers.adam import AdamKernels

__all__ = ["AdamW"]


class AdamW(AdamKernels, torch.optim.AdamW):
    """`torch.optim.AdamW`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g and
    parameter p at step t:

        p = (1 - lr weight_decay) p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    `amsgrad` puts the largest v so far in the place of v. Two keywords are not torch's, and
    matter to bfloat16 and float16 parameters alone:

    - `state_dtype=torch.float32` keeps m, v and the largest v in float32; the default,
      None, in the parameter's dtype.
    - `master_weights=True` keeps the parameter itself in float32 as well, in
      `state["master"]`, which gets the bits of AdamW on float32. The parameter is what it
      rounds to, and what is written to it between steps is lost.

    Otherwise float32, float64 and bfloat16 parameters get the bits of
    `torch.optim.AdamW(fused=True)`, on either backend. Whatever has no kernel runs on
    torch: see `fallback_reason`.

    Raises:
        ValueError: If `state_dtype` is neither None nor torch.float32, or another
            hyperparameter is out of range; that error is torch's.
    """

    kernel_name = "ADAMW"
