"""What an optimizer tells a plan, as tables, if its state is like its parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hotloop.memory import full_like
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import UnsupportedError

__all__ = ["ElementwiseStep"]


class ElementwiseStep(NativeStep):
    """A `NativeStep` with one kernel, float32 steps and state that starts at zero."""

    #: Name of the kernel.
    kernel_name: ClassVar[str]
    #: The options that are the fields of the Mojo rule, in order; tuples are flattened.
    fields: ClassVar[tuple[str, ...]]
    #: The options that only torch's own step knows.
    torch_options: ClassVar[tuple[str, ...]] = ("capturable", "differentiable")
    #: The options that choose among kernels.
    kernel_options: ClassVar[tuple[str, ...]] = ()
    #: Names of the state tensors, in the kernel's order.
    tensor_names: ClassVar[tuple[str, ...]]

    step_name: str | None = "step"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "fields" in cls.__dict__:
            cls.options = (*cls.fields, *cls.torch_options, *cls.kernel_options)

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        for option in self.torch_options:
            if group[option]:
                raise UnsupportedError(f"{option}=True")
        return self.kernel_name

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of the Mojo rule."""
        numbers: list[float] = []
        for name in self.fields:
            value = group[name]
            numbers += map(float, value if isinstance(value, (tuple, list)) else (value,))
        return tuple(numbers)

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the state tensors."""
        return self.tensor_names

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, here or in torch.

        One-element state keeps its dtype, where torch casts it to the parameter's and so
        rounds what belongs to bfloat16 parameters.
        """
        super().load_state_dict(state_dict)
        for saved, group in zip(state_dict["param_groups"], self.param_groups):
            for key, param in zip(saved["params"], group["params"]):
                for name in self.scalar_names:
                    value = state_dict["state"].get(key, {}).get(name)
                    if isinstance(value, Tensor):
                        self.state[param][name] = value.to(param.device, copy=True)

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a step count of 0 and state tensors of zeros."""
        tensors = {name: full_like(param, 0.0) for name in self.state_names(group)}
        return {"step": torch.zeros((), dtype=torch.float32), **tensors}
