"""Trains a classifier on scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels.

The same program as digits.py without hotloop. Both give the same losses, bit for bit:
hotloop's AdamW computes what torch's does with `fused=True`.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


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


def train(model: nn.Module, epochs: int) -> tuple[list[float], float]:
    train_loader, val_loader = load(batch_size=32)
    compute_loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    losses = []
    for epoch in range(epochs):
        model.train()
        total, count = 0.0, 0
        for images, labels in train_loader:
            loss = compute_loss(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            total += losses[-1] * len(labels)
            count += len(labels)
        val_loss, val_accuracy = validate(model, val_loader, compute_loss)
        print(f"{epoch + 1}/{epochs} {total / count:.4f} {val_loss:.4f} {val_accuracy:.4f}")
    return [float(loss) for loss in losses], val_accuracy


@torch.inference_mode()
def validate(model: nn.Module, loader: DataLoader, compute_loss: nn.Module) -> tuple[float, float]:
    model.eval()
    total, correct, count = 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        total += float(compute_loss(logits, labels)) * len(labels)
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return total / count, correct / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["mlp", "cnn"], default="cnn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save", help="write the trained parameters to this file")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = make_model(arguments.model)
    _, accuracy = train(model, arguments.epochs)
    print(f"validation accuracy {accuracy:.2%} after {arguments.epochs} epochs")
    if arguments.save:
        torch.save(model.state_dict(), arguments.save)


if __name__ == "__main__":
    main()
