"""Gradients clipped by their norm, and a moving average of the weights for validation.

Both go through the optimizer's `fused_step`, in the pass that updates the parameters.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.config import TrainingConfig
from hotloop.loops import Trainer


def main() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(320, 8)
    targets = inputs[:, :1] + 0.5 * torch.randn(320, 1)
    train, val = (
        TensorDataset(inputs[:256], targets[:256]),
        TensorDataset(inputs[256:], targets[256:]),
    )
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    trainer = Trainer(
        model,
        TrainingConfig(epochs=10, learning_rate=1e-2, clip_norm=1.0, average_decay=0.95),
        DataLoader(train, 16, shuffle=True),
        DataLoader(val, 64),
        loss=nn.MSELoss(),
    )
    history = trainer.train()
    print(f"mean norm before clipping, by epoch: {history['train_grad_norm']}")
    print(f"validation loss of the average:      {history['val_loss'][-1]:.4f}")
    with torch.inference_mode():
        loss = nn.functional.mse_loss(model(inputs[256:]), targets[256:])
    print(f"validation loss of the last weights: {float(loss):.4f}")
    with trainer.average.swap():  # The model has the averages in here, to be saved for example.
        averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    print(f"{len(averaged)} averaged tensors")


if __name__ == "__main__":
    main()
