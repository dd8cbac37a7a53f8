"""A callback of one's own: it sees the run's state, and asks for actions by returning them.

Here it doubles the number of batches of an update whenever the validation loss has risen, and ends
the run at 8. It has a state, so that a run can be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import Accumulate, Actions, Callback, Stop, TrainState
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer


class GrowBatches(Callback):
    def __init__(self) -> None:
        self.batches = 1
        self.last = float("inf")

    def on_validation_end(self, state: TrainState) -> Actions:
        has_risen = state.metrics["val_loss"] > self.last
        self.last = state.metrics["val_loss"]
        if not has_risen:
            return None
        if self.batches == 8:
            return Stop("the batches are as large as they may be")
        self.batches *= 2
        print(f"step {state.step}: {self.batches} batches to an update")
        return Accumulate(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches, self.last = state["batches"], state["last"]


def main() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(320, 8)
    targets = inputs[:, :1] + torch.randn(320, 1)
    train, val = (
        TensorDataset(inputs[:256], targets[:256]),
        TensorDataset(inputs[256:], targets[256:]),
    )
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    config = TrainingConfig(epochs=100, learning_rate=1e-2, progress=False)
    loaders = DataLoader(train, 8, shuffle=True), DataLoader(val, 64)
    history = Trainer(model, config, *loaders, [GrowBatches()], loss=nn.MSELoss()).train()
    print(f"stopped: {history.stop_reason}, after {len(history['val_loss'])} epochs")


if __name__ == "__main__":
    main()
