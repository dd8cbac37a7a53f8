"""A forward pass of one's own: batches of any form, and any loss.

An autoencoder whose batches are dicts. What counts as an item is up to the step: here the pixels
that are not masked, by `LossSum`, so that batches with few of them do not count as much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from hotloop.config import TrainingConfig
from hotloop.loops import StepOutput, Trainer
from hotloop.losses import LossSum


def step(model: nn.Module, batch: dict[str, Any]) -> StepOutput:
    image, is_known = batch["image"], batch["is_known"]
    restored = model(image * is_known)
    squares = (restored - image).square() * is_known
    # preds and target are for metrics; without any, return LossSum(...) alone.
    return StepOutput(LossSum(squares.sum(), is_known.sum()), preds=restored, target=image)


def main() -> None:
    torch.manual_seed(0)
    images = torch.rand(512, 2) @ torch.rand(2, 16)  # of rank 2
    samples = [{"image": image, "is_known": torch.rand(16) < 0.8} for image in images]
    model = nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 16))
    trainer = Trainer(
        model,
        TrainingConfig(epochs=10, learning_rate=1e-2, accumulate=2),
        DataLoader(samples[:448], 16, shuffle=True),
        DataLoader(samples[448:], 64),
        step_fn=step,
    )
    history = trainer.train()
    first, last = history["val_loss"][0], history["val_loss"][-1]
    print(f"squared error of a pixel: {first:.4f}, then {last:.4f}")


if __name__ == "__main__":
    main()
