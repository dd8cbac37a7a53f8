"""Several batches to one update: the numbers of one large batch with the memory of a small one.

Also where batches differ in size, as the last one does here: gradients are divided by the number
of samples of all batches of an update, not by the number of batches.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.config import TrainingConfig
from hotloop.loops import Trainer


def train(batch_size: int, accumulate: int) -> torch.Tensor:
    torch.manual_seed(0)
    inputs = torch.randn(60, 4)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    model = nn.Linear(4, 1)
    trainer = Trainer(
        model,
        TrainingConfig(
            epochs=20,
            accumulate=accumulate,
            optimizer="SGD",
            learning_rate=0.05,
            progress=False,
        ),
        DataLoader(data, batch_size),
        loss=nn.MSELoss(),
    )
    trainer.train()
    return model.weight.detach()


def main() -> None:
    one, four = train(batch_size=60, accumulate=1), train(batch_size=16, accumulate=4)
    print(f"one batch of 60:      {one.tolist()}")
    print(f"16 + 16 + 16 + 12:    {four.tolist()}")
    print(f"largest difference {float((one - four).abs().max()):.1e}")


if __name__ == "__main__":
    main()
