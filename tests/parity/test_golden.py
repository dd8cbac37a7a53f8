"""Our optimizers against digits of torch and peers that are kept in a file.

They hold still where torch moves: a torch that rounds or computes otherwise fails
`test_the_file_is_theirs`, not the tests of ours.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch

from hotloop import optimizers
from hotloop.optimizers import Muon
from tests.golden.generate_optimizers import (
    CASES,
    GOLDEN,
    GRADIENTS,
    PEER_CASES,
    START,
    MuonMomentum,
    generate,
)

FILE = json.loads(GOLDEN.read_text())

# Eight steps round some ten times each, and roots and powers differ by a unit in the last
# place from library to library; the largest parameters are near 2.
TOLERANCE = 1e-14

# From other runs than the one that wrote the file: where options led in three steps.
THIRD_STEPS: list[tuple[str, dict[str, Any], list[float]]] = [
    ("SGD", CASES["sgd"][1], [1.0024486460000002, -1.9779127345000003]),
    ("Adam", CASES["adam"][1], [0.9333758560393912, -1.9202859345704393]),
    ("AdamW", {"weight_decay": 0.1}, [0.9310261059536681, -1.937432384063396]),
    ("RMSprop", CASES["rmsprop momentum"][1], [0.8451915941361041, -1.9408691589079319]),
]


def path(name: str, options: dict[str, Any]) -> list[list[float]]:
    param = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    make = partial(MuonMomentum, Muon) if name == "Muon" else getattr(optimizers, name)
    optimizer = make([param], lr=0.1, **options)
    values = []
    for gradient in GRADIENTS:
        param.grad = torch.tensor(gradient, dtype=torch.float64)
        if name == "SophiaG":
            optimizer.update_hessian(samples=2)
        optimizer.step()
        values.append(param.tolist())
    return values


def assert_near(ours: Any, expected: Any) -> None:
    ours, expected = (torch.tensor(x, dtype=torch.float64) for x in (ours, expected))
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", [*CASES, *PEER_CASES])
def test_golden(case: str) -> None:
    entry = FILE[case]
    assert_near(path(entry["optimizer"], entry["options"]), entry["params"])


@pytest.mark.parametrize(("name", "options", "third"), THIRD_STEPS)
def test_third_step(name: str, options: dict[str, Any], third: list[float]) -> None:
    assert_near(path(name, options)[2], third)


def test_the_file_is_theirs() -> None:
    generated = json.loads(json.dumps(generate()))
    assert generated.keys() == FILE.keys()
    for key, entry in generated.items():
        if key in CASES or key in PEER_CASES:
            assert_near(entry["params"], FILE[key]["params"])
            entry = {**entry, "params": FILE[key]["params"]}
        assert entry == FILE[key]
