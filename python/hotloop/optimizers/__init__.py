"""Drop-in `torch.optim` optimizers whose step is a Mojo kernel on CPU tensors."""

from hotloop.optimizers.adam import Adam
from hotloop.optimizers.adamw import AdamW
from hotloop.optimizers.adamw8bit import AdamW8bit
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.fused_step import FusedStep, torch_fused_step
from hotloop.optimizers.lion8bit import Lion8bit
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "FusedStep",
    "Lion8bit",
    "NativeStep",
    "WeightAverage",
    "torch_fused_step",
]
