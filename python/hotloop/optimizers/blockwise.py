"""What optimizers with 8-bit state have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hotloop.layout import BLOCK
from hotloop.memory import full_like
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import StateLayout, UnsupportedError
from hotloop.optimizers.reference import Reference
from hotloop.optimizers.state_dict import LayoutStateDict
from hotloop.optimizers.tree_code import TreeCode, from_blocks, to_blocks

__all__ = ["MIN_CODED", "SIGNED", "UNSIGNED", "BlockwiseKernels", "BlockwiseReference"]

#: Parameters of fewer elements keep float32 state: biases and norms, which are few and, as
#: bitsandbytes found, are worth the precision.
MIN_CODED = 4096

SIGNED = TreeCode(signed=True)
UNSIGNED = TreeCode(signed=False)


class BlockwiseReference(LayoutStateDict, Reference):
    """A rule on float32 numbers, with state that is kept in codes between steps."""

    #: The state tensors and their codes, in the kernel's order.
    codes: ClassVar[dict[str, TreeCode]]

    def update_wide(
        self,
        param: Tensor,
        grad: Tensor,
        moments: list[Tensor],
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """Update a parameter and its moments in place, all decoded and of one float dtype.

        Args:
            param: The parameter.
            grad: Its gradient, not to be written to.
            moments: What `codes` names, decoded.
            state: Whatever else the rule keeps.
            group: The param group.
        """
        raise NotImplementedError

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the codes and the largest sizes, or float32 state of small parameters."""
        if param.numel() < MIN_CODED:
            return dict.fromkeys(self.codes, StateLayout(torch.float32))
        scales = {_scale_name(name): StateLayout(torch.float32, BLOCK) for name in self.codes}
        return dict.fromkeys(self.codes, StateLayout(torch.uint8)) | scales

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return moments of zero."""
        if param.numel() < MIN_CODED:
            return {name: full_like(param, 0, torch.float32) for name in self.codes}
        blocks = -(-param.numel() // BLOCK)
        state = {
            name: full_like(param, code.zero, torch.uint8) for name, code in self.codes.items()
        }
        for name in self.codes:
            state[_scale_name(name)] = torch.zeros(blocks, device=param.device)
        return state

    def update(
        self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Decode, update and encode."""
        wide = torch.promote_types(param.dtype, torch.float32)
        is_coded = param.numel() >= MIN_CODED
        arrange = to_blocks if is_coded else torch.ravel
        moments = [
            code.decode(to_blocks(state[name], code.zero), state[_scale_name(name)])
            if is_coded
            else state[name].ravel()
            for name, code in self.codes.items()
        ]
        moments = [moment.to(wide) for moment in moments]
        updated = arrange(param).to(wide)
        self.update_wide(updated, arrange(grad).to(wide), moments, state, group)
        from_blocks(updated, param)
        for (name, code), moment in zip(self.codes.items(), moments):
            if is_coded:
                moment, scales = code.encode(moment.float())
                state[_scale_name(name)].copy_(scales)
            from_blocks(moment, state[name])


class BlockwiseKernels(NativeStep):
    """What optimizers with 8-bit state tell a plan, before their `BlockwiseReference`."""

    codes: ClassVar[dict[str, TreeCode]]
    #: The kernels of coded state, and of float32 state by the dtype of the parameter.
    coded_kernel: str
    small_kernels: ClassVar[dict[torch.dtype, str]]

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the kernel for coded state."""
        return self.coded_kernel

    def param_kernel(self, kernel: str, param: Tensor) -> str:
        """Return the name of the kernel for one parameter."""
        if param.dtype == torch.float64:
            raise UnsupportedError("float64 parameters with 8-bit state")
        if param.numel() >= MIN_CODED:
            return kernel
        return self.small_kernels.get(param.dtype, kernel)

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the moments."""
        return tuple(self.codes)

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the layouts of the reference."""
        layouts: dict[str, StateLayout] = BlockwiseReference.state_layouts(self, param, group)  # type: ignore[arg-type]
        return layouts


def _scale_name(name: str) -> str:
    return f"{name}_absmax"
