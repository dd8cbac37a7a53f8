"""The batches of one update, weighed as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hotloop.losses import LossSum

__all__ = ["Window"]


class Window:
    """Makes the gradients of several batches add up to that of one batch of all their samples.

    With losses `t_m` summed over `c_m` items each, the gradient of one batch is that of
    `sum(t_m) / sum(c_m)`. The sum of the counts is known only at the end, and a batch's graph
    should not live until then; so each batch is divided by a guess, `c_1` times the number of
    batches, and the gradient is multiplied by the guess over the sum at last. With equal
    batches the guess is right, and with one batch nothing is divided.

    Args:
        batches: Number of batches of an update.

    Attributes:
        losses: The mean loss of each batch taken, without graph.
        counts: How many items each is the mean of.
        samples: How many samples they have.
    """

    def __init__(self, batches: int = 1) -> None:
        self.losses: list[Tensor] = []
        self.counts: list[Tensor | float] = []
        self.samples = 0
        self._batches = batches
        self._guess: Tensor | float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether all batches have been taken."""
        return len(self.losses) >= self._batches

    def take(self, loss: Tensor | LossSum, samples: int) -> Tensor:
        """Take the next batch.

        Args:
            loss: The mean over the batch's samples, or a sum with its own count.
            samples: How many samples it has.

        Returns:
            What to call `backward` on.
        """
        self.samples += samples
        is_first = not self.losses
        if isinstance(loss, LossSum):
            self.losses.append(loss.mean.detach())
            self.counts.append(loss.count)
            if is_first:
                self._guess = _nonzero(loss.count) * self._batches
                if isinstance(self._guess, Tensor):
                    # The quotient of two integers would be a float32 beside gradients in float64.
                    wide = torch.promote_types(loss.total.dtype, torch.float32)
                    self._guess = self._guess.to(wide)
            return loss.total / self._guess
        self.counts.append(samples)
        if samples == 0:
            # The mean of nothing is NaN. As in `LossSum.mean`, it and its gradient are 0 here.
            nothing = torch.zeros_like(loss, requires_grad=True)
            self.losses.append(nothing.detach())
            return nothing
        self.losses.append(loss.detach())
        if is_first or self._guess == 0:
            self._guess = samples * self._batches
        divisor = self._guess / samples
        return loss if divisor == 1 else loss / divisor

    def state_dict(self) -> dict[str, Any]:
        """Return what the batches gave so far; their gradients are the parameters'."""
        return {
            "losses": list(self.losses),
            "counts": list(self.counts),
            "samples": self.samples,
            "batches": self._batches,
            "guess": self._guess,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Window:
        """Return a window that goes on where `state_dict` was taken."""
        window = cls(state["batches"])
        window.losses, window.counts = list(state["losses"]), list(state["counts"])
        window.samples, window._guess = state["samples"], state["guess"]
        return window

    @property
    def grad_factor(self) -> Tensor | float:
        """What the accumulated gradient is to be multiplied by; a tensor if the counts are."""
        if self._batches == 1:
            return 1.0
        if not isinstance(self._guess, Tensor) and self._guess == 0:
            return 1.0  # No batch had a sample.
        return self._guess / _nonzero(sum(self.counts))


def _nonzero(count: Tensor | float) -> Tensor | float:
    if isinstance(count, Tensor):
        return torch.where(count == 0, torch.ones_like(count), count)
    return count or 1.0
