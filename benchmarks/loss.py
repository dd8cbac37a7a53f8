"""Time losses, forward and backward, against torch's operators and the code it compiles.

Peers are torch's function, the same under `torch.compile`, and for cross entropy a version that is
written by hand with whole-tensor operators. The memory is what a forward and backward pass adds
to the process at its peak, the gradient of the predictions included; Linux tells.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hotloop import backend
from hotloop.losses import (
    bce_with_logits,
    cross_entropy,
    huber,
    linear_cross_entropy,
    mse,
    sigmoid_focal,
)
from measure import compare, describe_machine

Program = Callable[[], object]

CLASSES = {"32 x 10": (32, 10), "256 x 1000": (256, 1000), "8192 x 32000": (8192, 32000)}
LINEAR = (4096, 512, 32000)
ELEMENTS = 1_000_000


class WholeTensor(torch.autograd.Function):
    """Cross entropy by hand: one copy of the logits, which becomes their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        gradient = logits - logits.amax(1, keepdim=True)
        scores = gradient.gather(1, target[:, None])
        gradient.exp_()
        sums = gradient.sum(1, keepdim=True)
        gradient.div_(sums)
        gradient[torch.arange(len(target)), target] -= 1
        gradient.div_(len(target))
        ctx.save_for_backward(gradient)
        return (sums.log() - scores).mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient if grad_output == 1 else gradient * grad_output, None


def torchvision_focal(logits: Tensor, target: Tensor) -> Tensor:
    """`torchvision.ops.sigmoid_focal_loss` with its defaults, and the mean."""
    p = torch.sigmoid(logits)
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    losses = losses * (1 - p_t) ** 2
    return ((0.25 * target + 0.75 * (1 - target)) * losses).mean()


def mean_of(loss: Callable[..., Any], **options: Any) -> Callable[..., Tensor]:
    return lambda *inputs: loss(*inputs, reduction="mean", **options)


class Given(torch.autograd.Function):
    """Logits that are no leaf and may be overwritten; their gradient goes nowhere."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, leaf: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor]:
        return None, torch.zeros(())


def passes(loss: Callable[..., Tensor], inputs: tuple[Tensor, ...], is_lost: bool) -> Program:
    """Return a forward and backward pass; inputs to be lost are copied once."""
    first, *others = inputs
    leaf = torch.zeros((), requires_grad=True)
    values = first.detach().clone() if is_lost else first

    def run() -> None:
        loss(Given.apply(values, leaf) if is_lost else first, *others).backward()
        for tensor in (leaf, *inputs):
            tensor.grad = None

    return run


def cases(dtype: torch.dtype) -> Iterator[tuple[str, tuple[Tensor, ...], Any, dict[str, Any]]]:
    """Yield names, inputs, our loss and its peers."""
    for name, shape in CLASSES.items():
        logits = torch.randn(shape).to(dtype).requires_grad_()
        target = torch.randint(0, shape[1], shape[:1])
        peers: dict[str, Any] = {"torch": functional.cross_entropy}
        peers |= {"by hand": WholeTensor.apply}
        yield f"cross_entropy {name}", (logits, target), mean_of(cross_entropy), peers
        if logits.numel() > ELEMENTS:
            ours = mean_of(cross_entropy, inplace=True)
            yield f"cross_entropy {name}, in place", (logits, target), ours, peers
    rows, width, classes = LINEAR
    input = torch.randn(rows, width).to(dtype).requires_grad_()
    weight = (torch.randn(classes, width) / width**0.5).to(dtype).requires_grad_()
    target = torch.randint(0, classes, (rows,))
    name = f"linear_cross_entropy {rows} x {width} x {classes}"

    def ours(input: Tensor, weight: Tensor, target: Tensor) -> Any:
        return linear_cross_entropy(input, weight, target, reduction="mean")

    def theirs(input: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(input, weight), target)

    peers = {"torch": theirs}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        peers["torch in chunks"] = lambda input, weight, target: functional.linear_cross_entropy(
            input, weight, target, options=options
        )
    yield name, (input, weight, target), ours, peers
    preds = torch.randn(ELEMENTS).to(dtype).requires_grad_()
    target = torch.rand(ELEMENTS).round().to(dtype)
    for loss, peer in (
        (mse, functional.mse_loss),
        (huber, functional.huber_loss),
        (bce_with_logits, functional.binary_cross_entropy_with_logits),
        (sigmoid_focal, torchvision_focal),
    ):
        name = f"{loss.__name__} {ELEMENTS:,}"
        yield name, (preds, target), mean_of(loss), {"torch": peer}


def peak_bytes(program: Program) -> float:
    """Return by how much a program raises the memory of the process at its peak."""
    program()
    Path("/proc/self/clear_refs").write_text("5")
    before = read_status("VmRSS")
    program()
    return read_status("VmHWM") - before


def read_status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", nargs="+", default=[""], help="prefixes of names")
    parser.add_argument("--dtype", choices=["float32", "float64", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each ratio")
    parser.add_argument("--compile", action="store_true", help="time torch.compile, too")
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"{datetime.date.today()}: {describe_machine()}")
    tell(f"{backend.describe().splitlines()[0]}; forward and backward, {arguments.dtype}")
    tell("")
    tell("| loss | ours | memory | peer | its time | ours is faster | its memory |")
    tell("|---|---:|---:|---|---:|---:|---:|")
    for name, inputs, loss, peers in cases(getattr(torch, arguments.dtype)):
        if not name.startswith(tuple(arguments.losses)):
            continue
        if arguments.compile:
            torch.compiler.reset()
            peers = peers | {"torch.compile": torch.compile(peers["torch"])}
        ours = passes(loss, inputs, is_lost="in place" in name)
        for peer, theirs in peers.items():
            program = passes(theirs, inputs, is_lost=False)
            result = compare(ours, program, arguments.seconds)
            sizes = [f"{peak_bytes(run) / 1e6:,.0f} MB" for run in (ours, program)]
            times = [f"{time * 1e6:,.0f} µs" for time in (result.ours, result.theirs)]
            cells = [name, times[0], sizes[0], peer, times[1], result, sizes[1]]
            tell(f"| {' | '.join(map(str, cells))} |")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
