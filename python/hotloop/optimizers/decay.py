"""Which parameters weight decay pulls to zero."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

__all__ = ["decay_groups"]

_EMBEDDINGS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


def decay_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_embeddings: bool = False,
    no_decay: tuple[type[nn.Module], ...] = (),
) -> list[dict[str, Any]]:
    """Return param groups for any optimizer: what decays, then what does not.

    Trainable parameters with two dimensions and more decay: the weights of linear layers,
    convolutions and attention. Biases and the scales of norms do not. A parameter that
    several modules share is in one group once, and does not decay if one of them is
    exempt. Parameters are in the order of their names, so that a saved optimizer state
    finds them again; a group without parameters is left out.

    Args:
        model: The model.
        weight_decay: Of the first group, at least 0 and finite.
        decay_embeddings: Whether the tables of `nn.Embedding` and `nn.EmbeddingBag` decay.
        no_decay: Types of modules whose parameters do not decay, nor those of modules
            within.

    Raises:
        ValueError: If `weight_decay` is out of range.
    """
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, got {weight_decay!r}")
    exempt_types = no_decay if decay_embeddings else (*no_decay, *_EMBEDDINGS)
    exempt = {
        param
        for module in model.modules()
        if isinstance(module, exempt_types)
        for param in module.parameters()
    }
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for param in trainable(model):
        groups[param.ndim >= 2 and param not in exempt].append(param)
    return [
        {"params": params, "weight_decay": weight_decay if decays else 0.0}
        for decays, params in groups.items()
        if params
    ]


def trainable(model: nn.Module) -> list[Tensor]:
    """Return the parameters that require gradients, each once, ordered by name."""
    named = sorted(model.named_parameters(remove_duplicate=False), key=lambda item: item[0])
    return list(dict.fromkeys(param for _, param in named if param.requires_grad))
