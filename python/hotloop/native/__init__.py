"""Whole training loops in Mojo, for networks whose time goes into dispatch."""

from hotloop.native.fit import fit
from hotloop.programs import NativeTrainer

__all__ = ["NativeTrainer", "fit"]
