"""A model that trains in no time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TinyModel"]


class TinyModel(nn.Module):
    """A network of one hidden layer: 3 inputs, 4 hidden units with tanh, 2 outputs, in float64.

    Args:
        seed: Of the parameters, which are drawn from the standard normal distribution and
            halved, and of the batches. Global generators have no part in it.

    Attributes:
        hidden: The first layer.
        output: The second layer.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed = seed
        generator = torch.Generator().manual_seed(seed)
        # On the meta device nothing is drawn.
        self.hidden = nn.Linear(3, 4, device="meta", dtype=torch.float64).to_empty(device="cpu")
        self.output = nn.Linear(4, 2, device="meta", dtype=torch.float64).to_empty(device="cpu")
        with torch.no_grad():
            for param in self.parameters():
                param.normal_(0, 0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs of shape (rows, 3) to outputs of shape (rows, 2)."""
        output: Tensor = self.output(torch.tanh(self.hidden(x)))
        return output

    def batches(self, count: int, rows: int = 4) -> list[tuple[Tensor, Tensor]]:
        """Return data to train on, the same at each call.

        Args:
            count: How many batches.
            rows: Samples of each.

        Returns:
            Pairs of standard normal inputs, of shape (rows, 3), and targets, of shape
            (rows, 2): the sums of the inputs and of their squares.
        """
        generator = torch.Generator().manual_seed(self._seed + 1)
        inputs = [
            torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(count)
        ]
        return [(x, torch.stack((x.sum(1), (x * x).sum(1)), 1)) for x in inputs]
