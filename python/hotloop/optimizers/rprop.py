"""Rprop (Riedmiller and Braun, 1993) with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.memory import full_like
from hotloop.optimizers.elementwise import ElementwiseStep

__all__ = ["Rprop"]


class Rprop(ElementwiseStep, torch.optim.Rprop):
    """`torch.optim.Rprop`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g, the one
    before it g' and step size s of each element:

        s = s etaplus where g g' > 0, s etaminus where g g' < 0, within `step_sizes`
        g = 0 where g g' < 0
        p = p - sign(g) s

    (Riedmiller and Braun, 1993, "A direct adaptive method for faster backpropagation
    learning"), without backtracking.

    float32 and float64 parameters have the bits of torch's single-tensor loop;
    bfloat16 ones are rounded once a step, and torch's after each operator.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "etas", "step_sizes", "maximize")
    kernel_name = "RPROP"
    tensor_names = ("prev", "step_size")

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return torch's state: step sizes start at the learning rate."""
        sizes = full_like(param, float(group["lr"]))
        return super().create_state(param, group) | {"step_size": sizes}
