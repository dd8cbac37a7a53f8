"""Time one step of a scheduler over 4 param groups against torch's of the same curve.

The ratio is the peer's time by hotloop's, from interleaved pairs: above 1, hotloop is
faster. Nothing else may run meanwhile. transformers' curve is there if it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

import measure
from hotloop.schedulers import Constant, Cosine, Schedule, Scheduler, Step, Warmup

GROUPS = 4
TOTAL = 10_000_000
WARMUP = 100


def optimizer() -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1 * (index + 1)}
        for index in range(GROUPS)
    ]
    return torch.optim.SGD(groups, lr=0.1)


def cosine(step: int) -> float:
    return (1 + math.cos(math.pi * min(step / TOTAL, 1))) / 2


def sequential(opt: torch.optim.Optimizer) -> Any:
    warmup = lr_scheduler.LinearLR(opt, 0.01, 1.0, WARMUP)
    rest = lr_scheduler.CosineAnnealingLR(opt, TOTAL)
    return lr_scheduler.SequentialLR(opt, [warmup, rest], [WARMUP])


def of_transformers(opt: torch.optim.Optimizer) -> Any:
    from transformers import get_cosine_schedule_with_warmup

    return get_cosine_schedule_with_warmup(opt, WARMUP, TOTAL)


Make = Callable[[torch.optim.Optimizer], Any]
WARMED = Warmup(WARMUP).then(Cosine(TOTAL))
CURVES: list[tuple[str, Schedule, dict[str, Make]]] = [
    (
        "constant",
        Constant(),
        {
            "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 1.0),
            "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1.0),
        },
    ),
    (
        "step",
        Step(1000, 0.5),
        {
            "StepLR": lambda opt: lr_scheduler.StepLR(opt, 1000, 0.5),
            "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda s: 0.5 ** (s // 1000)),
        },
    ),
    (
        "cosine",
        Cosine(TOTAL),
        {
            "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, TOTAL),
            "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, cosine),
        },
    ),
    (
        "warm-up, cosine",
        WARMED,
        {"SequentialLR": sequential, "transformers": of_transformers},
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each ratio")
    parser.add_argument("--report", help="also write the table to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        f"One scheduler step, {GROUPS} groups. {measure.describe_machine()}",
        "",
        "| curve | hotloop | peers |",
        "|---|---:|---|",
    ]
    for name, schedule, peers in CURVES:
        cells = []
        for peer, make in peers.items():
            if peer == "transformers" and importlib.util.find_spec("transformers") is None:
                cells.append("transformers left out: not installed")
                continue
            ours = Scheduler(optimizer(), schedule).step
            result = measure.compare(ours, make(optimizer()).step, arguments.seconds)
            cells.append(f"{peer} {result}")
        lines.append(f"| {name} | {result.ours * 1e6:.2f} µs | {', '.join(cells)} |")
        print(lines[-1], flush=True)
    if arguments.report:
        with open(arguments.report, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
