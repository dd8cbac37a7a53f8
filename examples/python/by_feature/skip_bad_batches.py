"""Data with a NaN in it: by default the run fails and says so; it can also do without the batch."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop import NonFiniteError
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer


def make_trainer(**settings: str | float) -> Trainer:
    torch.manual_seed(0)
    inputs = torch.randn(256, 8)
    data = TensorDataset(inputs.clone(), inputs[:, :1])
    data.tensors[0][100, 3] = float("nan")
    config = TrainingConfig(epochs=5, learning_rate=1e-2, progress=False, **settings)
    return Trainer(nn.Linear(8, 1), config, DataLoader(data, 32), loss=nn.MSELoss())


def main() -> None:
    # With a norm to measure, the first bad gradient ends the run before it gets to the weights;
    # without, the loss of a logging window does, which is one read of the device for many updates.
    for settings in ({"clip_norm": 1.0}, {"log_every": "50 steps"}):
        try:
            make_trainer(**settings).train()
        except NonFiniteError as error:
            print(f"{settings}: {error}")

    trainer = make_trainer(nonfinite="skip")
    history = trainer.train()
    print(f"left out by epoch: {history['train_skipped_updates']}")
    print(f"loss of the others: {history['train_loss'][-1]:.4f}")


if __name__ == "__main__":
    main()
