"""After training: measure on the validation data, on other data, and predict."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.metrics import Accuracy


def main() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(640, 8)
    targets = (inputs[:, 0] > inputs[:, 1]).long()
    train, val, test = (
        DataLoader(TensorDataset(inputs[part], targets[part]), 64)
        for part in (slice(0, 512), slice(512, 576), slice(576, 640))
    )
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    trainer = Trainer(
        model,
        TrainingConfig(epochs=10, learning_rate=1e-2),
        train,
        val,
        loss=nn.CrossEntropyLoss(),
        metrics={"accuracy": Accuracy()},
    )
    trainer.train()
    print(trainer.validate())
    print(trainer.test(test))
    # Of the batches (inputs, targets) it takes the inputs; a TensorDataset of inputs will do.
    scores = trainer.predict(test)
    print(f"outputs {tuple(scores.shape)}")
    print(f"{float((scores.argmax(1) == targets[576:]).float().mean()):.1%} of them are right")


if __name__ == "__main__":
    main()
