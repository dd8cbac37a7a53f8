"""Trains a classifier on scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels.

`make train` runs it. The optimizer step is in Mojo; `HOTLOOP_BACKEND=torch` runs the same
program without the kernels and prints the same losses.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop import backend
from hotloop.callbacks import ProgressBar
from hotloop.loops import Trainer
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save", help="write the trained parameters to this file")
    arguments = parser.parse_args()

    print(backend.describe())
    torch.manual_seed(0)
    train_loader, val_loader = load(batch_size=32)
    model = nn.Sequential(
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
    trainer = Trainer(
        model,
        AdamW(model.parameters(), lr=3e-3),
        nn.CrossEntropyLoss(),
        train_loader,
        val_loader,
        epochs=arguments.epochs,
        metrics={"accuracy": Accuracy()},
        callbacks=[ProgressBar()],
    )
    history = trainer.train()
    print(
        f"validation accuracy {history['val_accuracy'][-1]:.2%} "
        f"after {arguments.epochs} epochs on the {backend.current().name} backend"
    )
    if arguments.save:
        torch.save(model.state_dict(), arguments.save)


if __name__ == "__main__":
    main()
