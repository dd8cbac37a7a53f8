"""Validation on several data sets: each has its name in the history."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.metrics import Accuracy


def make_data(samples: int, noise: float) -> TensorDataset:
    inputs = torch.randn(samples, 8)
    targets = (inputs[:, 0] + inputs[:, 1] > 0).long()
    return TensorDataset(inputs + noise * torch.randn_like(inputs), targets)


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    trainer = Trainer(
        model,
        # Twice in each epoch; "100 steps" and "10 minutes" are cadences as well.
        TrainingConfig(epochs=4, learning_rate=1e-2, validate_every="0.5 epochs"),
        DataLoader(make_data(512, noise=0.1), 32, shuffle=True),
        {
            "clean": DataLoader(make_data(128, noise=0.0), 64),
            "noisy": DataLoader(make_data(128, noise=1.0), 64),
        },
        loss=nn.CrossEntropyLoss(),
        metrics={"accuracy": Accuracy()},
    )
    history = trainer.train()
    for name in ("clean", "noisy"):
        print(f"{name}: accuracy {history[f'val_{name}_accuracy']}")


if __name__ == "__main__":
    main()
