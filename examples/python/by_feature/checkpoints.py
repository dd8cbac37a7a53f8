"""Saves a run, loses its process, and goes on in the next one as if nothing had happened.

With a directory as argument it is a program to stop by Ctrl-C or `kill` and to start again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hotloop.callbacks import Callback
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.testing import CrashAt, InjectedError


def make_trainer(directory: Path, *callbacks: Callback) -> Trainer:
    torch.manual_seed(0)
    inputs = torch.randn(512, 8)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
    return Trainer(
        model,
        TrainingConfig(epochs=10, batch_size=32, seed=1, save_every="25 steps"),
        data,
        data,
        callbacks,
        loss=nn.MSELoss(),
        checkpoints=directory,
        resume="auto",
    )


def main() -> None:
    if len(sys.argv) > 1:
        make_trainer(Path(sys.argv[1])).train()
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = make_trainer(Path(folder, "whole"))
        whole.train()
        try:
            make_trainer(Path(folder, "broken"), CrashAt(90)).train()
        except InjectedError as error:
            print(f"lost: {error}")
        resumed = make_trainer(Path(folder, "broken"))
        resumed.train()
        pairs = zip(whole.model.parameters(), resumed.model.parameters())
        print(f"equal weights: {all(torch.equal(one, other) for one, other in pairs)}")
        print(f"equal losses: {resumed.history['val_loss'] == whole.history['val_loss']}")


if __name__ == "__main__":
    main()
