"""Schedules of the learning rate and of weight decay, for a run of 200 updates."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import LearningRateMonitor
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.optimizers import AdamW
from hotloop.schedulers import Cosine, Linear, Scheduler, Warmup, chart


def main() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 8)
    data = TensorDataset(inputs, inputs[:, :1])
    model = nn.Linear(8, 1)
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    rate = Warmup(0.1).then(Cosine(end=0.05))  # A tenth of the run, then the rest of it.
    print(chart(rate, 200))
    rates = LearningRateMonitor(optimizer, every=50)
    decays = LearningRateMonitor(optimizer, "weight_decay", every=50)
    trainer = Trainer(
        model,
        TrainingConfig(max_steps=200, progress=False),
        DataLoader(data, 32, shuffle=True),
        callbacks=[rates, decays],
        loss=nn.MSELoss(),
        optimizer=optimizer,
        # A plain schedule is one of the learning rate, and gets the length of the run; a
        # Scheduler says more. torch's schedulers are taken, too.
        scheduler=[rate, Scheduler(optimizer, Linear(end=0.0), field="weight_decay", total=200)],
    )
    trainer.train()
    for step, lr, decay in zip(rates.steps, rates.values, decays.values):
        print(f"step {step}: lr {lr['lr']:.5f}, weight decay {decay['weight_decay']:.5f}")


if __name__ == "__main__":
    main()
