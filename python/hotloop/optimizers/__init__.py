"""Drop-in `torch.optim` optimizers whose step is a Mojo kernel on CPU tensors."""

from hotloop.optimizers.adadelta import Adadelta
from hotloop.optimizers.adafactor import Adafactor
from hotloop.optimizers.adagrad import Adagrad
from hotloop.optimizers.adam import Adam
from hotloop.optimizers.adamax import Adamax
from hotloop.optimizers.adamw import AdamW
from hotloop.optimizers.adamw8bit import AdamW8bit
from hotloop.optimizers.adan import Adan
from hotloop.optimizers.adopt import ADOPT
from hotloop.optimizers.asgd import ASGD
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.create import create_optimizer
from hotloop.optimizers.decay import decay_groups
from hotloop.optimizers.fused_step import FusedStep, torch_fused_step
from hotloop.optimizers.lamb import LAMB
from hotloop.optimizers.lars import LARS
from hotloop.optimizers.lion import Lion
from hotloop.optimizers.lion8bit import Lion8bit
from hotloop.optimizers.muon import Muon
from hotloop.optimizers.nadam import NAdam
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.optimizer_state import (
    move_state,
    remap_state,
    reset_state,
    state_bytes,
)
from hotloop.optimizers.prodigy import Prodigy
from hotloop.optimizers.radam import RAdam
from hotloop.optimizers.rmsprop import RMSprop
from hotloop.optimizers.rprop import Rprop
from hotloop.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from hotloop.optimizers.schedule_free_sgd import ScheduleFreeSGD
from hotloop.optimizers.sgd import SGD
from hotloop.optimizers.sophia import SophiaG

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "Adamax",
    "Adan",
    "FusedStep",
    "Lion",
    "Lion8bit",
    "Muon",
    "NAdam",
    "NativeStep",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SophiaG",
    "WeightAverage",
    "create_optimizer",
    "decay_groups",
    "move_state",
    "remap_state",
    "reset_state",
    "state_bytes",
    "torch_fused_step",
]
