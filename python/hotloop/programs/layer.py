"""The layers that have kernels, and the shapes that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.errors import UnsupportedModelError
from hotloop.layout import LayerKind, LayerWord
from hotloop.programs.residual import Residual

__all__ = ["Layer", "Part", "Shape", "ShapeError", "supported_parts"]

#: The lengths of a sample.
Shape = tuple[int, ...]
#: The largest number of entries whose indices are exact in each dtype.
_ENTRIES_MAX = {torch.float32: 1 << 24, torch.float64: 1 << 53}


class ShapeError(UnsupportedModelError, ValueError):
    """Samples of a shape for which a module has no kernel; the message names the module."""


@dataclass(frozen=True)
class Layer:
    """A layer that has a kernel, for samples of one shape.

    Attributes:
        kind: One of `LayerKind`.
        shape: The shape of its outputs.
        params: Its parameters, or None in the place of one that it does not have.
        buffers: Running means, running variances and their number of batches, or none.
        option: A number.
        momentum: The weight of a batch in running statistics; negative for a mean of all.
        words: More of its row in the table, by `LayerWord`.
        batch_positions: How many values of each sample share batch statistics; 0 without those.
        is_always_batch: Whether batch statistics are taken in evaluation, too.
    """

    kind: int
    shape: Shape
    params: tuple[Tensor | None, ...] = ()
    buffers: tuple[Tensor, ...] = ()
    option: float = 0.0
    momentum: float = 0.0
    words: dict[int, int] = field(default_factory=dict)
    batch_positions: int = 0
    is_always_batch: bool = False


@dataclass(frozen=True)
class Part:
    """A module of a model, or an end of a shortcut.

    Attributes:
        path: Its name in the model.
        place: Returns its layer for samples of a shape, or the shape that it makes of them where
            there is nothing to compute. Raises ValueError if the shape does not fit.
        params: Its parameters.
        buffers: What it writes in training.
        indices: How many entries an embedding has; 0 for other modules.
    """

    path: str
    place: Callable[[Shape], Layer | Shape]
    params: tuple[Tensor, ...] = ()
    buffers: tuple[Tensor, ...] = ()
    indices: int = 0


def supported_parts(model: nn.Module) -> tuple[list[Part], list[str]]:
    """Return the parts of a model, and a line for each module that has no kernel."""
    parts: list[Part] = []
    problems: list[str] = []
    for path, module in _leaves(model, ""):
        try:
            part = module if isinstance(module, Part) else _part_of(path, module)
        except UnsupportedModelError as error:
            problems.append(f"{path or 'the model'}: {error}")
            continue
        if part.indices and parts:
            problems.append(f"{path}: Embedding must be the first layer")
        parts.append(part)
    return parts, problems


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module | Part]]:
    if type(module) is nn.Sequential:
        for name, child in module._modules.items():
            assert child is not None
            yield from _leaves(child, f"{path}.{name}" if path else name)
    elif type(module) is Residual:
        shapes: list[Shape] = []

        def start(shape: Shape) -> Layer:
            shapes[:] = [shape]
            return Layer(LayerKind.SHORTCUT_START, shape)

        def end(shape: Shape) -> Layer:
            if shape != shapes[0]:
                raise ValueError(f"Residual has samples of shape {shapes[0]}, and makes {shape}")
            return Layer(LayerKind.SHORTCUT_END, shape)

        yield path, Part(path, start)
        yield from _leaves(module.inner, f"{path}.inner" if path else "inner")
        yield path, Part(path, end)
    else:
        yield path, module


def _part_of(path: str, module: nn.Module) -> Part:
    if type(module) not in _PLACES:
        raise UnsupportedModelError(f"{type(module).__name__} has no kernel")
    check, place = _PLACES[type(module)]
    check(module)
    return Part(
        path,
        lambda shape: place(module, shape),
        tuple(module.parameters()),
        tuple(each for each in module.buffers() if each.is_floating_point()),
        module.num_embeddings if isinstance(module, nn.Embedding) else 0,
    )


def _require(module: nn.Module, **allowed: Any) -> None:
    """Raise if an option of a module is not the one that its kernel has."""
    for name, value in allowed.items():
        found = getattr(module, name)
        if isinstance(value, bool) or value is None:
            is_right = found is value
        else:
            is_right = (found if isinstance(found, tuple) else (found,) * 2) == (value,) * 2
        if not is_right:
            raise UnsupportedModelError(
                f"{type(module).__name__} must have {name}={value!r}, got {found!r}"
            )


def _refuse(module: nn.Module, takes: str, shape: Shape, hint: str = "") -> ValueError:
    return ValueError(f"{type(module).__name__} takes {takes}, got samples of shape {shape}{hint}")


# Each pair checks the options of a module, and makes its layer.


def _check_nothing(module: nn.Module) -> None:
    pass


def _place_identity(module: nn.Identity, shape: Shape) -> Shape:
    return shape


def _check_flatten(module: nn.Flatten) -> None:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise UnsupportedModelError("Flatten must flatten all but the first dimension")


def _place_flatten(module: nn.Flatten, shape: Shape) -> Shape:
    return (math.prod(shape),)


def _place_linear(module: nn.Linear, shape: Shape) -> Layer:
    if shape != (module.in_features,):
        hint = "; add nn.Flatten()" if len(shape) > 1 else ""
        raise _refuse(module, f"{module.in_features} features", shape, hint)
    return Layer(LayerKind.LINEAR, (module.out_features,), (module.weight, module.bias))


def _elementwise(kind: int) -> Callable[[Any, Shape], Layer]:
    return lambda module, shape: Layer(kind, shape)


def _place_leaky_relu(module: nn.LeakyReLU, shape: Shape) -> Layer:
    return Layer(LayerKind.LEAKY_RELU, shape, option=module.negative_slope)


def _place_gelu(module: nn.GELU, shape: Shape) -> Layer:
    is_exact = module.approximate == "none"
    return Layer(LayerKind.GELU if is_exact else LayerKind.GELU_TANH, shape)


def _place_layer_norm(module: nn.LayerNorm, shape: Shape) -> Layer:
    if shape != tuple(module.normalized_shape):
        takes = f"whole samples of shape {tuple(module.normalized_shape)}"
        raise _refuse(module, takes, shape)
    return Layer(LayerKind.LAYER_NORM, shape, (module.weight, module.bias), option=module.eps)


def _check_batch_norm(module: Any) -> None:
    if (module.running_mean is None) != (module.running_var is None):
        raise UnsupportedModelError(
            f"{type(module).__name__} must have both running_mean and running_var, or neither"
        )


def _place_batch_norm(module: Any, shape: Shape) -> Layer:
    ranks = (3,) if isinstance(module, nn.BatchNorm2d) else (1, 2)
    if len(shape) not in ranks or shape[0] != module.num_features:
        dimensions = "(C, H, W)" if isinstance(module, nn.BatchNorm2d) else "(C,) or (C, L)"
        raise _refuse(module, f"{dimensions} with C = {module.num_features}", shape)
    buffers: tuple[Tensor, ...] = ()
    if module.running_mean is not None:
        buffers = (module.running_mean, module.running_var)
        if module.num_batches_tracked is not None:
            buffers += (module.num_batches_tracked,)
    return Layer(
        LayerKind.BATCH_NORM,
        shape,
        (module.weight, module.bias),
        buffers,
        option=module.eps,
        momentum=-1.0 if module.momentum is None else module.momentum,
        words={LayerWord.CHANNELS: shape[0]},
        batch_positions=math.prod(shape[1:]),
        is_always_batch=not buffers,
    )


def _check_dropout(module: nn.Dropout) -> None:
    if not 0 <= module.p < 1:
        raise UnsupportedModelError(f"Dropout must have p in [0, 1), got {module.p}")


def _place_dropout(module: nn.Dropout, shape: Shape) -> Layer:
    return Layer(LayerKind.DROPOUT, shape, option=module.p)


def _check_embedding(module: nn.Embedding) -> None:
    _require(module, max_norm=None, scale_grad_by_freq=False, sparse=False)
    most = _ENTRIES_MAX.get(module.weight.dtype, 0)
    if module.num_embeddings > most:
        raise UnsupportedModelError(
            f"Embedding must have at most {most} entries in {module.weight.dtype}, got "
            f"{module.num_embeddings}"
        )


def _place_embedding(module: nn.Embedding, shape: Shape) -> Layer:
    padding = -1 if module.padding_idx is None else module.padding_idx
    return Layer(
        LayerKind.EMBEDDING,
        (*shape, module.embedding_dim),
        (module.weight,),
        words={LayerWord.ENTRIES: module.num_embeddings, LayerWord.PADDING_INDEX: padding},
    )


def _check_conv2d(module: nn.Conv2d) -> None:
    _require(module, groups=1, dilation=1)
    if module.padding_mode != "zeros":
        raise UnsupportedModelError(
            f"Conv2d must have padding_mode='zeros', got {module.padding_mode!r}"
        )


def _place_conv2d(module: nn.Conv2d, shape: Shape) -> Layer:
    if len(shape) != 3 or shape[0] != module.in_channels:
        raise _refuse(module, f"(C, H, W) with C = {module.in_channels}", shape)
    kernel = module.kernel_size
    padding: Any = module.padding
    sizes = None
    if padding == "same":
        # What does not fit on both sides goes below and right.
        padding, sizes = tuple((each - 1) // 2 for each in kernel), shape[1:]
    elif padding == "valid":
        padding = (0, 0)
    words = _window(module, shape, kernel, module.stride, padding, sizes)
    height, width = words[LayerWord.OUT_HEIGHT], words[LayerWord.OUT_WIDTH]
    return Layer(
        LayerKind.CONV2D,
        (module.out_channels, height, width),
        (module.weight, module.bias),
        words=words,
    )


def _check_max_pool2d(module: nn.MaxPool2d) -> None:
    _require(module, dilation=1, return_indices=False, ceil_mode=False)


def _place_max_pool2d(module: nn.MaxPool2d, shape: Shape) -> Layer:
    return _place_pool(LayerKind.MAX_POOL2D, module, shape)


def _check_avg_pool2d(module: nn.AvgPool2d) -> None:
    _require(module, ceil_mode=False, divisor_override=None)


def _place_avg_pool2d(module: nn.AvgPool2d, shape: Shape) -> Layer:
    return _place_pool(
        LayerKind.AVG_POOL2D, module, shape, 1.0 if module.count_include_pad else 0.0
    )


def _place_pool(kind: int, module: Any, shape: Shape, option: float = 0.0) -> Layer:
    if len(shape) != 3:
        raise _refuse(module, "(C, H, W)", shape)
    kernel, padding = _pair(module.kernel_size), _pair(module.padding)
    if any(2 * pad > size for pad, size in zip(padding, kernel)):
        raise ValueError(
            f"{type(module).__name__} must have a padding of at most half of its kernel, got "
            f"{padding} for {kernel}"
        )
    stride = kernel if module.stride is None else _pair(module.stride)
    words = _window(module, shape, kernel, stride, padding)
    height, width = words[LayerWord.OUT_HEIGHT], words[LayerWord.OUT_WIDTH]
    return Layer(kind, (shape[0], height, width), option=option, words=words)


def _check_adaptive_pool2d(module: nn.AdaptiveAvgPool2d) -> None:
    _require(module, output_size=1)


def _place_adaptive_pool2d(module: nn.AdaptiveAvgPool2d, shape: Shape) -> Layer:
    if len(shape) != 3:
        raise _refuse(module, "(C, H, W)", shape)
    words = _window(module, shape, shape[1:], (1, 1), (0, 0))
    return Layer(LayerKind.AVG_POOL2D, (shape[0], 1, 1), option=1.0, words=words)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple) else (value, value)
    return int(first), int(second)


def _window(
    module: nn.Module,
    shape: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    sizes: Shape | None = None,
) -> dict[int, int]:
    """Return the words of a window on images of a shape.

    Args:
        module: Its module.
        shape: (C, H, W).
        kernel: Rows and columns of the window.
        stride: Rows and columns from a place to the next.
        padding: Rows above, and columns left of the image.
        sizes: How many places there are from top to bottom, and from left to right; as many as
            with the same padding below and right by default.
    """
    if sizes is None:
        sizes = tuple(
            (size + 2 * pad - taps) // step + 1
            for size, taps, step, pad in zip(shape[1:], kernel, stride, padding)
        )
    if min(sizes) < 1:
        raise _refuse(module, f"images of at least {kernel} pixels", shape)
    words = (*shape, *sizes, *kernel, *stride, *padding)
    return dict(zip(range(LayerWord.CHANNELS, LayerWord.PADDING_WIDTH + 1), words))


_PLACES: dict[type[nn.Module], tuple[Callable[[Any], None], Callable[[Any, Shape], Any]]] = {
    nn.Identity: (_check_nothing, _place_identity),
    nn.Flatten: (_check_flatten, _place_flatten),
    nn.Linear: (_check_nothing, _place_linear),
    nn.ReLU: (_check_nothing, _elementwise(LayerKind.RELU)),
    nn.LeakyReLU: (_check_nothing, _place_leaky_relu),
    nn.Tanh: (_check_nothing, _elementwise(LayerKind.TANH)),
    nn.Sigmoid: (_check_nothing, _elementwise(LayerKind.SIGMOID)),
    nn.SiLU: (_check_nothing, _elementwise(LayerKind.SILU)),
    nn.GELU: (_check_nothing, _place_gelu),
    nn.LayerNorm: (_check_nothing, _place_layer_norm),
    nn.BatchNorm1d: (_check_batch_norm, _place_batch_norm),
    nn.BatchNorm2d: (_check_batch_norm, _place_batch_norm),
    nn.Dropout: (_check_dropout, _place_dropout),
    nn.Embedding: (_check_embedding, _place_embedding),
    nn.Conv2d: (_check_conv2d, _place_conv2d),
    nn.MaxPool2d: (_check_max_pool2d, _place_max_pool2d),
    nn.AvgPool2d: (_check_avg_pool2d, _place_avg_pool2d),
    nn.AdaptiveAvgPool2d: (_check_adaptive_pool2d, _place_adaptive_pool2d),
}
