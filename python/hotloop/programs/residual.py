"""A shortcut around other layers."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Residual"]


class Residual(nn.Module):
    """`x + inner(x)` (arXiv:1512.03385).

    Args:
        inner: A module whose outputs have the shape of its inputs.

    Shape:
        Inputs and outputs: the same, that of `inner`.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum.

        Raises:
            ValueError: If the outputs have another shape.
        """
        y: Tensor = self.inner(x)
        if y.shape != x.shape:
            raise ValueError(
                f"inner must keep the shape of its inputs, got {tuple(y.shape)} from "
                f"{tuple(x.shape)}"
            )
        return x + y
