"""Settings from a file, JSON or YAML; a name that does not exist is an error, not ignored."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hotloop.config import TrainingConfig
from hotloop.loops import Trainer

SETTINGS = """{
    "epochs": 5,
    "batch_size": 32,
    "optimizer": "AdamW",
    "learning_rate": 0.1,
    "optimizer_options": {"betas": [0.9, 0.99]},
    "scheduler": {"name": "cosine", "end": 0.1},
    "warmup": 0.1,
    "clip_norm": 1.0,
    "seed": 0
}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(SETTINGS)
        config = TrainingConfig.load(path)
        if find_spec("yaml") is not None:
            config.save(path.with_suffix(".yaml"))
            print("YAML gives the same:", TrainingConfig.load(path.with_suffix(".yaml")) == config)
        path.write_text('{"learning_rte": 0.01}')
        try:
            TrainingConfig.load(path)
        except ValueError as error:
            print(f"refused: {error}")

    torch.manual_seed(0)  # The config's seed is set when training begins, after the model is made.
    inputs = torch.randn(256, 8)
    data = TensorDataset(inputs, inputs[:, :1])
    # Of datasets, the trainer makes loaders with the config's batch_size.
    trainer = Trainer(nn.Linear(8, 1), config, data, data, loss=nn.MSELoss())
    trainer.train()


if __name__ == "__main__":
    main()
