"""State dicts of optimizers whose state has other dtypes than the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotloop.optimizers.plan import StateLayout

__all__ = ["LayoutStateDict"]


class LayoutStateDict(torch.optim.Optimizer):
    """Loads each state tensor in the dtype of its `StateLayout`.

    torch's `load_state_dict` casts state to the parameter's dtype, which rounds float32 state
    of bfloat16 parameters, and turns codes into floats.
    """

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the state tensors of a parameter by name."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: If a state tensor has another number of elements than this optimizer
                keeps for the parameter, or is missing, or the groups do not fit; nothing
                has been loaded then.
        """
        states: list[tuple[Tensor, dict[str, Tensor]]] = []

        # As a hook it sees what other hooks made of the state dict.
        def read(_: Any, loaded: dict[str, Any]) -> None:
            groups = loaded["param_groups"]
            for group, own in zip(groups, self.param_groups):
                group = {**own, **group}
                for key, param in zip(group["params"], own["params"]):
                    state = loaded["state"].get(key)
                    if state:
                        states.append((param, self._read_state(param, group, state)))

        hook = self.register_load_state_dict_pre_hook(read)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        for param, tensors in states:
            self.state[param].update(tensors)

    def _read_state(
        self, param: Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> dict[str, Tensor]:
        tensors = {}
        for name, layout in self.state_layouts(param, group).items():
            value, numel = state.get(name), layout.numel(param)
            # Codes of another optimizer would be numbers of another meaning.
            if (
                not isinstance(value, Tensor)
                or value.numel() != numel
                or value.dtype.is_floating_point != layout.dtype.is_floating_point
            ):
                found = f"{value.dtype} with {value.numel()}" if isinstance(value, Tensor) else "no"
                raise ValueError(
                    f"{name} of a parameter with {param.numel()} elements must be "
                    f"{layout.dtype} with {numel} elements in {type(self).__name__}, got "
                    f"{found} elements"
                )
            tensors[name] = value.to(param.device, layout.dtype)
        return tensors
