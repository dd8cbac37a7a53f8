"""Accelerate with our optimizers in the place of torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.clients.conftest import Pair, needs

pytestmark = needs("accelerate")

BATCHES = 12


def batches() -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * 5, 6, generator=generator)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))
    return torch.utils.data.DataLoader(data, batch_size=5)


def train(make: Any, accumulation: int, folder: Path | None = None) -> tuple[list[float], Any]:
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    model: Any = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer: Any = make(model.parameters())
    schedule: Any = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, batches(), schedule)
    losses = []
    for index, (x, y) in enumerate(loader):
        if folder is not None and index == BATCHES // 2:
            accelerator.save_state(str(folder))
            # What is trained here is forgotten again.
            for _ in range(3):
                accelerator.backward(model(x).square().mean())
                optimizer.step()
            optimizer.zero_grad()
            accelerator.load_state(str(folder))
        with accelerator.accumulate(model):
            loss = (model(x) - y).square().mean()
            losses.append(float(loss.detach()))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return losses, list(model.parameters())


def assert_same(a: tuple[list[float], list[Tensor]], b: tuple[list[float], list[Tensor]]) -> None:
    assert a[0] == b[0]
    for x, y in zip(a[1], b[1], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_losses_and_weights_are_those_of_torch(pair: Pair) -> None:
    runs = [train(make, accumulation=1) for make in pair]
    assert_same(*runs)
    assert runs[0][0][-1] < runs[0][0][0]


def test_gradient_accumulation(pair: Pair) -> None:
    assert_same(*(train(make, accumulation=3) for make in pair))


def test_saved_state_is_restored(pair: Pair, tmp_path: Path) -> None:
    assert_same(train(pair.ours, 1, tmp_path), train(pair.ours, 1))
