"""Time one optimizer step against its peers, at several model sizes.

Every ratio is the peer's time by hotloop's, from interleaved pairs: above 1, hotloop is
faster. Nothing else may run meanwhile. torch's variants are always there; the other peers
(deepspeed, bitsandbytes, torchao, pytorch-optimizer, schedulefree) where they are installed.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

import torch

from hotloop import backend, optimizers
from measure import compare, describe_machine
from models import MODELS, choose_models, make_params
from peers import find_peers, make_optimizer

#: The optimizers, and options other than the defaults.
RULES: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "Adam": {},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "RMSprop": {},
    "Adagrad": {},
    "Adadelta": {},
    "Adafactor": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "Rprop": {},
    "ASGD": {},
    "Lion": {},
    "Adan": {},
    "ADOPT": {},
    "LAMB": {},
    "LARS": {"lr": 0.1},
    "Muon": {},
    "ScheduleFreeSGD": {},
    "ScheduleFreeAdamW": {},
    "AdamW8bit": {},
    "Lion8bit": {},
}
#: Those that take no parameters but matrices.
MATRICES_ONLY = {"Muon"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", nargs="+", default=["AdamW"], choices=RULES)
    parser.add_argument("--models", nargs="+", default=[""], help="prefixes of names")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each ratio")
    parser.add_argument("--best", action="store_true", help="only the fastest peer of each row")
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
    tell("| optimizer | parameters | hotloop | the fastest peer | others |")
    tell("|---|---|---:|---|---|")
    for rule in arguments.rules:
        for model in choose_models(arguments.models):
            cells = measure(rule, model, arguments)
            tell(f"| {rule} | {model} | {' | '.join(cells)} |")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


def measure(rule: str, model: str, arguments: argparse.Namespace) -> list[str]:
    """Return the cells of one row: our time, the ratio to the fastest peer, the others."""
    dtype = getattr(torch, arguments.dtype)
    shapes = [s for s in MODELS[model] if rule not in MATRICES_ONLY or len(s) == 2]
    if not shapes:
        return ["-"] * 3

    def make(factory: Any) -> Any:
        return make_optimizer(factory, make_params(shapes, dtype), RULES[rule])

    factories = find_peers(rule)
    order = sorted(factories, key=lambda name: _time_once(make(factories[name])))
    ours = make(getattr(optimizers, rule))
    ratios = {}
    for name in order[:1] if arguments.best else order:
        peer = make(factories[name])
        ratios[name] = compare(ours.step, peer.step, arguments.seconds)
    first, *others = sorted(ratios, key=lambda name: ratios[name].ratio)
    return [
        f"{ratios[first].ours * 1e6:,.1f} µs",
        f"{first}: {ratios[first]}",
        ", ".join(f"{name} {ratios[name]}" for name in others) or "-",
    ]


def _time_once(optimizer: Any) -> float:
    """Return the least of a few steps' times, enough to tell which peer is the fastest."""
    for _ in range(2):
        optimizer.step()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
