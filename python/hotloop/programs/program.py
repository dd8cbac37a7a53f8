"""A network as the kernels see it: a table of layers, and a place for each thing in memory.

The words are those of `shared/training/models/table.mojo` and
`shared/training/loops/program.mojo`; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch
from torch import Tensor

from hotloop import backend
from hotloop.layout import LayerKind, LayerWord, ProgramWord
from hotloop.programs.layer import Layer, Part, Shape, ShapeError
from hotloop.programs.objective import Objective

__all__ = ["Program"]

#: Bytes of what a block of samples leaves in memory, about half of a core's own cache.
_BLOCK_BYTES = 512 * 1024
_DTYPES = {torch.float32: 0, torch.float64: 1}
#: Elements of a vector, or a multiple of it.
_LANES = 16


class Program:
    """The words of a network for batches of one size, and the memory that it works in.

    Args:
        parts: The network, with at least one parameter.
        shape: The shape of a sample.
        batch_size: Samples in a batch.
        threads: The most threads that share a batch; one does with batch statistics.

    Attributes:
        shape: The shape of a sample.
        output_shape: The shape of an output.
        outputs: Features of an output.
        dtype: The dtype of parameters and outputs.
        has_dropout: Whether a seed is used.
        params: The parameters.
        grads: The gradient of each parameter.
        address: Where the words are.
        losses: The mean loss of each batch of the last run.
        norms: The norm of the gradients of each, where the optimizer's plan measures it; NaN of
            those that were not reached.
        squares: The sum of the squares of the linear layers' weights before each, if that was asked
            for.
        correct: How many samples of each batch were classified right.
        sizes: How many samples each batch has.

    Raises:
        ShapeError: If a module has no kernel for samples of the shape, or they do not fit.
    """

    def __init__(self, parts: list[Part], shape: Shape, batch_size: int, threads: int) -> None:
        kernels = backend.current().kernels
        assert kernels is not None
        self.shape = shape
        self._layers = layers = _placed(parts, shape)
        self.output_shape = layers[-1].shape
        self.params = [p for layer in layers for p in layer.params if p is not None]
        (dtype,) = {param.dtype for param in self.params}
        self.dtype = dtype
        self._threads = threads
        self._addresses = self._current_addresses()
        self.has_dropout = any(layer.kind == LayerKind.DROPOUT for layer in layers)
        inputs = math.prod(shape)
        sizes = [inputs, *(math.prod(layer.shape) for layer in layers)]
        self.outputs = sizes[-1]
        width = max(64, _BLOCK_BYTES // (dtype.itemsize * 2 * sum(sizes)) // 64 * 64)
        if any(layer.batch_positions for layer in layers):
            # Statistics of a batch are taken of a block.
            width, threads = _round_up(batch_size), 1
        # Blocks of about one size: a small rest would cost as much as a whole vector of samples.
        blocks = max(1, round(batch_size / width))
        block = _round_up(-(-batch_size // blocks))
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

        # Rows may be a vector longer.
        words[ProgramWord.ROWS] = rows = take(block * (_round_up(inputs) + _LANES))
        words[ProgramWord.X] = at = take(block * inputs)
        widest = block * max(sizes)
        places = (take(widest), take(widest))
        shortcuts: list[int] = []
        for index, layer in enumerate(layers):
            row = table[index]
            row[LayerWord.KIND] = layer.kind
            row[LayerWord.INPUTS], row[LayerWord.OUTPUTS] = sizes[index], sizes[index + 1]
            row[LayerWord.X] = at
            if layer.kind != LayerKind.SHORTCUT_START:
                at = take(block * sizes[index + 1])
            row[LayerWord.Y] = at
            row[LayerWord.DX], row[LayerWord.DY] = places[index % 2], places[(index + 1) % 2]
            row[LayerWord.STREAM] = index
            for word, value in layer.words.items():
                row[word] = value
            for place, buffer in enumerate(layer.buffers):
                row[LayerWord.MEAN + place] = buffer.data_ptr()
            numbers[index, LayerWord.OPTION] = layer.option
            numbers[index, LayerWord.MOMENTUM] = layer.momentum
            for place, param in enumerate(layer.params):
                if param is not None:
                    row[LayerWord.WEIGHT + place] = param.data_ptr()
                    row[LayerWord.WEIGHT_GRAD + place] = next(addresses)
            if layer.kind == LayerKind.SHORTCUT_END:
                row[LayerWord.KEPT] = shortcuts.pop()
            else:
                kept = kernels.layer_kept(table.ctypes.data, index, block, _DTYPES[dtype])
                is_gathered = index == 0 and layer.kind == LayerKind.LINEAR and kept > 0
                row[LayerWord.KEPT] = rows if is_gathered else take(kept)
                if is_gathered:
                    numbers[index, LayerWord.OPTION] = 1.0
            if layer.kind == LayerKind.SHORTCUT_START:
                shortcuts.append(int(row[LayerWord.KEPT]))
        first = next(
            i for i, layer in enumerate(layers) if any(p is not None for p in layer.params)
        )
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
        words[ProgramWord.HAS_INDICES] = layers[0].kind == LayerKind.EMBEDDING
        words[ProgramWord.OUTPUTS] = self.outputs
        words[ProgramWord.Y] = table[-1, LayerWord.Y]
        words[ProgramWord.DY] = table[-1, LayerWord.DY]
        words[ProgramWord.PARTIALS] = self._partials.ctypes.data
        self.address = words.ctypes.data

    @property
    def done(self) -> int:
        """How many batches the last run has trained on, also if it was interrupted."""
        return int(self.words[ProgramWord.DONE])

    def is_current(self, shape: Shape, threads: int) -> bool:
        """Tell whether all tensors still are where they were, and the rest is the same."""
        addresses = self._current_addresses()
        return (addresses, shape, threads) == (self._addresses, self.shape, self._threads)

    def check_batches(self, samples: int, is_training: bool) -> None:
        """Raise if statistics of a batch would be those of one value.

        Args:
            samples: How many samples all batches have.
            is_training: Whether they are trained on.

        Raises:
            ValueError: If they would.
        """
        batch_size = int(self.words[ProgramWord.BATCH])
        least = min(samples, samples % batch_size or batch_size)
        for layer in self._layers:
            is_used = is_training or layer.is_always_batch
            if is_used and layer.batch_positions * least == 1:
                raise ValueError(
                    "Expected more than 1 value per channel when training, got a batch of "
                    f"{least} sample of {samples} with batch_size={batch_size}"
                )

    def begin(
        self,
        x: Tensor,
        order: Tensor,
        objective: Objective | None = None,
        *,
        y: Tensor | None = None,
        weights: Tensor | None = None,
        outputs: Tensor | None = None,
        first_step: int = 0,
        seed: int = 0,
        needs_squares: bool = False,
    ) -> int:
        """Write what a run works on, and return its number of batches.

        The tensors must be contiguous; they are kept until the next run.

        Args:
            x: Samples.
            order: The numbers of those that are used, in order; a row for each epoch, or a vector.
            objective: The loss; None for none.
            y: What the samples' outputs should be.
            weights: The weight of each sample, in `dtype`; no batch's sum is 0. None for none.
            outputs: Where the outputs go, in the places of the samples; None for nowhere.
            first_step: How many batches came before.
            seed: Where random numbers begin.
            needs_squares: Whether `squares` are needed.
        """
        words = self.words
        batch_size = int(words[ProgramWord.BATCH])
        epoch = order.shape[-1]
        batches = -(-epoch // batch_size)
        sizes = np.full(batches, batch_size)
        sizes[-1] = epoch - batch_size * (batches - 1)
        self.sizes = np.tile(sizes, order.numel() // epoch)
        steps = len(self.sizes)
        self.losses = np.zeros(steps)
        self.squares = np.zeros(steps)
        self.norms = np.full(steps, math.nan)
        self.correct = np.zeros(steps, np.int64)
        self._kept = (x, y, weights, order, outputs)
        target = 0 if y is None else y.data_ptr()
        words[ProgramWord.DATA] = x.data_ptr()
        words[ProgramWord.LABELS] = words[ProgramWord.VALUES] = target
        words[ProgramWord.WEIGHTS] = 0 if weights is None else weights.data_ptr()
        words[ProgramWord.ORDER] = order.data_ptr()
        words[ProgramWord.EPOCH] = epoch
        words[ProgramWord.OBJECTIVE] = -1 if objective is None else objective.kind
        words.view(np.float64)[ProgramWord.OPTION] = 0 if objective is None else objective.option
        words[ProgramWord.PREDICTIONS] = 0 if outputs is None else outputs.data_ptr()
        words[ProgramWord.FIRST_STEP] = first_step
        words[ProgramWord.SEED] = seed
        words[ProgramWord.DONE] = 0
        words[ProgramWord.LOSSES] = self.losses.ctypes.data
        words[ProgramWord.SQUARES] = self.squares.ctypes.data if needs_squares else 0
        words[ProgramWord.NORMS] = self.norms.ctypes.data
        words[ProgramWord.CORRECT] = self.correct.ctypes.data
        return steps

    def _current_addresses(self) -> list[int]:
        buffers = [buffer for layer in self._layers for buffer in layer.buffers]
        return [tensor.data_ptr() for tensor in [*self.params, *buffers]]


def _placed(parts: list[Part], shape: Shape) -> list[Layer]:
    """Return the layers of parts for samples of a shape."""
    layers = []
    for part in parts:
        try:
            placed = part.place(shape)
        except ValueError as error:
            raise ShapeError(f"{part.path or 'the model'}: {error}") from None
        if isinstance(placed, Layer):
            layers.append(placed)
            shape = placed.shape
        else:
            shape = placed
    if shape != layers[-1].shape:
        layers[-1] = dataclasses.replace(layers[-1], shape=shape)
    return layers


def _round_up(count: int) -> int:
    return -(-count // _LANES) * _LANES


def _aligned(count: int, dtype: torch.dtype) -> Tensor:
    """Return zeros that start at a cache line."""
    space = torch.zeros(count + 64 // dtype.itemsize, dtype=dtype)
    skip = -space.data_ptr() % 64 // dtype.itemsize
    return space[skip : skip + count]
