"""Drop-in `torch.optim` optimizers whose step is a Mojo kernel on CPU tensors."""

from hotloop.optimizers.adam import Adam
from hotloop.optimizers.adamw import AdamW
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.fused_step import FusedStep, torch_fused_step
from hotloop.optimizers.lamb import LAMB, TorchLAMB
from hotloop.optimizers.lars import LARS, TorchLARS
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.prodigy import Prodigy, TorchProdigy
from hotloop.optimizers.sgd import SGD

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adam",
    "AdamW",
    "FusedStep",
    "NativeStep",
    "Prodigy",
    "TorchLAMB",
    "TorchLARS",
    "TorchProdigy",
    "WeightAverage",
    "torch_fused_step",
]
