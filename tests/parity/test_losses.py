"""Our losses against torch's values that are kept in a file, which the tests in Mojo read, too."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.losses import (
    bce_with_logits,
    cross_entropy,
    focal,
    huber,
    linear_cross_entropy,
    lm_cross_entropy,
    mse,
    sigmoid_focal,
)
from tests.golden.generate_losses import GOLDEN, entries

FILE = json.loads(GOLDEN.read_text())

TARGET = torch.tensor(FILE["target"])
WEIGHT = torch.tensor(FILE["weight"], dtype=torch.float64)
VALUES = torch.tensor(FILE["values"], dtype=torch.float64)
LABELS = torch.tensor(FILE["labels"], dtype=torch.float64)

CASES: dict[str, tuple[str, Any]] = {
    "cross_entropy": ("logits", lambda x: cross_entropy(x, TARGET)),
    "cross_entropy smoothed": (
        "logits",
        lambda x: cross_entropy(x, TARGET, weight=WEIGHT, label_smoothing=0.1),
    ),
    "cross_entropy normalised": ("logits", lambda x: lm_cross_entropy(x, TARGET, z_loss=0.01)),
    "focal": ("logits", lambda x: focal(x, TARGET, gamma=1.5, alpha=WEIGHT)),
    "mse": ("preds", lambda x: mse(x, VALUES)),
    "huber": ("preds", lambda x: huber(x, VALUES, delta=0.7)),
    "bce_with_logits": ("preds", lambda x: bce_with_logits(x, LABELS)),
    "sigmoid_focal": ("preds", lambda x: sigmoid_focal(x, LABELS)),
}


def test_the_file_is_torchs() -> None:
    assert {name for name, _ in entries()} == set(FILE)
    for name, values in entries():
        expected = torch.tensor(FILE[name], dtype=values.dtype)
        torch.testing.assert_close(values, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_those_of_the_file(name: str, dtype: torch.dtype) -> None:
    preds, loss = CASES[name]
    leaf = torch.tensor(FILE[preds], dtype=dtype, requires_grad=True)
    total, count = loss(leaf)
    total.backward()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    expected = torch.tensor(FILE[name], dtype=torch.float64)
    ours = torch.tensor([total.item(), float(count)], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=0)
    assert_near(leaf.grad, name, tolerance)


def test_a_linear_layer_that_is_one_changes_nothing() -> None:
    logits = torch.tensor(FILE["logits"], dtype=torch.float64, requires_grad=True)
    identity = torch.eye(logits.shape[1], dtype=torch.float64)
    total, count = linear_cross_entropy(logits, identity, TARGET, chunk_rows=3)
    total.backward()
    assert [total.item(), float(count)] == pytest.approx(FILE["cross_entropy"], rel=1e-12)
    assert_near(logits.grad, "cross_entropy", 1e-12)


def assert_near(gradient: Tensor | None, name: str, tolerance: float) -> None:
    assert gradient is not None
    expected = torch.tensor(FILE[f"{name} gradient"], dtype=torch.float64)
    # Elements near 0 are differences of what the loss is made of.
    scale = float(expected.abs().max())
    torch.testing.assert_close(gradient.double(), expected, rtol=tolerance, atol=tolerance * scale)
