"""Trains a classifier on scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels.

`make train` runs it. The optimizer step is in Mojo; `HOTLOOP_BACKEND=torch` runs the same
program without the kernels and prints the same losses. digits_torch.py is the same program
without hotloop: `diff digits.py digits_torch.py` shows what the trainer does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop import backend
from hotloop.callbacks import Callback
from hotloop.config import TrainingConfig
from hotloop.loops import History, Trainer
from hotloop.metrics import Accuracy
from hotloop.optimizers import AdamW


def load(batch_size: int) -> tuple[DataLoader, DataLoader]:
    images, labels = load_digits(return_X_y=True)
    splits = train_test_split(
        torch.tensor(images, dtype=torch.float32) / 16,
        torch.tensor(labels),
        test_size=0.2,
        stratify=labels,
        random_state=0,
    )
    train_images, val_images, train_labels, val_labels = splits
    train = TensorDataset(train_images, train_labels)
    val = TensorDataset(val_images, val_labels)
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, batch_size=512)


def make_model(name: str) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(64 * 2 * 2, 10),
    )


def train(model: nn.Module, epochs: int, callbacks: Iterable[Callback] = ()) -> History:
    train_loader, val_loader = load(batch_size=32)
    trainer = Trainer(
        model,
        TrainingConfig(epochs=epochs),
        train_loader,
        val_loader,
        callbacks,
        loss=nn.CrossEntropyLoss(),
        optimizer=AdamW(model.parameters(), lr=3e-3),
        metrics={"accuracy": Accuracy()},
    )
    return trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["mlp", "cnn"], default="cnn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save", help="write the trained parameters to this file")
    arguments = parser.parse_args()

    print(backend.describe())
    torch.manual_seed(0)
    model = make_model(arguments.model)
    history = train(model, arguments.epochs)
    print(
        f"validation accuracy {history['val_accuracy'][-1]:.2%} "
        f"after {arguments.epochs} epochs on the {backend.current().name} backend"
    )
    if arguments.save:
        torch.save(model.state_dict(), arguments.save)


if __name__ == "__main__":
    main()
