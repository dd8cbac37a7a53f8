"""Stochastic gradient descent with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.memory import full_like
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import UnsupportedError

__all__ = ["SGD"]


class SGD(NativeStep, torch.optim.SGD):
    """`torch.optim.SGD`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g (plus
    `weight_decay` times the parameter p) and buffer b, which starts as the first g:

        b = momentum b + (1 - dampening) g
        p = p - lr (g + momentum b if nesterov else b)

    Nesterov's variant follows Sutskever et al., 2013, "On the importance of
    initialization and momentum in deep learning". Whatever has no kernel runs on torch:
    see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    options = (
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
        "maximize",
        "differentiable",
    )
    step_name = None

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        if group["differentiable"]:
            raise UnsupportedError("differentiable=True")
        if group["momentum"] == 0:
            return "SGD"
        return "SGD_NESTEROV" if group["nesterov"] else "SGD_MOMENTUM"

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `SGD`."""
        names = ("lr", "momentum", "dampening", "weight_decay", "maximize")
        return tuple(float(group[name]) for name in names)

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the name of the buffer, if there is momentum."""
        return () if group["momentum"] == 0 else ("momentum_buffer",)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a buffer that turns into the first gradient when that is added."""
        # -0.0 is the one start that leaves both signs of a zero gradient alone.
        return {name: full_like(param, -0.0) for name in self.state_names(group)}
