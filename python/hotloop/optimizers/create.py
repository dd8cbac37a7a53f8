"""Optimizers by name."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.errors import unknown_name
from hotloop.optimizers.decay import decay_groups, trainable
from hotloop.optimizers.optimizer import NativeStep

__all__ = ["create_optimizer"]

_DECAYS = ("matrices", "all", "none")


def create_optimizer(
    model: nn.Module,
    name: str | type[torch.optim.Optimizer],
    learning_rate: float | Tensor,
    weight_decay: float | None = None,
    *,
    decay: str = "matrices",
    decay_embeddings: bool = False,
    no_decay: tuple[type[nn.Module], ...] = (),
    **options: Any,
) -> torch.optim.Optimizer:
    """Make an optimizer for a model's trainable parameters.

    Args:
        model: The model.
        name: The name of an optimizer that `hotloop.optimizers` exports, in any case; or a
            `torch.optim.Optimizer` class from anywhere.
        learning_rate: Its `lr`, at least 0 and finite.
        weight_decay: At least 0 and finite; None for the default of the optimizer.
        decay: What decays: "matrices" as in `decay_groups`, "all" or "none".
        decay_embeddings: As in `decay_groups`.
        no_decay: As in `decay_groups`.
        **options: Further arguments of the optimizer.

    Raises:
        ValueError: If `name` or `decay` is unknown, or `learning_rate`, `weight_decay`,
            `betas` (each in [0, 1)) or `eps` (above 0) is out of range.
        TypeError: If the optimizer does not have one of the options, or `name` is neither
            a name nor a class of optimizers.
    """
    optimizer = _find(name)
    if decay not in _DECAYS:
        raise ValueError(unknown_name("decay", decay, _DECAYS))
    _check_ranges(learning_rate, weight_decay, options)
    known = dict(inspect.signature(optimizer).parameters)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        allowed = known.keys() - {"params", "lr", "weight_decay"}
        for option in options.keys() - allowed:
            raise TypeError(unknown_name(f"option of {optimizer.__name__}", option, allowed))
    if "weight_decay" in known:
        default = known["weight_decay"].default if weight_decay is None else weight_decay
        options["weight_decay"] = 0.0 if decay == "none" else default
    elif weight_decay:
        raise TypeError(f"{optimizer.__name__} has no weight_decay, got {weight_decay!r}")
    params: list[Any] = trainable(model)
    if decay == "matrices" and "weight_decay" in known:
        params = decay_groups(
            model,
            options["weight_decay"],
            decay_embeddings=decay_embeddings,
            no_decay=no_decay,
        )
    made: torch.optim.Optimizer = optimizer(params, lr=learning_rate, **options)
    return made


def _find(name: str | type[torch.optim.Optimizer]) -> Any:
    if isinstance(name, type) and issubclass(name, torch.optim.Optimizer):
        return name
    if not isinstance(name, str):
        raise TypeError(f"name must be a str or a torch.optim.Optimizer class, got {name!r}")
    # Not at import: this module is one of the package's.
    from hotloop import optimizers

    table = {}
    for exported in optimizers.__all__:
        value = getattr(optimizers, exported)
        is_class = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        if is_class and value is not NativeStep:
            table[exported.lower()] = value
    if name.lower() not in table:
        raise ValueError(unknown_name("optimizer", name, table))
    return table[name.lower()]


def _check_ranges(
    learning_rate: float | Tensor, weight_decay: float | None, options: dict[str, Any]
) -> None:
    for label, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if value is not None and not 0 <= float(value) < math.inf:
            raise ValueError(f"{label} must be at least 0 and finite, got {value!r}")
    betas = options.get("betas", ())
    if not all(0 <= float(beta) < 1 for beta in _numbers(betas)):
        raise ValueError(f"betas must be in [0, 1), got {betas!r}")
    eps = options.get("eps")
    if not all(0 < float(value) < math.inf for value in _numbers(eps)):
        raise ValueError(f"eps must be above 0 and finite, got {eps!r}")


def _numbers(value: Any) -> list[Any]:
    # Adafactor's eps is a pair, one of which may be None.
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [number for number in values if number is not None]
