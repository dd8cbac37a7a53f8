"""The forward pass in bfloat16, the parameters and their update in float32.

"fp16" scales the loss as well, and "auto" takes what the device has: on the CPU "fp32".
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.config import TrainingConfig
from hotloop.loops import Trainer


def train(precision: str) -> tuple[float, torch.dtype, torch.dtype]:
    torch.manual_seed(0)
    inputs = torch.randn(512, 16)
    targets = (inputs.square().sum(1) > 15).long()
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
    trainer = Trainer(
        model,
        TrainingConfig(epochs=10, learning_rate=1e-2, precision=precision, progress=False),
        DataLoader(TensorDataset(inputs, targets), 64, shuffle=True),
        loss=nn.CrossEntropyLoss(),
    )
    history = trainer.train()
    outputs = trainer.predict(DataLoader(TensorDataset(inputs[:8]), 8))
    return history["train_loss"][-1], outputs.dtype, model[0].weight.dtype


def main() -> None:
    for precision in ("fp32", "bf16", "auto"):
        loss, outputs, parameters = train(precision)
        print(f"{precision}: loss {loss:.4f}, outputs {outputs}, parameters {parameters}")


if __name__ == "__main__":
    main()
