"""Ends a run that no longer gets better, and gives the model its best weights back."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import EarlyStopping
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer


def main() -> None:
    torch.manual_seed(0)
    # Few samples, much noise and a large model: it soon learns the noise by heart.
    inputs = torch.randn(96, 8)
    targets = inputs[:, :1] + torch.randn(96, 1)
    train, val = TensorDataset(inputs[:64], targets[:64]), TensorDataset(inputs[64:], targets[64:])
    model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 1))
    stopping = EarlyStopping("val_loss", patience=5, restore_best=True)
    trainer = Trainer(
        model,
        TrainingConfig(epochs=200, learning_rate=3e-3),
        DataLoader(train, 16, shuffle=True),
        DataLoader(val, 32),
        [stopping],
        loss=nn.MSELoss(),
    )
    history = trainer.train()
    print(f"stopped: {history.stop_reason}")
    print(f"last validation loss {history['val_loss'][-1]:.4f}, best {stopping.best:.4f}")
    print(f"validation loss of the model now {trainer.validate()['val_loss']:.4f}")


if __name__ == "__main__":
    main()
