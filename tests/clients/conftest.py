"""Optimizers of ours beside those of torch that they replace, for programs that train."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from hotloop.optimizers import SGD, AdamW


class Pair(NamedTuple):
    """Two optimizers that compute the same bits."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]


PAIRS = {
    "AdamW": Pair(
        lambda params: AdamW(params, lr=0.01, weight_decay=0.1),
        lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1, fused=True),
    ),
    "SGD": Pair(
        lambda params: SGD(params, lr=0.05, momentum=0.9),
        lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    ),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each pair in turn."""
    return PAIRS[request.param]


def needs(package: str) -> list[pytest.MarkDecorator]:
    """Return the marks of tests that run another package, whose warnings are its own."""
    is_missing = importlib.util.find_spec(package) is None
    reason = f"needs {package}, of the clients extra"
    return [
        pytest.mark.skipif(is_missing, reason=reason),
        pytest.mark.filterwarnings("ignore"),
    ]
