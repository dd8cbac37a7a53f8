"""Training and validation loops, and the trainer that puts them together."""

from hotloop.loops.optimizer_step import optimizer_step
from hotloop.loops.trainer import History, Trainer
from hotloop.loops.training_loop import train_epoch
from hotloop.loops.training_step import Batch, Loss, StepResult, training_step
from hotloop.loops.validation_loop import evaluate

__all__ = [
    "Batch",
    "History",
    "Loss",
    "StepResult",
    "Trainer",
    "evaluate",
    "optimizer_step",
    "train_epoch",
    "training_step",
]
