"""Loops that train networks."""

from .batches import Batches
from .metric import Metric, NoMetric, OfClasses, OfValues
from .program import Program, ProgramWord, run_forward, run_gradient
from .trainer import Trainer
from .training_step import TrainingStep, gradient_norm
from .validation_loop import EpochValues, evaluate, predict
