"""What optimizers that torch lacks are made of: a plain torch implementation of each.

It is what runs where there is no kernel, and what the tests compare the kernels with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Reference", "check_at_least", "check_betas"]


class Reference(torch.optim.Optimizer):
    """An optimizer whose rule updates one parameter at a time with torch's operators.

    Groups have a "maximize" option. Sparse gradients are refused.
    """

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter before its first step."""
        raise NotImplementedError

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update one parameter and its state in place.

        Args:
            param: The parameter.
            grad: Its gradient, negated if the group maximizes; not to be written to.
            state: What `create_state` made, and earlier calls changed.
            group: The param group.
        """
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter by its gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                state = self.state[param]
                if not state:
                    state.update(self.create_state(param, group))
                grad = -param.grad if group["maximize"] else param.grad
                self.update(param, grad, state, group)
        return loss


def check_at_least(least: float, **values: float | Tensor) -> None:
    """Raise a ValueError that names the first value below `least`, infinite or NaN."""
    for name, value in values.items():
        if not least <= float(value) < math.inf:
            raise ValueError(f"{name} must be at least {least} and finite, got {value!r}")


def check_betas(betas: tuple[float, ...], count: int = 2) -> None:
    """Raise a ValueError unless `betas` are `count` numbers in [0, 1)."""
    if len(betas) != count or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be {count} numbers in [0, 1), got {betas!r}")
