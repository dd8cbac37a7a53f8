"""Whole training loops in Mojo, for networks whose time goes into dispatch."""

from hotloop.native.fit import fit
from hotloop.programs import NativeTrainer
from hotloop.programs.residual import Residual

__all__ = ["NativeTrainer", "Residual", "fit"]
