"""Compiled models, autocast with a GradScaler, and shared parameters, in plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.clients.conftest import Pair

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 8


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 8)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.embed(tokens)))


def train(make: Any, *, is_compiled: bool, precision: str) -> tuple[list[float], list[Tensor]]:
    model = Tied()
    forward = torch.compile(model, backend="aot_eager") if is_compiled else model
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**12, growth_interval=3, enabled=precision == "scaled"
    )
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(STEPS):
        tokens = torch.randint(0, 13, (4, 7), generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "float32"):
            loss = nn.functional.cross_entropy(forward(tokens).float().mT, tokens)
        losses.append(float(loss.detach()))
        # One overflow, which a scaler skips.
        factor = float("inf") if step == 4 and scaler.is_enabled() else 1.0
        scaler.scale(loss * factor).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    torch.compiler.reset()
    return losses, list(model.parameters())


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "scaled"])
def test_losses_and_weights_are_those_of_torch(
    pair: Pair, is_compiled: bool, precision: str
) -> None:
    runs = [train(make, is_compiled=is_compiled, precision=precision) for make in pair]
    assert runs[0][0] == runs[1][0]
    assert len(runs[0][0]) == STEPS
    assert runs[0][0][-1] < runs[0][0][0]
    for x, y in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
