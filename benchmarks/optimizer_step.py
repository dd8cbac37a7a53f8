"""Time one optimizer step against torch's implementations, at several model sizes.

`make bench` runs all of it (some 5 minutes, with nothing else running). Every line is the
ratio of torch's time to hotloop's, from interleaved pairs: above 1, hotloop is faster.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
from pathlib import Path

import torch
from torch import Tensor

from hotloop import backend, optimizers
from measure import compare, describe_machine

Shape = tuple[int, ...]


def _mlp(*widths: int) -> list[Shape]:
    return [shape for a, b in itertools.pairwise(widths) for shape in ((b, a), (b,))]


def _gpt2_small() -> list[Shape]:
    width, layers = 768, 12
    layer: list[Shape] = [
        *((width,), (width,)),
        *((3 * width, width), (3 * width,), (width, width), (width,)),
        *((width,), (width,)),
        *((4 * width, width), (4 * width,), (width, 4 * width), (width,)),
    ]
    return [(50257, width), (1024, width), *(layer * layers), (width,), (width,)]


MODELS: dict[str, list[Shape]] = {
    "200 tensors of 16": [(16,)] * 200,
    "25k in 4": _mlp(64, 128, 128),
    "670k in 6": _mlp(784, 512, 512, 10),
    "2.2M in 180": [(153, 160), (160,)] * 90,
    "42M in 24": [(1024, 1706)] * 24,
    "124M in 148 (GPT-2 small)": _gpt2_small(),
}
RULES = {
    "AdamW": {},
    "Adam": {},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
}
PEERS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"foreach": False, "fused": False},
}


def make_params(shapes: list[Shape], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, dtype=dtype)
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", nargs="+", default=["AdamW"], choices=RULES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="prefixes of names")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each ratio")
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"{datetime.date.today()}: {describe_machine()}")
    tell(f"{backend.describe().splitlines()[0]}; {arguments.dtype} parameters")
    tell("")
    tell("| optimizer | parameters | hotloop | vs torch fused | vs foreach | vs single |")
    tell("|---|---|---:|---:|---:|---:|")
    chosen = [m for m in MODELS if any(m.startswith(prefix) for prefix in arguments.models)]
    for rule in arguments.rules:
        for model in chosen:
            cells = measure(rule, MODELS[model], arguments)
            tell(f"| {rule} | {model} | {' | '.join(cells)} |")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


def measure(rule: str, shapes: list[Shape], arguments: argparse.Namespace) -> list[str]:
    """Return the cells of one row: our time, then the ratio to each peer."""
    dtype = getattr(torch, arguments.dtype)
    options = RULES[rule]
    ours = getattr(optimizers, rule)(make_params(shapes, dtype), **options)
    cells: list[str] = []
    for choice in PEERS.values():
        peer = getattr(torch.optim, rule)(make_params(shapes, dtype), **options, **choice)
        comparison = compare(ours.step, peer.step, arguments.seconds)
        if not cells:
            cells.append(f"{comparison.ours * 1e6:,.1f} µs")
        cells.append(str(comparison))
    return cells


if __name__ == "__main__":
    main()
