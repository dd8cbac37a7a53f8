"""Loops that train networks."""

from .program import Program, ProgramWord, run_forward, run_gradient
from .trainer import Batches, EpochValues, Trainer
