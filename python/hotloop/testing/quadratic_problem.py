"""A problem of which everything is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["QuadraticProblem"]


class QuadraticProblem(nn.Module):
    """The noisy quadratic `f(x) = 0.5 * x^T diag(h) x`, whose optimum is 0.

    Called with draws z of standard normal noise, one a row, the module returns the loss
    `f(x) + noise * mean(z) @ x`. Its gradient has the mean `h * x` and the covariance
    `noise^2 / rows` times the identity. A trainer without a loss trains it on `batches`.

    Args:
        h: The curvatures, above 0.
        noise: Standard deviation of each element of a single sample's gradient, at least 0.
        seed: Of the first point, which is drawn from the standard normal distribution, and of
            the batches. Global generators have no part in it.

    Attributes:
        x: The point, a float64 parameter of shape (n,).
        h: The curvatures, of shape (n,), float64.

    Raises:
        ValueError: If an argument is out of range.
    """

    h: Tensor

    def __init__(self, h: Sequence[float], noise: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if not h or not all(0 < each < math.inf for each in h):
            raise ValueError(f"h must hold numbers above 0, got {h!r}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {noise!r}")
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("h", torch.tensor(h, dtype=torch.float64))
        self.x = nn.Parameter(torch.randn(len(h), generator=generator, dtype=torch.float64))
        self._noise = noise
        self._seed = seed

    def forward(self, z: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            z: Draws of noise, of shape (rows, n).

        Returns:
            A scalar.
        """
        return self.value(self.x) + self._noise * z.mean(0) @ self.x

    def value(self, x: Tensor) -> Tensor:
        """Return f at x, of shape (n,): a scalar."""
        return 0.5 * (self.h * x * x).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of f at x, both of shape (n,)."""
        return self.h * x

    def optimum(self) -> Tensor:
        """Return where f is least, of shape (n,)."""
        return torch.zeros_like(self.h)

    def covariance(self, rows: int = 1) -> Tensor:
        """Return the covariance of the gradient of a batch's loss, of shape (n, n).

        Args:
            rows: Samples of the batch, at least 1.
        """
        return torch.eye(len(self.h), dtype=torch.float64) * self._noise**2 / rows

    def batches(self, count: int, rows: int = 1) -> list[Tensor]:
        """Return noise to train on, the same at each call.

        Args:
            count: How many batches.
            rows: Samples of each, at least 1.

        Returns:
            Tensors of shape (rows, n), float64.
        """
        generator = torch.Generator().manual_seed(self._seed + 1)
        shape = (rows, len(self.h))
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]
