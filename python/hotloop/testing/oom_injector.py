"""Runs out of memory."""

from __future__ import annotations

import torch

from hotloop.callbacks import Callback, TrainState

__all__ = ["OomInjector"]


class OomInjector(Callback):
    """Raises torch's OutOfMemoryError before the forward pass of a batch, once.

    Args:
        step: After how many updates of the run, at least 0.

    Raises:
        ValueError: If `step` is no int of at least 0.
    """

    def __init__(self, step: int) -> None:
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ValueError(f"step must be an int of at least 0, got {step!r}")
        self._step = step
        self._is_armed = True

    def on_batch_begin(self, state: TrainState) -> None:
        """Raise the error, if it is time."""
        if self._is_armed and state.step == self._step:
            self._is_armed = False
            raise torch.OutOfMemoryError(f"injected after {self._step} updates")
