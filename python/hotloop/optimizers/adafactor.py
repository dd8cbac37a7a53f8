"""Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235) with Mojo kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hotloop.optimizers.elementwise import ElementwiseStep
from hotloop.optimizers.plan import StateLayout, UnsupportedError

__all__ = ["Adafactor"]

# The elements of a part: enough to hide what a part costs beside them, and few enough to
# share a matrix among threads. A part has scratch for a float64 of each column, which its
# rows outnumber.
_PART = 32768
_PART_ROWS = 32


class Adafactor(ElementwiseStep, torch.optim.Adafactor):
    """`torch.optim.Adafactor`, with the step in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's. With gradient g and parameter
    p at step t, and the last dimension as the columns of matrices with R rows and C columns:

        b = t^beta2_decay
        row_i = (1 - b) row_i + b sum_j g_ij^2 / C
        col_j = (1 - b) col_j + b sum_i g_ij^2 / R
        v_ij = row_i col_j / max(mean_i row_i, eps[0])
        u = g / max(sqrt(v), eps[0])
        p = (1 - lr weight_decay) p
            - min(lr, 1 / sqrt(t)) max(eps[1], RMS(p)) u / max(1, RMS(u) / d)

    Parameters of fewer than two dimensions have v = (1 - b) v + b g^2 instead. This is
    algorithm 4 of Shazeer and Stern, 2018, arXiv:1804.04235, with torch's variations: where
    eps[0] enters, a largest relative step `lr` that also scales the decoupled weight decay,
    and means in the place of sums. Defaults are torch's: lr 0.01, beta2_decay -0.8, eps
    (None, 0.001), d 1, weight_decay 0; None is the dtype's epsilon.

    Sums run in float64 over fixed parts, and one root of each row and column stands for that
    of each element, so float32 results are torch's to some roundings, not to the bit.
    bfloat16 parameters are rounded once a step, and torch's after each operator. A step
    reads a gradient three times, twice where a matrix fits in a part, and a parameter twice.
    Parameters without elements, which torch divides by, stay. Whatever has no kernel runs on
    torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range; the error is torch's.
    """

    fields = ("lr", "beta2_decay", "eps", "d", "weight_decay", "maximize")
    torch_options = ()
    kernel_name = "ADAFACTOR"
    tensor_names = ("variance",)

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the kernel for vectors."""
        if group["eps"][0] is None and len({param.dtype for param in group["params"]}) > 1:
            raise UnsupportedError("eps[0]=None in a group of several dtypes")
        return super().kernel(group)

    def param_kernel(self, kernel: str, param: Tensor) -> str:
        """Return the name of the kernel for one parameter."""
        if param.dim() < 2:
            return kernel
        return f"{kernel}_POINTS" if param.shape[-2:] == (1, 1) else f"{kernel}_FACTORED"

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of Mojo's `Adafactor`."""
        eps1, eps2 = group["eps"]
        if eps1 is None:
            dtypes = [param.dtype for param in group["params"] if param.is_floating_point()]
            eps1 = torch.finfo(dtypes[0]).eps if dtypes else 0.0
        return super().hyperparameters({**group, "eps": (eps1, eps2)})

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the second moments of rows and columns, or of the elements of vectors."""
        if param.dim() < 2:
            return super().state_layouts(param, group)
        if not param.numel():
            return {}
        rows, columns = param.shape[-2:]
        return {
            "row_var": StateLayout(param.dtype, columns),
            "col_var": StateLayout(param.dtype, rows),
        }

    def parts(self, param: Tensor) -> int:
        """Return how many parts a matrix, or a stack of them, is divided into."""
        if param.dim() < 2 or not param.numel() or param.shape[-2:] == (1, 1):
            return 0
        rows, columns = param.shape[-2:]
        matrices = param.numel() // (rows * columns)
        wanted = -(-param.numel() // _PART)
        if wanted <= matrices:
            return wanted
        return matrices * min(-(-wanted // matrices), -(-rows // _PART_ROWS))

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a step count of 0 and second moments of zero."""
        if param.dim() < 2:
            return super().create_state(param, group)
        *batch, rows, columns = param.shape
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "row_var": param.new_zeros((*batch, rows, 1)),
            "col_var": param.new_zeros((*batch, 1, columns)),
        }

    @contextmanager
    def _exact_fallback(self) -> Iterator[None]:
        params = (param for group in self.param_groups for param in group["params"])
        empty = [(p, p.grad) for p in params if p.grad is not None and not p.numel()]
        try:
            for param, _ in empty:
                param.grad = None
            yield
        finally:
            for param, grad in empty:
                param.grad = grad
