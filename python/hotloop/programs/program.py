"""A network as the kernels see it: a table of layers, and a place for each thing in memory.

The words are those of `shared/training/models/table.mojo` and
`shared/training/loops/program.mojo`; a test compares the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hotloop import backend
from hotloop.errors import UnsupportedModelError
from hotloop.layout import LayerKind, LayerWord, ProgramWord
from hotloop.programs.objective import Objective

__all__ = ["Layer", "Program", "supported_layers"]

#: Bytes of what a block of samples leaves in memory, about half of a core's own cache.
_BLOCK_BYTES = 512 * 1024
_DTYPES = {torch.float32: 0, torch.float64: 1}
#: Elements of a vector, or a multiple of it.
_LANES = 16


@dataclass(frozen=True)
class Layer:
    """A layer that has a kernel.

    Attributes:
        kind: One of `LayerKind`.
        inputs: Features that it reads; None if as many as there are.
        outputs: Features that it writes; None if as many as it reads.
        params: Its parameters, or None in the place of one that it does not have.
        option: A number.
    """

    kind: int
    inputs: int | None = None
    outputs: int | None = None
    params: tuple[Tensor | None, ...] = ()
    option: float = 0.0


def _layer_of(module: nn.Module) -> Layer | None:
    """Return the layer of a module, None if it passes samples on as they are."""
    if type(module) in (nn.Identity, nn.Flatten):
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
            raise UnsupportedModelError("Flatten must flatten all but the first dimension")
        return None
    if type(module) is nn.Linear:
        return Layer(
            LayerKind.LINEAR,
            module.in_features,
            module.out_features,
            (module.weight, module.bias),
        )
    if type(module) is nn.ReLU:
        return Layer(LayerKind.RELU)
    if type(module) is nn.LeakyReLU:
        return Layer(LayerKind.LEAKY_RELU, option=module.negative_slope)
    if type(module) is nn.Tanh:
        return Layer(LayerKind.TANH)
    if type(module) is nn.Sigmoid:
        return Layer(LayerKind.SIGMOID)
    if type(module) is nn.SiLU:
        return Layer(LayerKind.SILU)
    if type(module) is nn.GELU:
        is_exact = module.approximate == "none"
        return Layer(LayerKind.GELU if is_exact else LayerKind.GELU_TANH)
    raise UnsupportedModelError(f"{type(module).__name__} has no kernel")


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is nn.Sequential:
        for name, child in module._modules.items():
            assert child is not None
            yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path, module


def supported_layers(model: nn.Module) -> tuple[list[Layer], list[str]]:
    """Return the layers of a model, and a line for each module that has no kernel."""
    layers: list[Layer] = []
    problems: list[str] = []
    for path, module in _leaves(model, ""):
        try:
            layer = _layer_of(module)
            if layer is not None:
                layers.append(layer)
        except UnsupportedModelError as error:
            problems.append(f"{path or 'the model'}: {error}")
    return layers, problems


class Program:
    """The words of a network for batches of one size, and the memory that it works in.

    Args:
        layers: The layers, at least one with parameters.
        batch_size: Samples in a batch.
        threads: The most threads that share a batch.

    Attributes:
        inputs: Features of a sample.
        outputs: Features of an output.
        dtype: The dtype of samples and parameters.
        params: The parameters.
        grads: The gradient of each parameter.
        address: Where the words are.
        losses: The mean loss of each batch of the last run.
        correct: How many samples of each batch were classified right.
        sizes: How many samples each batch has.
    """

    def __init__(self, layers: list[Layer], batch_size: int, threads: int) -> None:
        kernels = backend.current().kernels
        assert kernels is not None
        self.params = [p for layer in layers for p in layer.params if p is not None]
        (dtype,) = {param.dtype for param in self.params}
        self.dtype = dtype
        self.inputs = inputs = next(layer.inputs for layer in layers if layer.inputs is not None)
        self._threads = threads
        self._addresses = [param.data_ptr() for param in self.params]
        sizes = [inputs]
        for layer in layers:
            sizes.append(layer.outputs if layer.outputs is not None else sizes[-1])
        self.outputs = sizes[-1]
        width = max(64, _BLOCK_BYTES // (dtype.itemsize * 2 * sum(sizes)) // 64 * 64)
        block = min(_round_up(batch_size), width)
        threads = max(1, min(threads, -(-batch_size // block)))

        size = _round_up(sum(_round_up(param.numel()) for param in self.params))
        self._grads = _aligned(size * threads, dtype)
        offsets = itertools.accumulate((_round_up(p.numel()) for p in self.params), initial=0)
        self.grads = [
            self._grads[at : at + param.numel()].view(param.shape)
            for at, param in zip(offsets, self.params)
        ]
        addresses = iter(grad.data_ptr() for grad in self.grads)

        self.words = words = np.zeros(ProgramWord.END, np.int64)
        self._table = table = np.zeros((len(layers), LayerWord.END), np.int64)
        numbers = table.view(np.float64)
        end = 0

        def take(count: int) -> int:
            nonlocal end
            start, end = end, end + _round_up(count)
            return start

        words[ProgramWord.ROWS] = take(block * inputs)
        words[ProgramWord.X] = at = take(block * inputs)
        widest = block * max(sizes)
        places = (take(widest), take(widest))
        for index, layer in enumerate(layers):
            row = table[index]
            row[LayerWord.KIND] = layer.kind
            row[LayerWord.INPUTS], row[LayerWord.OUTPUTS] = sizes[index], sizes[index + 1]
            row[LayerWord.X] = at
            row[LayerWord.Y] = at = take(block * sizes[index + 1])
            row[LayerWord.DX], row[LayerWord.DY] = places[index % 2], places[(index + 1) % 2]
            numbers[index, LayerWord.OPTION] = layer.option
            for place, param in enumerate(layer.params):
                if param is not None:
                    row[LayerWord.WEIGHT + place] = param.data_ptr()
                    row[LayerWord.WEIGHT_GRAD + place] = next(addresses)
            kept = kernels.layer_kept(table.ctypes.data, index, block, _DTYPES[dtype])
            row[LayerWord.KEPT] = take(kept)
        first = next(i for i, layer in enumerate(layers) if layer.params)
        table[: first + 1, LayerWord.DX] = -1
        self._workspace = _aligned(end * threads, dtype)
        self._partials = np.zeros(2 * threads, np.int64)

        words[ProgramWord.DTYPE] = _DTYPES[dtype]
        words[ProgramWord.LAYERS] = len(layers)
        words[ProgramWord.TABLE] = table.ctypes.data
        words[ProgramWord.BATCH] = batch_size
        words[ProgramWord.BLOCK] = block
        words[ProgramWord.THREADS] = threads
        words[ProgramWord.WORKSPACE] = self._workspace.data_ptr()
        words[ProgramWord.WORKSPACE_SIZE] = end
        words[ProgramWord.GRADS] = self._grads.data_ptr()
        words[ProgramWord.GRADS_SIZE] = size
        words[ProgramWord.INPUTS] = inputs
        words[ProgramWord.OUTPUTS] = self.outputs
        words[ProgramWord.Y] = table[-1, LayerWord.Y]
        words[ProgramWord.DY] = table[-1, LayerWord.DY]
        words[ProgramWord.PARTIALS] = self._partials.ctypes.data
        self.address = words.ctypes.data

    @property
    def done(self) -> int:
        """How many batches the last run has trained on, also if it was interrupted."""
        return int(self.words[ProgramWord.DONE])

    def is_current(self, threads: int) -> bool:
        """Tell whether the parameters still are where they were, and threads as many."""
        addresses = [param.data_ptr() for param in self.params]
        return addresses == self._addresses and threads == self._threads

    def begin(
        self,
        x: Tensor,
        order: Tensor,
        objective: Objective | None = None,
        *,
        y: Tensor | None = None,
        outputs: Tensor | None = None,
        first_step: int = 0,
    ) -> int:
        """Write what a run works on, and return its number of batches.

        The tensors must be contiguous; they are kept until the next run.

        Args:
            x: Samples.
            order: The numbers of those that are used, in order.
            objective: The loss; None for none.
            y: What the samples' outputs should be.
            outputs: Where the outputs go, in the places of the samples; None for nowhere.
            first_step: How many batches came before.
        """
        words = self.words
        batch_size = int(words[ProgramWord.BATCH])
        steps = -(-len(order) // batch_size)
        self.losses = np.zeros(steps)
        self.correct = np.zeros(steps, np.int64)
        self.sizes = np.full(steps, batch_size)
        self.sizes[-1] = len(order) - batch_size * (steps - 1)
        self._kept = (x, y, order, outputs)
        target = 0 if y is None else y.data_ptr()
        words[ProgramWord.DATA] = x.data_ptr()
        words[ProgramWord.LABELS] = words[ProgramWord.VALUES] = target
        words[ProgramWord.ORDER] = order.data_ptr()
        words[ProgramWord.SAMPLES] = len(order)
        words[ProgramWord.OBJECTIVE] = -1 if objective is None else objective.kind
        words.view(np.float64)[ProgramWord.OPTION] = 0 if objective is None else objective.option
        words[ProgramWord.PREDICTIONS] = 0 if outputs is None else outputs.data_ptr()
        words[ProgramWord.FIRST_STEP] = first_step
        words[ProgramWord.DONE] = 0
        words[ProgramWord.LOSSES] = self.losses.ctypes.data
        words[ProgramWord.CORRECT] = self.correct.ctypes.data
        return steps


def _round_up(count: int) -> int:
    return -(-count // _LANES) * _LANES


def _aligned(count: int, dtype: torch.dtype) -> Tensor:
    """Return zeros that start at a cache line."""
    space = torch.zeros(count + 64 // dtype.itemsize, dtype=dtype)
    skip = -space.data_ptr() % 64 // dtype.itemsize
    return space[skip : skip + count]
