"""Averages of a model's parameters over the steps of training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The moving average (EMA) or the mean (SWA) of a model's weights.

    After update t, counted from 1, with parameters p:

        EMA:  a = d a + (1 - d) p,  d = min(decay, t / (9 + t)) with `warmup`, else decay
        SWA:  a = a + (p - a) / t   (`decay=None`; Izmailov et al., 2018, arXiv:1803.05407)

    and a = p at the first update. Without `warmup` these are the values of
    `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn` or
    `get_swa_multi_avg_fn`. Pass it to an optimizer's `fused_step(average=...)`, which moves
    the averages in the pass that updates the parameters, or call `update` after a step.

    Args:
        model: The model to average. It is not copied: only its parameters and buffers are.
        decay: d above, in [0, 1); None for the mean.
        warmup: Whether d grows from 0.1, so that the first weights are soon forgotten.
        average_buffers: Whether buffers, such as running statistics, are averaged as
            parameters are. Otherwise they are copied, as integers always are.

    Attributes:
        updates: Number of updates so far.

    Raises:
        ValueError: If `decay` is not in [0, 1), or `warmup` is asked of a mean.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float | None = 0.999,
        *,
        warmup: bool = False,
        average_buffers: bool = False,
    ) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), or None for the mean; got {decay!r}")
        if decay is None and warmup:
            raise ValueError("warmup=True needs a decay; the mean (decay=None) has none")
        self.decay = decay
        self.warmup = warmup
        self.average_buffers = average_buffers
        self.updates = 0
        self._model = model
        # Tied tensors have several names; torch lists them once, under the first.
        self._parameters = dict(model.named_parameters())
        self._buffer_names = [name for name, _ in model.named_buffers()]
        self._averages = {
            name: tensor.detach().clone(memory_format=torch.preserve_format)
            for name, tensor in self._tensors().items()
        }
        #: The average of each parameter that has one; integers are copied.
        self.averages: dict[Tensor, Tensor] = {}
        self._copied: list[tuple[Tensor, Tensor]] = []
        for name, param in self._parameters.items():
            if _has_mean(param):
                self.averages[param] = self._averages[name]
            else:
                self._copied.append((self._averages[name], param))

    @property
    def next_weight(self) -> float:
        """How far the next update moves the averages to the weights, in (0, 1]."""
        update = self.updates + 1
        if update == 1:
            return 1.0
        if self.decay is None:
            return 1 / update
        return 1 - (min(self.decay, update / (9 + update)) if self.warmup else self.decay)

    @torch.no_grad()
    def update(self, *, done: Collection[Tensor] = ()) -> None:
        """Move the averages to the model's present weights.

        Args:
            done: Parameters whose average has been moved by `next_weight` already.
        """
        moved = [(a, param) for param, a in self.averages.items() if param not in done]
        copied = list(self._copied)
        for name, buffer in self._buffers().items():
            is_moved = self.average_buffers and _has_mean(buffer)
            (moved if is_moved else copied).append((self._averages[name], buffer))
        weight = self.next_weight
        if weight == 1:
            copied += moved
        elif moved:
            averages, sources = map(list, zip(*moved))
            torch._foreach_lerp_(averages, sources, weight)
        for average, source in copied:
            average.copy_(source)
        self.updates += 1

    def _buffers(self) -> dict[str, Tensor]:
        # By name, since modules may replace their buffers.
        buffers = dict(self._model.named_buffers()) if self._buffer_names else {}
        return {name: buffers[name] for name in self._buffer_names}

    def _tensors(self) -> dict[str, Tensor]:
        return self._parameters | self._buffers()

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Let the model have the averages for the time of a `with` block.

        Values are exchanged, not tensors, so optimizers and views stay valid. The weights
        come back bit for bit; what the block writes to the model is lost.
        """
        kept = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        try:
            _copy_all(self._averages, self._tensors())
            yield
        finally:
            _copy_all(kept, self._tensors())

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates and the averages by name, not copied."""
        return {"updates": self.updates, "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: If names or shapes are not those of the model, or the count of
                updates is none. Nothing is changed then.
        """
        loaded, updates = state["averages"], state["updates"]
        if not isinstance(updates, int) or updates < 0:
            raise ValueError(f"updates must be an integer of at least 0, got {updates!r}")
        wrong = sorted(self._averages.keys() ^ loaded.keys())
        wrong += [
            name
            for name in self._averages.keys() & loaded.keys()
            if loaded[name].shape != self._averages[name].shape
        ]
        if wrong:
            raise ValueError(
                f"state_dict does not fit the model: {', '.join(wrong)} missing, unknown or of "
                "another shape"
            )
        _copy_all(loaded, self._averages)
        self.updates = updates


def _has_mean(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@torch.no_grad()
def _copy_all(values: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
