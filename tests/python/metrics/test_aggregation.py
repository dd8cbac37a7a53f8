"""Metrics of values against exact arithmetic, under any split and any order of merges."""

from __future__ import annotations

import math
import pickle
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop import EmptyMetricError, backend
from hotloop.metrics import Max, Mean, Min, RunningMean, RunningMoments, Sum
from hotloop.testing import assert_state_roundtrip
from tests.conftest import needs_native
from tests.python.metrics.batches import (
    CUTS,
    LAYOUTS,
    every_order,
    laid_out,
    pieces,
    torch_backend,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.bool]
EACH = [Sum, Mean, Min, Max, lambda: RunningMean(5), RunningMoments]

# Numbers that cancel, and sizes between which sums lose digits.
NUMBERS = st.one_of(
    st.floats(-1e3, 1e3, width=16),
    st.sampled_from([1e12, -1e12, 1.0, 0.1, -0.1, 3e-8, 1e8, 1e8 + 1, 65504.0]),
)


@st.composite
def batches(draw: Any) -> tuple[Tensor, Tensor, list[slice]]:
    """Draw values in any dtype and layout, weights, and a split."""
    numbers = draw(st.lists(NUMBERS, min_size=1, max_size=67))
    dtype = draw(st.sampled_from(DTYPES))
    limit = {torch.float16: 6e4, torch.int32: 2e9}.get(dtype, math.inf)
    values = torch.tensor(numbers, dtype=torch.float64).clamp(-limit, limit).to(dtype)
    values = laid_out(values, draw(st.sampled_from(LAYOUTS[:2])))
    weights = draw(
        st.lists(
            st.sampled_from([0.0, 1.0, 2.5, 0.1]), min_size=len(numbers), max_size=len(numbers)
        )
    )
    return values, torch.tensor(weights), pieces(len(numbers), draw(CUTS))


def exact(values: Tensor) -> list[Fraction]:
    return [Fraction(value) for value in values.double().tolist()]


def counted(make: Any, values: Tensor, split: list[slice], weights: Tensor | None = None) -> Any:
    """Return a metric for each piece, and one that has counted all."""
    parts = [make() for _ in split]
    for metric, piece in zip(parts, split):
        more = () if weights is None else (weights[piece],)
        metric.update(values[piece], *more)
    return parts


@given(batches())
def test_sums_and_means_have_the_bits_of_exact_ones(
    batch: tuple[Tensor, Tensor, list[slice]],
) -> None:
    values, weights, split = batch
    numbers = exact(values)
    total = sum(numbers)
    mean = float(total) / len(numbers)
    for make, expected in ((Sum, float(total)), (Mean, mean)):
        parts = counted(make, values, split)
        assert [metric.compute() for metric in every_order(parts)] == [expected] * 3
    # A weight changes a value by its rounding, before anything is added.
    weighted = [Fraction(float(v) * float(w)) for v, w in zip(numbers, weights.double())]
    total, weight = sum(weighted), sum(exact(weights))
    if weight == 0:
        return
    for make, expected in ((Sum, float(total)), (Mean, float(total) / float(weight))):
        parts = counted(make, values, split, weights)
        assert [metric.compute() for metric in every_order(parts)] == [expected] * 3


@given(batches())
def test_extrema(batch: tuple[Tensor, Tensor, list[slice]]) -> None:
    values, weights, split = batch
    for make, choose in ((Min, min), (Max, max)):
        parts = counted(make, values, split)
        expected = float(choose(values.tolist()))
        assert [metric.compute() for metric in every_order(parts)] == [expected] * 3
        if weights.any():
            parts = counted(make, values, split, weights)
            expected = float(choose(values[weights != 0].tolist()))
            assert [metric.compute() for metric in every_order(parts)] == [expected] * 3


@given(batches())
def test_moments(batch: tuple[Tensor, Tensor, list[slice]]) -> None:
    values, weights, split = batch
    for chosen in (None, weights):
        parts = counted(RunningMoments, values, split, chosen)
        w = exact(torch.ones(len(values)) if chosen is None else chosen)
        total = sum(w)
        if total == 0:
            continue
        numbers = exact(values)
        mean = sum(a * b for a, b in zip(w, numbers)) / total
        variance = sum(a * (b - mean) ** 2 for a, b in zip(w, numbers)) / total
        known = [number for a, number in zip(w, numbers) if a]
        for metric in every_order(parts):
            found = metric.compute()
            scale = float(max(map(abs, numbers)))
            assert found["mean"] == pytest.approx(float(mean), rel=1e-15, abs=1e-15 * scale)
            assert found["variance"] == pytest.approx(float(variance), rel=1e-13)
            if len(set(known)) == 1:
                assert found["variance"] == 0
            assert (found["min"], found["max"]) == (min(known), max(known))
            assert (found["count"], found["nonfinite"]) == (len(known), 0)


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_values_far_from_0_keep_their_variance(piece: int) -> None:
    metric = RunningMoments()
    for part in torch.tensor([1e8, 1e8 + 1, 1e8 + 2], dtype=torch.float64).split(piece):
        metric.update(part)
    assert metric.compute() == {
        "mean": 1e8 + 1,
        "variance": 2 / 3,
        "min": 1e8,
        "max": 1e8 + 2,
        "count": 3,
        "nonfinite": 0,
    }


@pytest.mark.parametrize("count", [1, 255, 256, 257, 100_000])
def test_moments_of_many_values_agree_with_numpy(count: int) -> None:
    values = 1e6 + torch.randn(count, dtype=torch.float64)
    metric = RunningMoments()
    for part in values.split(999):
        metric.update(part)
    found = metric.compute()
    assert found["mean"] == pytest.approx(values.numpy().mean(), rel=1e-15)
    assert found["variance"] == pytest.approx(
        np.var(values.numpy(), dtype=np.longdouble), rel=1e-13
    )


def test_what_is_not_finite_is_counted_apart() -> None:
    metric = RunningMoments()
    metric.update(torch.tensor([math.nan, 1.0, math.inf, 3.0, -math.inf]))
    assert metric.compute() == {
        "mean": 2,
        "variance": 1,
        "min": 1,
        "max": 3,
        "count": 2,
        "nonfinite": 3,
    }
    metric.reset()
    metric.update(math.nan)
    found = metric.compute()
    assert (found.pop("count"), found.pop("nonfinite")) == (0, 1)
    assert all(map(math.isnan, found.values()))


@pytest.mark.parametrize("make", [Sum, Mean, Min, Max])
def test_nan_and_infinities_stay(make: Any) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        parts = [make(), make(), make()]
        for metric, value in zip(parts, (2.0, bad, 3.0)):
            metric.update(torch.tensor([value, 1.0]))
        expected = bad
        if (make is Min and bad == math.inf) or (make is Max and bad == -math.inf):
            expected = 1.0 if make is Min else 3.0
        for metric in every_order(parts):
            assert metric.compute() == pytest.approx(expected, nan_ok=True)
            metric.update(5.0)
            if make is not Max or bad != -math.inf:
                assert metric.compute() == pytest.approx(expected, nan_ok=True)
    both = Sum()
    both.update(torch.tensor([math.inf, -math.inf]))
    assert math.isnan(both.compute())


@pytest.mark.parametrize("make", [Sum, Mean, Min, Max, lambda: RunningMean(9), RunningMoments])
def test_a_weight_of_0_leaves_nan_out(make: Any) -> None:
    metric, plain = make(), make()
    metric.update(torch.tensor([2.0, math.nan, 5.0, math.inf]), torch.tensor([1.0, 0, 1, 0]))
    plain.update(torch.tensor([2.0, 5.0]))
    assert metric.compute() == plain.compute()


def test_windows() -> None:
    metric = RunningMean(3)
    for value in (1.0, 2.0, 6.0):
        metric.update(torch.tensor(value))
    assert metric.compute() == 3
    metric.update(torch.tensor([10.0, 100.0]))
    assert metric.compute() == (6 + 10 + 100) / 3
    metric.update(torch.arange(20).reshape(4, 5))
    assert metric.compute() == 18
    metric.update(0.0, weight=2)
    assert metric.compute() == (18 + 19) / 4
    other = RunningMean(3)
    other.update(torch.tensor([4.0, 7.0]), torch.tensor([3.0, 1.0]))
    metric.merge(other)
    assert metric.compute() == (0 * 2 + 4 * 3 + 7) / 6
    assert other.compute() == 19 / 4
    for window in (0, 1.5, True):
        with pytest.raises(ValueError, match="window must be a positive int"):
            RunningMean(window)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", EACH)
@pytest.mark.parametrize("had", [0, 1, 7])
def test_a_metric_goes_on_from_its_state(make: Any, had: int) -> None:
    first, second = make(), make()
    second.update(torch.tensor([9.0, 8.0]))
    for value in range(had):
        first.update(torch.tensor([float(value), 1.0]), 2.0)
    assert_state_roundtrip(first, second)
    for metric in (first, second):
        metric.update(3.5)
    assert first.compute() == second.compute()
    assert pickle.loads(pickle.dumps(first)).compute() == first.compute()


@pytest.mark.parametrize("make", EACH)
def test_states_are_copies(make: Any) -> None:
    metric, other = make(), make()
    metric.update(torch.tensor([1.0, 2.0]))
    state, value = metric.state_dict(), metric.compute()
    other.load_state_dict(state)
    other.update(torch.tensor([50.0, -50.0]))
    metric.merge(other)
    other.reset()
    other.load_state_dict(state)
    assert other.compute() == value


@pytest.mark.parametrize("make", EACH)
def test_nothing_counted(make: Any) -> None:
    for weight in (None, 0.0):
        metric = make()
        if weight is not None:
            metric.update(torch.tensor([1.0, 2.0]), torch.tensor(weight))
        metric.update(torch.zeros(0))
        with pytest.raises(EmptyMetricError, match=f"{type(metric).__name__} has counted nothing"):
            metric.compute()


@pytest.mark.parametrize("make", EACH)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, -0.5, -1.0]), "weight[1] is -0.5, must be finite and at least 0"),
        (torch.tensor([1.0, 1.0, math.nan]), "weight[2] is nan, must be finite and at least 0"),
        (torch.tensor(math.inf), "is inf, must be finite and at least 0"),
        (-2, "is -2"),
        (torch.ones(2), "weight must have a shape that broadcasts to (3,), got (2,)"),
    ],
)
def test_weights_that_are_refused(make: Any, weight: Any, message: str) -> None:
    metric, plain = make(), make()
    for each in (metric, plain):
        each.update(7.0)
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.update(torch.tensor([1.0, 2.0, 3.0]), weight)
    assert metric.compute() == plain.compute()


def test_weights_broadcast() -> None:
    values, weights = torch.rand(3, 4), torch.rand(3, 1)
    metric = Mean()
    metric.update(values.T, weights.T)
    expected = np.average(values.double(), weights=weights.double().expand(3, 4))
    assert metric.compute() == pytest.approx(expected, rel=1e-15)


def test_values_of_a_graph_and_of_other_kinds() -> None:
    metric = Mean()
    metric.update((torch.tensor(2.0, requires_grad=True) * 3) ** 2, 2)
    metric.update(np.float32(1.0), 1)  # type: ignore[arg-type]
    metric.update(True)
    metric.update(torch.tensor(3, dtype=torch.uint8))
    assert metric.compute() == (36 * 2 + 1 + 1 + 3) / 5


def test_only_metrics_with_the_same_options_are_merged() -> None:
    message = r"only a metric like RunningMean\(window=3\) can be merged into it, got RunningMean\("
    with pytest.raises(ValueError, match=message):
        RunningMean(3).merge(RunningMean(4))
    with pytest.raises(ValueError, match=r"like Sum\(\) can be merged into it, got Mean\(\)"):
        Sum().merge(Mean())


@needs_native
@given(batches())
def test_kernels_and_operators_count_alike(batch: tuple[Tensor, Tensor, list[slice]]) -> None:
    values, weights, split = batch
    for make in (Sum, Mean, RunningMoments):
        for chosen in (None, weights):
            first = counted(make, values, split, chosen)
            with torch_backend():
                assert not backend.current().kernels
                second = counted(make, values, split, chosen)
            for one, other in zip(first, second):
                (mine,), (theirs,) = one.state_dict().values(), other.state_dict().values()
                scale = float(values.double().abs().max()) ** 2
                assert torch.allclose(mine, theirs, rtol=1e-14, atol=1e-15 * scale)
