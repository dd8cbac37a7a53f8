"""Predicts how diabetes progresses (scikit-learn's data, 442 patients, 10 measurements).

The same program as regression.py without hotloop. Both give the same losses, bit for bit.
"""

from __future__ import annotations

import argparse
import copy

import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


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


def train(epochs: int) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    train_loader, val_loader = load(batch_size=32)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    compute_loss = nn.MSELoss()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=4, threshold=1e-3
    )
    best, bad, best_weights, losses = float("inf"), 0, None, []
    for epoch in range(epochs):
        model.train()
        total, count = 0.0, 0
        for inputs, targets in train_loader:
            loss = compute_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            total += losses[-1] * len(targets)
            count += len(targets)
        val_loss = validate(model, val_loader, compute_loss)
        print(f"{epoch + 1}/{epochs} {total / count:.4f} {val_loss:.4f}")
        scheduler.step(val_loss)
        if val_loss < best:
            best, bad, best_weights = val_loss, 0, copy.deepcopy(model.state_dict())
        else:
            bad += 1
        if bad == 12:
            print(f"stopped: no better than {best:.4f} for {bad} epochs")
            break
    model.load_state_dict(best_weights)
    print(f"learning rate {optimizer.param_groups[0]['lr']:g}")
    loss = validate(model, val_loader, compute_loss)
    explained = 1 - loss / float(val_loader.dataset.tensors[1].var())
    print(f"best validation loss {best:.4f}, {explained:.0%} of the variance")
    return model, [float(loss) for loss in losses]


@torch.inference_mode()
def validate(model: nn.Module, loader: DataLoader, compute_loss: nn.Module) -> float:
    model.eval()
    total, count = 0.0, 0
    for inputs, targets in loader:
        total += float(compute_loss(model(inputs), targets)) * len(targets)
        count += len(targets)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100, help="the most")
    train(parser.parse_args().epochs)


if __name__ == "__main__":
    main()
