"""Drop-in `torch.optim` optimizers whose step is a Mojo kernel on CPU tensors."""

from hotloop.optimizers.adam import Adam
from hotloop.optimizers.adamw import AdamW
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.create import create_optimizer
from hotloop.optimizers.decay import decay_groups
from hotloop.optimizers.fused_step import FusedStep, torch_fused_step
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.optimizer_state import (
    move_state,
    remap_state,
    reset_state,
    state_bytes,
)
from hotloop.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "FusedStep",
    "NativeStep",
    "WeightAverage",
    "create_optimizer",
    "decay_groups",
    "move_state",
    "remap_state",
    "reset_state",
    "state_bytes",
    "torch_fused_step",
]
