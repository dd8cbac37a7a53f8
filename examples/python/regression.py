"""Predicts how diabetes progresses (scikit-learn's data, 442 patients, 10 measurements).

The learning rate falls while the validation loss does not, the run ends when that does not help
either, and the model keeps its best weights. regression_torch.py is the same program without
hotloop.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import Callback, EarlyStopping
from hotloop.config import TrainingConfig
from hotloop.loops import History, Trainer
from hotloop.optimizers import AdamW
from hotloop.schedulers import Constant, ReduceOnPlateau, Scheduler


def load(batch_size: int) -> tuple[DataLoader, DataLoader]:
    inputs, targets = load_diabetes(return_X_y=True)
    # Columns of norm 1 and targets from 25 to 346: all to mean 0 and standard deviation 1.
    inputs = torch.tensor(inputs * len(inputs) ** 0.5, dtype=torch.float32)
    targets = torch.tensor((targets - targets.mean()) / targets.std(), dtype=torch.float32)
    train_x, val_x, train_y, val_y = train_test_split(
        inputs, targets[:, None], test_size=0.25, random_state=0
    )
    train, val = TensorDataset(train_x, train_y), TensorDataset(val_x, val_y)
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, batch_size=512)


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def train(epochs: int, callbacks: Iterable[Callback] = ()) -> tuple[nn.Module, History]:
    torch.manual_seed(0)
    train_loader, val_loader = load(batch_size=32)
    model = make_model()
    optimizer = AdamW(model.parameters(), lr=3e-3)
    stopping = EarlyStopping("val_loss", patience=12, restore_best=True)
    trainer = Trainer(
        model,
        TrainingConfig(epochs=epochs),
        train_loader,
        val_loader,
        [stopping, *callbacks],
        loss=nn.MSELoss(),
        optimizer=optimizer,
        scheduler=Scheduler(
            optimizer,
            Constant(),
            plateau=ReduceOnPlateau("val_loss", factor=0.5, patience=4, threshold=1e-3),
        ),
    )
    history = trainer.train()
    print(f"stopped: {history.stop_reason}")
    print(f"learning rate {optimizer.param_groups[0]['lr']:g}")
    explained = 1 - trainer.validate()["val_loss"] / float(val_loader.dataset.tensors[1].var())
    print(f"best validation loss {stopping.best:.4f}, {explained:.0%} of the variance")
    return model, history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100, help="the most")
    train(parser.parse_args().epochs)


if __name__ == "__main__":
    main()
