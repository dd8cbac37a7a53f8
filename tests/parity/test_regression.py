"""Regression metrics against scikit-learn, scipy and torchmetrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop.metrics import (
    ExplainedVariance,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    R2Score,
    SpearmanCorrCoef,
)

SKLEARN: dict[Any, Callable[..., Any]] = {
    MeanSquaredError: sklearn.metrics.mean_squared_error,
    MeanAbsoluteError: sklearn.metrics.mean_absolute_error,
    MeanAbsolutePercentageError: sklearn.metrics.mean_absolute_percentage_error,
    R2Score: sklearn.metrics.r2_score,
    ExplainedVariance: sklearn.metrics.explained_variance_score,
}
SCIPY: dict[Any, Callable[..., Any]] = {
    PearsonCorrCoef: scipy.stats.pearsonr,
    SpearmanCorrCoef: scipy.stats.spearmanr,
}
WITH_VARIANCES = (R2Score, ExplainedVariance)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@st.composite
def samples(draw: Any, outputs: int = 1) -> tuple[Tensor, Tensor]:
    """Draw predictions and targets, many of them equal."""
    count = draw(st.integers(2, 67))
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=16))
    rows = st.lists(numbers, min_size=count * outputs, max_size=count * outputs)
    dtype = draw(st.sampled_from(DTYPES))
    return tuple(  # type: ignore[return-value]
        torch.tensor(draw(rows), dtype=torch.float64).view(count, outputs).to(dtype)
        for _ in range(2)
    )


def counted(metric: Any, preds: Tensor, target: Tensor, *weight: Tensor, size: int = 13) -> Any:
    """Return the value of batches."""
    for start in range(0, len(preds), size):
        piece = slice(start, start + size)
        metric.update(preds[piece], target[piece], *(each[piece] for each in weight))
    return metric.compute()


@pytest.mark.parametrize("kind", SKLEARN)
@given(pair=samples(), is_weighted=st.booleans(), seed=st.integers(0, 99))
def test_one_output(kind: Any, pair: tuple[Tensor, Tensor], is_weighted: bool, seed: int) -> None:
    preds, target = (values[:, 0].double() for values in pair)
    weight = torch.rand(len(preds), generator=torch.Generator().manual_seed(seed)).double()
    more = (weight,) if is_weighted else ()
    found = counted(kind(), *(values[:, 0] for values in pair), *more)
    expected = SKLEARN[kind](target, preds, sample_weight=weight if is_weighted else None)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("kind", SKLEARN)
@pytest.mark.parametrize("average", ["uniform_average", "raw_values", "variance_weighted"])
@given(pair=samples(outputs=3))
def test_several_outputs(kind: Any, average: str, pair: tuple[Tensor, Tensor]) -> None:
    if average == "variance_weighted" and kind not in WITH_VARIANCES:
        return
    preds, target = (values.double() for values in pair)
    found = counted(kind(num_outputs=3, multioutput=average), *pair)
    expected = SKLEARN[kind](target, preds, multioutput=average)
    assert np.asarray(found) == pytest.approx(expected, rel=1e-12, abs=1e-13)


@given(pair=samples(outputs=2))
def test_roots(pair: tuple[Tensor, Tensor]) -> None:
    preds, target = (values.double() for values in pair)
    for average in ("uniform_average", "raw_values"):
        metric = MeanSquaredError(squared=False, num_outputs=2, multioutput=average)
        expected = sklearn.metrics.root_mean_squared_error(target, preds, multioutput=average)
        assert np.asarray(counted(metric, *pair)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", SCIPY)
@given(pair=samples(outputs=2))
def test_correlations(kind: Any, pair: tuple[Tensor, Tensor]) -> None:
    found = counted(kind(num_outputs=2, multioutput="raw_values"), *pair)
    for output in range(2):
        preds, target = (values[:, output].double().numpy() for values in pair)
        with warnings.catch_warnings():
            # Of constants, which have no correlation, and of what is nearly constant.
            warnings.simplefilter("ignore")
            expected = SCIPY[kind](preds, target).statistic
        assert float(found[output]) == pytest.approx(expected, rel=1e-12, abs=1e-13, nan_ok=True)


@pytest.mark.parametrize("kind", [*SKLEARN, *SCIPY])
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_targets_far_from_0(kind: Any, size: int, spread: float) -> None:
    target = 1e8 + spread * torch.randn(1000, dtype=torch.float64)
    preds = target + 0.3 * spread * torch.randn(1000, dtype=torch.float64)
    found = counted(kind(), preds, target, size=size)
    if kind is not MeanAbsolutePercentageError:
        # The same, but for the peers' own rounding of means. The difference is exact.
        preds, target = preds - 1e8, target - 1e8
    if kind in SCIPY:
        assert found == pytest.approx(SCIPY[kind](preds, target).statistic, rel=1e-12)
    else:
        assert found == pytest.approx(SKLEARN[kind](target, preds), rel=1e-12)


@pytest.mark.parametrize("kind", [R2Score, ExplainedVariance])
@pytest.mark.parametrize("average", ["uniform_average", "raw_values", "variance_weighted"])
@pytest.mark.parametrize("preds", [[2.0, 2, 2], [3.0, 3, 3], [1.0, 2, 4], [3.0, 2, 1]])
def test_degenerate_targets(kind: Any, average: str, preds: list[float]) -> None:
    given = torch.tensor(preds, dtype=torch.float64)
    constant = torch.full_like(given, 2)
    assert counted(kind(), given, constant, size=2) == SKLEARN[kind](constant, given)
    for other in (constant, torch.tensor([1, 2, 3], dtype=torch.float64)):
        both = torch.stack((given, given), 1), torch.stack((constant, other), 1)
        found = counted(kind(num_outputs=2, multioutput=average), *both, size=2)
        expected = SKLEARN[kind](both[1], both[0], multioutput=average)
        assert np.asarray(found) == pytest.approx(expected, rel=1e-12)


def test_constants_that_are_no_binary_fractions() -> None:
    # Their mean, rounded, is another number, and the squares about it are no zeros.
    constant = torch.full((1001,), 0.1, dtype=torch.float64)
    assert counted(R2Score(), constant, constant) == 1
    assert counted(R2Score(), constant + 1, constant) == 0
    assert counted(ExplainedVariance(), constant + 1, constant) == 1
    assert math.isnan(counted(PearsonCorrCoef(), constant, torch.randn(1001)))
    # Nor if what comes first does not count.
    weight, other = torch.ones(1001), constant.clone()
    weight[::13], other[::13] = 0, 7
    assert counted(R2Score(), other, other, weight) == 1
    assert counted(R2Score(), other + 1, other, weight) == 0
    assert counted(ExplainedVariance(), other + 1, other, weight) == 1


@pytest.mark.parametrize("target", [0.0, 1e-300, -1e-17])
def test_targets_of_0_have_a_relative_error(target: float) -> None:
    pair = torch.tensor([1.0, target]), torch.tensor([target, target], dtype=torch.float64)
    expected = sklearn.metrics.mean_absolute_percentage_error(pair[1], pair[0].double())
    assert counted(MeanAbsolutePercentageError(), *pair) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [R2Score, PearsonCorrCoef, SpearmanCorrCoef])
def test_one_sample(kind: Any) -> None:
    assert math.isnan(counted(kind(), torch.tensor([1.0]), torch.tensor([1.5])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(sklearn.metrics.r2_score([1.5], [1.0]))
    assert counted(ExplainedVariance(), torch.tensor([1.0]), torch.tensor([1.5])) == 1
    assert sklearn.metrics.explained_variance_score([1.5], [1.0]) == 1


@pytest.mark.parametrize(
    ("kind", "peer"),
    [
        (MeanSquaredError, torchmetrics.MeanSquaredError),
        (MeanAbsoluteError, torchmetrics.MeanAbsoluteError),
        (R2Score, torchmetrics.R2Score),
        (ExplainedVariance, torchmetrics.ExplainedVariance),
        (PearsonCorrCoef, torchmetrics.PearsonCorrCoef),
        (SpearmanCorrCoef, torchmetrics.SpearmanCorrCoef),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchmetrics(kind: Any, peer: Any, dtype: torch.dtype) -> None:
    target = torch.randn(500, dtype=dtype)
    preds = target + 0.5 * torch.randn(500, dtype=dtype)
    with warnings.catch_warnings():
        # It says that ranks keep all values.
        warnings.simplefilter("ignore")
        expected = counted(peer().set_dtype(dtype), preds, target)
    # Its ranks are float32.
    is_exact = dtype == torch.float64 and kind is not SpearmanCorrCoef
    tolerance = 1e-12 if is_exact else 1e-6
    assert counted(kind(), preds, target) == pytest.approx(float(expected), rel=tolerance)
