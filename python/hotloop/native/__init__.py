"""Whole training loops in Mojo, for networks whose time goes into dispatch."""

from hotloop.native.native_trainer import NativeTrainer

__all__ = ["NativeTrainer"]
