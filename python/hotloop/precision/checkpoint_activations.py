"""Activations that are computed again instead of kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hotloop.argument import check_count

__all__ = ["ActivationCheckpoints", "checkpoint_activations"]


class ActivationCheckpoints:
    """The blocks whose activations `checkpoint_activations` made be computed again.

    As a context manager it removes them at its end.

    Attributes:
        names: The blocks' names in the model.
    """

    def __init__(self, blocks: dict[str, nn.Module]) -> None:
        self.names = tuple(blocks)
        self._forwards = {name: _CheckpointedForward(block) for name, block in blocks.items()}

    def remove(self) -> None:
        """Give the blocks their own forward back; a second call does nothing.

        Raises:
            RuntimeError: If a block's forward has been replaced since. Nothing is changed then.
        """
        for name, forward in self._forwards.items():
            if forward.block.__dict__.get("forward") is not forward:
                raise RuntimeError(
                    f"forward of block {name!r} was replaced after checkpoint_activations; undo "
                    "that first"
                )
        for forward in self._forwards.values():
            forward.remove()
        self._forwards = {}

    def __enter__(self) -> ActivationCheckpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def checkpoint_activations(
    model: nn.Module,
    blocks: type[nn.Module] | tuple[type[nn.Module], ...],
    *,
    every: int = 1,
) -> ActivationCheckpoints:
    """Keep only the inputs of a model's blocks, and compute the rest again in the backward pass.

    A block costs a second forward pass and keeps nothing of the first (Chen et al., 2016,
    arXiv:1604.06174). Gradients are the same, dropout included, since the random state is put
    back. In evaluation mode, and where no gradient is recorded, a block's forward runs as it is.

    The blocks' `forward` is replaced, so modules, names and `state_dict` stay as they are. A deep
    copy or a pickled model is checkpointed too, each of its blocks on its own, but without a
    handle: `del block.forward` undoes it.

    Args:
        model: Changed in place.
        blocks: The type of the blocks, such as `nn.TransformerEncoderLayer`, or several.
        every: Takes the first block and each `every`-th after it, at least 1. A block that is
            checkpointed already stays as it is.

    Returns:
        A handle, whose `remove` undoes what this call did.

    Raises:
        ValueError: If the model has no such block, or `every` is not a positive int.
    """
    check_count("every", every)
    found = {name: module for name, module in model.named_modules() if isinstance(module, blocks)}
    if not found:
        wanted = blocks if isinstance(blocks, tuple) else (blocks,)
        there = sorted({type(module).__name__ for module in model.modules()})
        raise ValueError(
            f"blocks must be types of modules in the model, got "
            f"{', '.join(block.__name__ for block in wanted)}; it has {', '.join(there)}"
        )
    taken = {
        name: block
        for name, block in list(found.items())[::every]
        if not isinstance(block.__dict__.get("forward"), _CheckpointedForward)
    }
    twice = [name for name, block in taken.items() if _has_running_statistics(block)]
    if twice:
        warnings.warn(
            f"blocks {', '.join(map(repr, twice))} contain BatchNorm, whose running statistics are "
            "updated again when the block is computed again in training",
            stacklevel=2,
        )
    return ActivationCheckpoints(taken)


class _CheckpointedForward:
    """Takes the place of a block's forward.

    A class, not a closure, so that copies and pickles of the block refer to themselves.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self._previous: Callable[..., Any] | None = block.__dict__.get("forward")
        block.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.block.training and torch.is_grad_enabled()):
            return self._forward(*args, **kwargs)
        # checkpoint would take keywords such as `debug` for its own.
        forward = partial(self._forward, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True)

    def remove(self) -> None:
        if self._previous is None:
            del self.block.forward
        else:
            self.block.forward = self._previous

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._previous is not None:
            return self._previous(*args, **kwargs)
        return type(self.block).forward(self.block, *args, **kwargs)


def _has_running_statistics(block: nn.Module) -> bool:
    return any(
        isinstance(module, _BatchNorm) and module.track_running_stats for module in block.modules()
    )
