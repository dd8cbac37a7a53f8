"""Write the golden values of optimizers: `python tests/golden/generate_optimizers.py`.

Each case starts from two float64 parameters and takes eight steps of torch's
single-tensor loop, so that RAdam, which rectifies from the sixth step on, does both. For
the rules that torch lacks, pytorch-optimizer and schedulefree take the steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_optimizer
import schedulefree
import torch
from torch import Tensor

GOLDEN = Path(__file__).with_name("optimizers.json")

START = [1.0, -2.0]
GRADIENTS = [
    [0.5, -0.25],
    [-1.0, 0.75],
    [0.1, 0.1],
    [-0.3, -0.6],
    [0.7, 0.02],
    [-0.2, 0.4],
    [0.9, -0.5],
    [0.05, 0.3],
]

#: A name, the class and its options beside a learning rate of 0.1. Mojo's tests find a case
#: by its name.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "adamw": ("AdamW", {"weight_decay": 0.1, "amsgrad": True}),
    "rmsprop": ("RMSprop", {"alpha": 0.9, "weight_decay": 0.1}),
    "rmsprop momentum": ("RMSprop", {"alpha": 0.9, "momentum": 0.5}),
    "rmsprop centered": ("RMSprop", {"alpha": 0.9, "centered": True}),
    "rmsprop both": (
        "RMSprop",
        {"alpha": 0.9, "centered": True, "momentum": 0.5, "maximize": True},
    ),
    "adagrad": ("Adagrad", {}),
    "adagrad decay": (
        "Adagrad",
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1},
    ),
    "adadelta": ("Adadelta", {"rho": 0.8, "weight_decay": 0.1}),
    "adamax": ("Adamax", {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    "nadam": ("NAdam", {"momentum_decay": 0.1, "weight_decay": 0.1}),
    "nadam decoupled": ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": ("RAdam", {"weight_decay": 0.1}),
    "radam decoupled": ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "rprop": ("Rprop", {"step_sizes": (0.03, 0.13)}),
    "adafactor": ("Adafactor", {"weight_decay": 0.1}),
    "adafactor eps": (
        "Adafactor",
        {"beta2_decay": -0.5, "eps": (0.3, 0.1), "d": 1.5, "maximize": True},
    ),
    "asgd": ("ASGD", {"lambd": 0.1, "t0": 3.0, "weight_decay": 0.1}),
}


class Sophia(pytorch_optimizer.SophiaH):
    """Sophia with the estimate of Sophia-G, from two samples, before each step."""

    def step(self) -> None:
        """Move the Hessian by the present gradients, and step."""
        rho, samples = 0.05, 2
        (param,) = self.param_groups[0]["params"]
        super().step(hessian=[rho * samples * param.grad**2])


def schedule_free(kind: Callable[..., Any], params: list[Tensor], **options: Any) -> Any:
    """Return an optimizer of schedulefree, in train mode."""
    optimizer = kind(params, lr=0.1, warmup_steps=3, foreach=False, **options)
    optimizer.train()
    return optimizer


class MuonMomentum:
    """Muon whose momentum buffer is the parameter, since digits of bfloat16 products move."""

    def __init__(self, kind: type[Any], params: list[Tensor], **options: Any) -> None:
        (self.buffer,) = params
        self.matrix = torch.zeros(1, len(START), dtype=torch.float64)
        self.optimizer = kind([self.matrix], **options)
        self.optimizer.state[self.matrix]["momentum_buffer"] = self.buffer.detach()[None]

    def step(self) -> None:
        """Move the buffer by its gradient."""
        assert self.buffer.grad is not None
        self.matrix.grad = self.buffer.grad[None]
        self.optimizer.step()


#: The same for the rules that torch lacks, with the peer that computes them, and for Muon.
PEER_CASES: dict[str, tuple[str, dict[str, Any], Callable[[list[Tensor]], Any]]] = {
    "lion": (
        "Lion",
        {"weight_decay": 0.1},
        lambda p: pytorch_optimizer.Lion(p, lr=0.1, weight_decay=0.1),
    ),
    "adan": (
        "Adan",
        {"weight_decay": 0.1},
        lambda p: pytorch_optimizer.Adan(p, lr=0.1, weight_decay=0.1, eps=1e-8),
    ),
    # The peer counts the first step, which moves nothing, where the authors do not.
    "adopt": (
        "ADOPT",
        {"betas": (0.9, 0.99)},
        lambda p: pytorch_optimizer.ADOPT(
            p, lr=0.1, betas=(0.9, 0.99), clip_lambda=lambda step: (step - 1) ** 0.25
        ),
    ),
    "adopt unclipped": (
        "ADOPT",
        {"betas": (0.9, 0.99), "clip": False},
        lambda p: pytorch_optimizer.ADOPT(
            p, lr=0.1, betas=(0.9, 0.99), clip_lambda=lambda step: math.inf
        ),
    ),
    "sophia": (
        "SophiaG",
        {"betas": (0.9, 0.9), "rho": 0.05},
        lambda p: Sophia(p, lr=0.1, betas=(0.9, 0.9), weight_decay=0.1, p=1.0),
    ),
    "schedule-free sgd": (
        "ScheduleFreeSGD",
        {"warmup_steps": 3, "weight_decay": 0.1},
        lambda p: schedule_free(schedulefree.SGDScheduleFree, p, weight_decay=0.1),
    ),
    "schedule-free adamw": (
        "ScheduleFreeAdamW",
        {"warmup_steps": 3, "weight_decay": 0.1},
        lambda p: schedule_free(schedulefree.AdamWScheduleFree, p, weight_decay=0.1),
    ),
    "muon momentum": (
        "Muon",
        {"momentum": 0.9},
        lambda p: MuonMomentum(torch.optim.Muon, p, momentum=0.9),
    ),
}


def run(make: Callable[[list[Tensor]], Any]) -> list[list[float]]:
    """Return the parameters after each step."""
    param = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = make([param])
    path = []
    for gradient in GRADIENTS:
        param.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        path.append(param.tolist())
    return path


def generate() -> dict[str, Any]:
    """Return what the file holds."""
    cases = {
        case: (name, options, partial(getattr(torch.optim, name), lr=0.1, foreach=False, **options))
        for case, (name, options) in CASES.items()
    }
    entries = {
        case: {"optimizer": name, "options": options, "params": run(make)}
        for case, (name, options, make) in {**cases, **PEER_CASES}.items()
    }
    return {"start": START, "gradients": GRADIENTS, **entries}


def main() -> None:
    """Write the file, an entry a line, as Mojo's tests read it."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in generate().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
