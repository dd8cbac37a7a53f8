"""The parameter shapes that optimizers are timed on."""

from __future__ import annotations

import itertools

import torch
from torch import nn

Shape = tuple[int, ...]


def _mlp(*widths: int) -> list[Shape]:
    return [shape for a, b in itertools.pairwise(widths) for shape in ((b, a), (b,))]


def _gpt2_small() -> list[Shape]:
    width, layers = 768, 12
    layer: list[Shape] = [
        *((width,), (width,)),
        *((3 * width, width), (3 * width,), (width, width), (width,)),
        *((width,), (width,)),
        *((4 * width, width), (4 * width,), (width, 4 * width), (width,)),
    ]
    return [(50257, width), (1024, width), *(layer * layers), (width,), (width,)]


MODELS: dict[str, list[Shape]] = {
    "200 tensors of 16": [(16,)] * 200,
    "25k in 4": _mlp(64, 128, 128),
    "670k in 6": _mlp(784, 512, 512, 10),
    "2.2M in 180": [(153, 160), (160,)] * 90,
    "42M in 24": [(1024, 1706)] * 24,
    "124M in 148 (GPT-2 small)": _gpt2_small(),
}


def choose_models(prefixes: list[str]) -> list[str]:
    """Return the names of `MODELS` that begin with one of `prefixes`, in order.

    Raises:
        ValueError: If a prefix fits none.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in MODELS):
            raise ValueError(f"no model begins with {prefix!r}; there are {', '.join(MODELS)}")
    return [name for name in MODELS if name.startswith(tuple(prefixes))]


def make_params(shapes: list[Shape], dtype: torch.dtype) -> list[nn.Parameter]:
    """Return parameters of `shapes` with gradients, the same at every call."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, dtype=dtype)
    return params
