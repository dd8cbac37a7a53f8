"""Training and validation loops, and the trainer that puts them together."""

from hotloop.loops.batch import batch_size, to_device
from hotloop.loops.history import History
from hotloop.loops.optimizer_step import optimizer_step
from hotloop.loops.steps import Steps
from hotloop.loops.trainer import Trainer
from hotloop.loops.training_loop import Observer, Update, train_epoch
from hotloop.loops.training_step import (
    Loss,
    StepFunction,
    StepOutput,
    StepResult,
    forward,
    training_step,
)
from hotloop.loops.validation_loop import evaluate
from hotloop.loops.window import Window

__all__ = [
    "History",
    "Loss",
    "Observer",
    "StepFunction",
    "StepOutput",
    "StepResult",
    "Steps",
    "Trainer",
    "Update",
    "Window",
    "batch_size",
    "evaluate",
    "forward",
    "optimizer_step",
    "to_device",
    "train_epoch",
    "training_step",
]
