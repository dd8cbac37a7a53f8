"""Write the golden values of schedules: `python tests/golden/generate_schedules.py`.

Each case is a spec and the factors of its first steps, in float64. torch's schedulers give
them where torch has the shape, at an initial learning rate of 1; elsewhere the formulas of
the papers do, written out here. Nothing of hotloop is imported.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler

GOLDEN = Path(__file__).with_name("schedules.json")

STEPS = 24


def of_torch(name: str, *arguments: Any, last: int = STEPS, **options: Any) -> list[float]:
    """Return the learning rates of a torch scheduler; after `last` the value stays."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = getattr(lr_scheduler, name)(optimizer, *arguments, **options)
    values = []
    for step in range(STEPS):
        if step <= last:
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step < last:
                scheduler.step()
        else:
            values.append(values[-1])
    return values


def of_formula(formula: Callable[[int], float]) -> list[float]:
    """Return the values of a function of the step."""
    return [formula(step) for step in range(STEPS)]


def warmup(shape: Callable[[float], float], steps: int, start: float) -> Callable[[int], float]:
    """Return the warm-up whose rise from 0 to 1 is `shape`."""
    return lambda s: start + (1 - start) * shape(min((s + 1) / steps, 1.0))


def decay(left: Callable[[float], float]) -> Callable[[int], float]:
    """Return warm-up, stable and decay over 3, 9 and 6 steps, down to 0.1."""

    def value(s: int) -> float:
        if s < 3:
            return (s + 1) / 3
        return 1.0 if s < 12 else 0.1 + 0.9 * left(min((s - 12) / 6, 1.0))

    return value


def noisy(s: int) -> float:
    """Return a constant 0.5 with a fifth of noise, in 2 of 5 steps, of seed 7."""
    if s % 5 >= 2:
        return 0.5
    mask = 2**64 - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    start = mixed(7 + golden)
    u, v = (mixed((start + (2 * s + i) * golden) & mask) / 2**11 for i in (1, 2))
    normal = math.sqrt(-2 * math.log((math.floor(u) + 1) / 2**53))
    normal *= math.cos(2 * math.pi * math.floor(v) / 2**53)
    return 0.5 * max(1 + 0.2 * normal, 0.1)


def peaks(s: int) -> float:
    """Return cosines of 4, 8, 16 steps whose tops are 1, 1/2, 1/4, down to 0.1."""
    period, top = 4, 1.0
    while s >= period:
        s, period, top = s - period, 2 * period, top / 2
    return 0.1 + (top - 0.1) * (1 + math.cos(math.pi * s / period)) / 2


def cases() -> dict[str, dict[str, Any]]:
    """Return every case by name."""
    made: dict[str, dict[str, Any]] = {}

    def case(label: str, name: str, factors: list[float], /, **fields: Any) -> None:
        made[label] = {"spec": {"name": name, **fields}, "values": factors}

    case("constant", "constant", [0.5] * STEPS, factor=0.5)
    case("step", "step", of_torch("StepLR", 5, 0.5), every=5, gamma=0.5)
    milestones = [2, 7, 7]
    case("multi_step", "multi_step", of_torch("MultiStepLR", milestones), milestones=milestones)
    case("exponential", "exponential", of_torch("ExponentialLR", 0.9), gamma=0.9)
    floored = [max(0.9**s, 0.3) for s in range(STEPS)]
    case("exponential end", "exponential", floored, gamma=0.9, end=0.3)
    linear = of_torch("LinearLR", 0.25, 0.75, 10)
    case("linear", "linear", linear, steps=10, start=0.25, end=0.75)
    cosine = of_torch("CosineAnnealingLR", 12, 0.1, last=12)
    case("cosine", "cosine", cosine, steps=12, end=0.1)
    polynomial = of_torch("PolynomialLR", 10, 2.0)
    case("polynomial", "polynomial", polynomial, steps=10, power=2.0)
    restarts = of_torch("CosineAnnealingWarmRestarts", 4, 2, 0.1)
    case("cosine_restarts", "cosine_restarts", restarts, period=4, multiplier=2, end=0.1)
    same = of_torch("CosineAnnealingWarmRestarts", 5)
    case("cosine_restarts equal", "cosine_restarts", same, period=5)
    fields = {"period": 4, "multiplier": 2, "end": 0.1, "peak": 0.5}
    case("cosine_restarts peak", "cosine_restarts", of_formula(peaks), **fields)
    one = of_torch("OneCycleLR", 1.0, 20, last=19)
    case("one_cycle", "one_cycle", one, steps=20)
    options = {"pct_start": 0.25, "anneal_strategy": "linear", "three_phase": True}
    three = of_torch("OneCycleLR", 1.0, 20, last=19, **options)
    fields = {"steps": 20, "pct_start": 0.25, "shape": "linear", "three_phase": True}
    case("one_cycle three", "one_cycle", three, **fields)
    for shape in ("triangular", "triangular2", "exp_range"):
        options = {"mode": shape, "gamma": 0.95, "cycle_momentum": False}
        values = of_torch("CyclicLR", 0.2, 1.0, 3, 5, **options)
        fields = {"up": 3, "down": 5, "start": 0.2, "shape": shape, "gamma": 0.95}
        case(f"cyclic {shape}", "cyclic", values, **fields)
    case(
        "inverse_sqrt",
        "inverse_sqrt",
        of_formula(lambda s: min((s + 1) / 6, math.sqrt(6 / (s + 1)))),
        warmup=6,
    )
    shapes: dict[str, Callable[[float], float]] = {
        "sqrt": lambda u: 1 - math.sqrt(u),
        "linear": lambda u: 1 - u,
        "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    }
    for shape, left in shapes.items():
        fields = {"steps": 18, "warmup": 3, "decay": 6, "shape": shape, "end": 0.1}
        case(f"wsd {shape}", "warmup_stable_decay", of_formula(decay(left)), **fields)
    rises: dict[str, Callable[[float], float]] = {
        "linear": lambda u: u,
        "cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
        "polynomial": lambda u: u**1.5,
        "exponential": lambda u: (math.exp(5 * u) - 1) / (math.exp(5) - 1),
    }
    for shape, rise in rises.items():
        start = 0.0 if shape == "exponential" else 0.1
        fields = {"steps": 10, "start": start, "shape": shape, "power": 1.5}
        case(f"warmup {shape}", "warmup", of_formula(warmup(rise, 10, start)), **fields)
    geometric = of_formula(lambda s: 0.01 ** (1 - min((s + 1) / 10, 1.0)))
    case("warmup geometric", "warmup", geometric, steps=10, start=0.01, shape="exponential")
    zero = of_torch("LinearLR", 0.1, 1.0, 10)
    case("warmup zero", "warmup", zero, steps=10, start=0.1, include_zero=True)
    points = [[2, 0.5], [6, 1.0], [16, 0.0]]
    line = of_formula(
        lambda s: (
            0.5 if s < 2 else 0.5 + (s - 2) / 8 if s < 6 else 1 - (s - 6) / 10 if s < 16 else 0.0
        )
    )
    case("piecewise", "piecewise", line, points=points)
    held = of_formula(lambda s: 0.5 if s < 6 else 1.0 if s < 16 else 0.0)
    case("piecewise constant", "piecewise", held, points=points, shape="constant")
    values = [0.1, 1.0, 0.3]
    case("table", "table", of_formula(lambda s: values[min(s, 2)]), values=values)
    flat = {"name": "constant", "factor": 0.5}
    fields = {"schedule": flat, "std": 0.2, "window": 0.4, "cycle": 5, "seed": 7}
    case("noisy", "noisy", of_formula(noisy), **fields)

    first = {"name": "warmup", "steps": 4, "start": 0.01, "include_zero": True}
    second = {"name": "cosine", "steps": 6, "end": 0.1}
    joined = of_formula(
        lambda s: (
            0.01 + 0.99 * s / 4
            if s < 4
            else 0.1 + 0.9 * (1 + math.cos(math.pi * min(s - 4, 6) / 6)) / 2
        )
    )
    case("then", "then", joined, first=first, second=second, at=4)
    factors = [{"name": "step", "every": 5, "gamma": 0.5}, {"name": "cosine", "steps": 12}]
    cosines = [(1 + math.cos(math.pi * min(s, 12) / 12)) / 2 for s in range(STEPS)]
    product = [0.5 ** (s // 5) * cosines[s] for s in range(STEPS)]
    case("product", "product", product, factors=factors)
    clamped = [min(max(value, 0.25), 0.9) for value in cosines]
    case("clamp", "clamp", clamped, schedule=factors[1], low=0.25, high=0.9)
    triangle = {"name": "linear", "steps": 5, "start": 1.0, "end": 0.0}
    repeated = of_formula(lambda s: 1 - (s % 5) / 5 if s < 15 else 0.0)
    case("repeat", "repeat", repeated, schedule=triangle, times=3)
    return made


def main() -> None:
    warnings.simplefilter("ignore")
    # A case a line, for readers without a JSON parser.
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in cases().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
