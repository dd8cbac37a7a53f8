"""Time the whole step, and the norm of all gradients, against torch's sequence.

The whole step clips to a norm, updates, moves an average and zeroes the gradients. torch's
sequence for it is `clip_grad_norm_`, the fused `step`, `_foreach_lerp_` and
`zero_grad(set_to_none=False)`. Before each call, outside of what is timed, the gradients
are filled anew: with zeros the moments would soon be subnormal numbers, which are slow.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hotloop import backend
from hotloop.optimizers import AdamW, WeightAverage
from measure import compare, describe_machine
from models import MODELS, choose_models, make_params

MAX_NORM = 1.0
DECAY = 0.999


class Model(nn.Module):
    """A module that is nothing but its parameters."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__()
        for index, param in enumerate(params):
            self.register_parameter(f"param{index}", param)


def make_ours(params: list[Tensor]) -> Callable[[], object]:
    optimizer = AdamW(params)
    average = WeightAverage(Model(params), DECAY)
    return lambda: optimizer.fused_step(max_norm=MAX_NORM, average=average, zero_grad=True)


def make_theirs(params: list[Tensor]) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(params, fused=True)
    averages = [param.detach().clone() for param in params]

    @torch.no_grad()
    def step() -> None:
        nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()
        torch._foreach_lerp_(averages, params, 1 - DECAY)
        optimizer.zero_grad(set_to_none=False)

    return step


def make_fill(params: list[Tensor]) -> Callable[[], object]:
    grads = [param.grad for param in params]
    values = [grad.clone() for grad in grads]
    return lambda: torch._foreach_copy_(grads, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[""], help="prefixes of names")
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
    tell(f"{backend.describe().splitlines()[0]}; AdamW, float32")
    tell("")
    tell("| parameters | whole step | vs torch's sequence | norm | vs get_total_norm |")
    tell("|---|---:|---:|---:|---:|")
    for model in choose_models(arguments.models):
        shapes = MODELS[model]
        params, other = (make_params(shapes, torch.float32) for _ in range(2))
        step = compare(
            make_ours(params),
            make_theirs(other),
            arguments.seconds,
            before=(make_fill(params), make_fill(other)),
        )
        optimizer = AdamW(params)
        grads = [param.grad for param in params]
        norm = compare(
            optimizer.grad_norm,
            lambda grads=grads: nn.utils.get_total_norm(grads),
            arguments.seconds,
        )
        cells = [f"{step.ours * 1e6:,.1f} µs", step, f"{norm.ours * 1e6:,.1f} µs", norm]
        tell(f"| {model} | {' | '.join(map(str, cells))} |")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
