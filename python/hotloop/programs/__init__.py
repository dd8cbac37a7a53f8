"""Networks as tables of words, which the kernels train in place of torch."""

from hotloop.programs.native_trainer import NativeTrainer

__all__ = ["NativeTrainer"]
