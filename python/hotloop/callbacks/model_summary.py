"""Describes a model by its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hotloop.callbacks.callback import Callback, TrainState
from hotloop.callbacks.rank import is_first_rank

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ModelSummary", "SummaryRow", "summarize"]


@dataclass(frozen=True)
class SummaryRow:
    """What is known of one module.

    Attributes:
        name: Its name, "" for the model itself.
        type: The name of its class.
        depth: How many modules it is inside of.
        output_shape: The shape of the first tensor that it gave last; None if it was not
            called or gave none.
        parameters: Number of its parameters' elements, shared ones counted once.
        trainable: How many of them require a gradient.
        flops: Floating point operations of its part of the forward pass, as torch's
            `FlopCounterMode` counts them: matrix products, convolutions and attention, with a
            multiplication and an addition as two. None without a forward pass.
    """

    name: str
    type: str
    depth: int
    output_shape: tuple[int, ...] | None
    parameters: int
    trainable: int
    flops: int | None


def summarize(model: nn.Module, inputs: Any = None, depth: int = 2) -> list[SummaryRow]:
    """Describe a model, and its modules down to some depth.

    Shapes and operations are those of one forward pass, in evaluation mode and without
    gradients. The model's modes and the states of torch's generators are as before afterwards.

    Args:
        model: The model.
        inputs: What it is called with: a mapping as keyword arguments, a list or tuple as
            arguments, anything else as the only argument. Tensors are moved to the device of
            its parameters. None for no forward pass.
        depth: How deep modules may be to have a row, at least 0; 0 is the model alone.

    Returns:
        The row of the model, which has the totals, and those of its modules in the order of
        `named_modules`; a module that has several names has the first of them.

    Raises:
        ValueError: If `depth` is no int of at least 0.
    """
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
        raise ValueError(f"depth must be an int of at least 0, got {depth!r}")
    described = {name: module for name, module in model.named_modules() if _depth(name) <= depth}
    shapes: dict[str, tuple[int, ...] | None] = {}
    flops: dict[str, int] = {}
    if inputs is not None:
        _call(model, inputs, described, shapes, flops)
    rows = []
    for name, module in described.items():
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        rows.append(
            SummaryRow(
                name,
                type(module).__name__,
                _depth(name),
                shapes.get(name),
                sum(size for size, _ in sizes),
                sum(size for size, is_trainable in sizes if is_trainable),
                None if inputs is None else flops.get(name, 0),
            )
        )
    return rows


class ModelSummary(Callback):
    """Prints a table of a model's modules at the begin of a run, on rank 0.

    Args:
        model: The model.
        example_batch_inputs: What the model is called with, as `inputs` of `summarize`; None
            for no forward pass, and no shapes and operations.
        depth: How deep modules may be to have a row, at least 0.
        console: Where to print; the standard output by default.

    Attributes:
        rows: What was printed last, as `summarize` returns it.

    Raises:
        ValueError: If `depth` is no int of at least 0.
    """

    def __init__(
        self,
        model: nn.Module,
        example_batch_inputs: Any = None,
        depth: int = 2,
        console: Console | None = None,
    ) -> None:
        from rich.console import Console

        self.rows = summarize(model, depth=depth)
        self._model = model
        self._inputs = example_batch_inputs
        self._depth = depth
        self._console = console or Console(highlight=False)

    def on_train_begin(self, state: TrainState) -> None:
        """Print the table, and below it the totals."""
        from rich import box
        from rich.table import Table

        self.rows = summarize(self._model, self._inputs, self._depth)
        if not is_first_rank():
            return
        has_flops = self._inputs is not None
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("name")
        table.add_column("type")
        if has_flops:
            table.add_column("output shape")
        table.add_column("parameters", justify="right")
        if has_flops:
            table.add_column("FLOPs", justify="right")
        for row in self.rows[1:] or self.rows:
            shape = "" if row.output_shape is None else str(list(row.output_shape))
            size = f"{row.parameters:,}"
            if row.trainable < row.parameters:
                size += f" ({row.trainable:,} trainable)"
            cells = ["  " * (row.depth - 1) + row.name, row.type]
            cells += [shape, size, f"{row.flops:,}"] if has_flops else [size]
            # Brackets are markup otherwise.
            table.add_row(*map(_plain, cells))
        self._console.print(table)
        total = self.rows[0]
        text = f"{total.parameters:,} parameters, {total.trainable:,} of them trainable"
        if has_flops:
            text += f"; {total.flops:,} FLOPs of a forward pass"
        self._console.print(text, markup=False, soft_wrap=True)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _call(
    model: nn.Module,
    inputs: Any,
    described: Mapping[str, nn.Module],
    shapes: dict[str, tuple[int, ...] | None],
    flops: dict[str, int],
) -> None:
    """Note what each module gives, and what it takes, in a forward pass."""
    counter = FlopCounterMode(display=False)
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        before: list[int] = []

        def enter(module: nn.Module, args: Any) -> None:
            before.append(counter.get_total_flops())

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            shapes[name] = _shape(output)
            flops[name] = flops.get(name, 0) + counter.get_total_flops() - before.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))

    param = next(model.parameters(), None)
    device = torch.device("cpu") if param is None else param.device
    inputs = _moved(inputs, device)
    try:
        for name, module in described.items():
            watch(name, module)
        with _untouched(model, device), torch.no_grad(), counter:
            if isinstance(inputs, Mapping):
                model(**inputs)
            elif isinstance(inputs, (tuple, list)):
                model(*inputs)
            else:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluate the model, and give its modes and torch's generators their states back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _depth(name: str) -> int:
    return name.count(".") + 1 if name else 0


def _shape(output: Any) -> tuple[int, ...] | None:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((shape for shape in map(_shape, output) if shape is not None), None)
    return None


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return [_moved(value, device) for value in inputs]
    return inputs
