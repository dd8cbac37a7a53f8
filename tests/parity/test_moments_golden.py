"""Metrics of values, numbers and tokens against digits that the Mojo tests read, too."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.metrics import (
    ExplainedVariance,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    Perplexity,
    Quantile,
    R2Score,
    RunningMoments,
)
from tests.golden import generate_metrics_moments

FILE = json.loads(generate_metrics_moments.GOLDEN.read_text())
REGRESSION = {
    "mse": MeanSquaredError(),
    "rmse": MeanSquaredError(squared=False),
    "mae": MeanAbsoluteError(),
    "mape": MeanAbsolutePercentageError(),
    "r2": R2Score(),
    "explained": ExplainedVariance(),
    "pearson": PearsonCorrCoef(),
}


def read(entry: str) -> Tensor:
    return torch.tensor(FILE[entry], dtype=torch.float64)


def counted(metric: Any, *batch: Tensor, size: int) -> Any:
    """Return the value of batches of a size."""
    metric.reset()
    for part in zip(*(each.split(size) for each in batch)):
        metric.update(*part)
    return metric.compute()


def test_the_file_is_theirs() -> None:
    expected = generate_metrics_moments.generate()
    assert FILE.keys() == expected.keys()
    for entry, values in expected.items():
        assert FILE[entry] == pytest.approx(values, rel=1e-14)


@pytest.mark.parametrize("size", [1, 64, 1000])
def test_values(size: int) -> None:
    values = read("values")
    assert [counted(Mean(), values, size=size)] == FILE["mean"]
    found = counted(RunningMoments(), values, size=size)
    assert [found["mean"]] == pytest.approx(FILE["mean"], rel=1e-15)
    assert [found["variance"]] == pytest.approx(FILE["variance"], rel=1e-14)
    assert [found["min"], found["max"]] == FILE["extremes"]
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        quantile = counted(Quantile(q, relative_accuracy=1e-3), read("spread"), size=size)
        assert [quantile] == pytest.approx(FILE[f"quantile {q}"], rel=1.0001e-3)


@pytest.mark.parametrize("size", [1, 64, 1000])
@pytest.mark.parametrize("name", REGRESSION)
def test_predictions(name: str, size: int) -> None:
    metric, pair = REGRESSION[name], (read("preds"), read("target"))
    # scikit-learn's mean of targets near 1e6 is rounded, and so are squares about it.
    assert [counted(metric, *pair, size=size)] == pytest.approx(FILE[name], rel=1e-13)
    found = counted(metric, *pair, read("weights"), size=size)
    assert [found] == pytest.approx(FILE[f"weighted {name}"], rel=1e-13)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_tokens(size: int) -> None:
    tokens = read("tokens").long()
    logits = read("logits").view(len(tokens), -1)
    whole = counted(Perplexity(), logits, tokens, size=size)
    assert [whole] == pytest.approx(FILE["perplexity"], rel=1e-14)
    without = counted(Perplexity(ignore_index=3), logits, tokens, size=size)
    assert [without] == pytest.approx(FILE["perplexity without 3"], rel=1e-14)
