"""Write the golden values of moments: `python tests/golden/generate_metrics_moments.py`.

The file holds values, predictions, targets and logits, and what exact fractions, scikit-learn,
scipy and numpy compute from them, one entry a line, in float64. Nothing of hotloop is imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from sklearn import metrics

GOLDEN = Path(__file__).with_name("metrics_moments.json")

VALUES, SAMPLES, TOKENS, VOCABULARY = 301, 300, 23, 11


def entries() -> Iterator[tuple[str, Any]]:
    """Yield names and arrays."""
    state = np.random.default_rng(11)
    # Multiples of 2^-20 beside large ones, so that float64 sums lose digits.
    values = 1e8 + np.round(state.normal(size=VALUES) * 2**20) / 2**20
    values[::7] -= 2e8
    yield "values", values
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / VALUES
    yield "mean", float(mean)
    yield "variance", float(sum((value - mean) ** 2 for value in exact) / VALUES)
    yield "extremes", [values.min(), values.max()]
    spread = state.normal(size=VALUES) * np.exp(3 * state.normal(size=VALUES))
    spread[::20] = 0
    yield "spread", spread
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        yield f"quantile {q}", np.quantile(spread, q, method="lower")
    target = 1e6 + state.normal(size=SAMPLES)
    preds = target + 0.3 * state.normal(size=SAMPLES)
    weights = state.integers(0, 5, SAMPLES) / 4
    yield "target", target
    yield "preds", preds
    yield "weights", weights
    for name, weight in (("", None), ("weighted ", weights)):
        given = {"y_true": target, "y_pred": preds, "sample_weight": weight}
        yield f"{name}mse", metrics.mean_squared_error(**given)
        yield f"{name}rmse", metrics.root_mean_squared_error(**given)
        yield f"{name}mae", metrics.mean_absolute_error(**given)
        yield f"{name}mape", metrics.mean_absolute_percentage_error(**given)
        yield f"{name}r2", metrics.r2_score(**given)
        yield f"{name}explained", metrics.explained_variance_score(**given)
    yield "pearson", scipy.stats.pearsonr(preds, target).statistic
    repeated = np.repeat([preds, target], (4 * weights).astype(int), axis=1)
    yield "weighted pearson", scipy.stats.pearsonr(*repeated).statistic
    logits = state.normal(size=(TOKENS, VOCABULARY)) * 3
    tokens = state.integers(0, VOCABULARY, TOKENS)
    yield "logits", logits
    yield "tokens", tokens
    nll = -scipy.special.log_softmax(logits, axis=1)[range(TOKENS), tokens]
    yield "perplexity", math.exp(math.fsum(nll) / TOKENS)
    yield "perplexity without 3", math.exp(nll[tokens != 3].mean())


def generate() -> dict[str, list[float]]:
    """Return all entries as flat lists."""
    return {name: np.ravel(value).astype(float).tolist() for name, value in entries()}


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in generate().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
