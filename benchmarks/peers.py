"""The implementations of other libraries that ours are timed against."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

Factory = Callable[..., torch.optim.Optimizer]

#: Rule of ours: further implementations of it, as module, class and options. A module that
#: is not installed is left out.
_ELSEWHERE: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "Adam": [("deepspeed.ops.adam", "DeepSpeedCPUAdam", {"adamw_mode": False})],
    "AdamW": [("deepspeed.ops.adam", "DeepSpeedCPUAdam", {})],
    "Adagrad": [("deepspeed.ops.adagrad", "DeepSpeedCPUAdagrad", {})],
    "Lion": [
        ("deepspeed.ops.lion", "DeepSpeedCPULion", {}),
        ("pytorch_optimizer", "Lion", {"foreach": True}),
        ("pytorch_optimizer", "Lion", {"foreach": False}),
    ],
    "Adan": [("pytorch_optimizer", "Adan", {"foreach": True})],
    "ADOPT": [("pytorch_optimizer", "ADOPT", {"foreach": True})],
    "LAMB": [("pytorch_optimizer", "Lamb", {"foreach": True})],
    "LARS": [("pytorch_optimizer", "LARS", {"foreach": True})],
    "Prodigy": [("pytorch_optimizer", "Prodigy", {"foreach": True})],
    "ScheduleFreeSGD": [("schedulefree", "SGDScheduleFree", {})],
    "ScheduleFreeAdamW": [("schedulefree", "AdamWScheduleFree", {})],
    "AdamW8bit": [
        ("bitsandbytes.optim", "AdamW8bit", {}),
        ("torchao.optim", "AdamW8bit", {}),
    ],
    "Lion8bit": [("bitsandbytes.optim", "Lion8bit", {})],
}
_TORCH_VARIANTS: dict[str, dict[str, bool]] = {
    "torch fused": {"fused": True},
    "torch foreach": {"foreach": True},
    "torch single": {"foreach": False},
}


def find_peers(rule: str) -> dict[str, Factory]:
    """Return the peers of one of our optimizers by name, torch's variants first."""
    peers: dict[str, Factory] = {}
    if hasattr(torch.optim, rule):
        original = getattr(torch.optim, rule)
        accepted = inspect.signature(original).parameters
        for name, choice in _TORCH_VARIANTS.items():
            if choice.keys() <= accepted.keys():
                peers[name] = functools.partial(original, **choice)
        # Muon has but one implementation.
        peers = peers or {"torch": original}
    for module, name, choice in _ELSEWHERE.get(rule, []):
        try:
            peer = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            print(f"left out: {module}.{name} ({error})")
            continue
        words = [module.partition(".")[0], *(f"{k}={v}" for k, v in choice.items())]
        peers[" ".join(words)] = functools.partial(peer, **choice)
    return peers


def make_optimizer(factory: Factory, params: list[torch.Tensor], options: dict[str, Any]) -> Any:
    """Return an optimizer that is ready to step."""
    optimizer = factory(params, **options)
    # Schedule-free optimizers have two modes and start in neither.
    getattr(optimizer, "train", lambda: None)()
    return optimizer
