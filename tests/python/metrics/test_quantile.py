"""The quantile sketch against sorted values."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop import EmptyMetricError
from hotloop.metrics import Quantile
from hotloop.testing import assert_state_roundtrip
from tests.conftest import needs_native
from tests.python.metrics.batches import CUTS, every_order, laid_out, pieces, torch_backend

TINY, HUGE = 2.0**-1022, math.nextafter(math.inf, 0)
NUMBERS = st.one_of(
    st.floats(allow_nan=False),
    st.floats(-10, 10, width=16),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, TINY, -TINY, TINY / 2, HUGE, -HUGE]),
)
PARTS = st.floats(0, 1)


def reference(values: Tensor, q: float) -> float:
    """Return the value at its place in order, where subnormal numbers are 0."""
    ordered = sorted(0.0 if abs(value) < TINY else value for value in values.tolist())
    return ordered[math.floor(q * (len(ordered) - 1))]


def is_near(found: float, expected: float, accuracy: float) -> bool:
    if expected == 0 or math.isinf(expected):
        return found == expected
    # Rounding moves the ends of buckets.
    return abs(found - expected) <= (accuracy + 1e-12) * abs(expected)


@given(
    st.lists(NUMBERS, min_size=1, max_size=67),
    CUTS,
    PARTS,
    st.sampled_from([0.05, 0.01, 0.5, 0.0123, 1e-4]),
)
def test_relative_error_and_merges(
    numbers: list[float], cuts: list[int], q: float, accuracy: float
) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    if accuracy < 0.01:
        # Buckets for all float64 numbers would take megabytes for each of the parts.
        values = values.clamp(-1e3, 1e3)
        values[values.abs() < 1e-3] = 0
    parts = [Quantile(q, relative_accuracy=accuracy) for _ in pieces(len(values), cuts)]
    for metric, piece in zip(parts, pieces(len(values), cuts)):
        metric.update(values[piece])
    whole = Quantile(q, relative_accuracy=accuracy)
    whole.update(values)
    assert is_near(whole.compute(), reference(values, q), accuracy)
    for metric in every_order(parts):
        # The same counts, and so the same bits.
        assert repr(metric.state_dict()) == repr(whole.state_dict())
        assert repr(metric.compute()) == repr(whole.compute())


@pytest.mark.parametrize("accuracy", [0.001, 0.01, 0.1])
def test_every_size_of_number(accuracy: float) -> None:
    exponents = torch.linspace(-1021.9, 1023.9, 20_001, dtype=torch.float64)
    values = torch.exp2(exponents)
    metric = Quantile(relative_accuracy=accuracy)
    metric.update(values)
    metric.update(-values)
    places = range(0, 2 * len(values), 97)
    # In the middle between two places, as the product is rounded.
    parts = [min((place + 0.5) / (2 * len(values) - 1), 1.0) for place in places]
    found = np.array([metric.value_at(part) for part in parts])
    ordered = torch.cat((-values.flip(0), values)).numpy()[::97]
    assert (np.abs(found / ordered - 1) <= accuracy + 1e-12).all()
    # The bound is reached, within a fraction of it: buckets are no narrower than they must be.
    assert np.abs(found / ordered - 1).max() > 0.95 * accuracy


def test_numbers_of_buckets() -> None:
    metric = Quantile()
    metric.update(torch.tensor([1.0, 1000.0]))
    assert len(metric.state_dict()["positive"]) == 350
    metric.update(torch.tensor([TINY, HUGE, -TINY, -HUGE], dtype=torch.float64))
    assert [len(metric.state_dict()[sign]) for sign in ("positive", "negative")] == [71608] * 2


def test_quantiles_are_those_of_numpys_lower_method() -> None:
    values = torch.randn(1001, dtype=torch.float64)
    metric = Quantile(0.25, relative_accuracy=1e-3)
    for part in values.split(17):
        metric.update(part)
    for q in np.linspace(0, 1, 21).tolist():
        expected = np.quantile(values.numpy(), q, method="lower")
        assert metric.value_at(q) == pytest.approx(expected, rel=1.0001e-3)
    assert metric.compute() == metric.value_at(0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_dtypes_and_layouts(dtype: torch.dtype, layout: str) -> None:
    values = (torch.randn(300) * 50).to(dtype)
    metric = Quantile(0.7)
    metric.update(laid_out(values, layout))
    metric.update(float(values[0]))
    assert is_near(metric.compute(), reference(torch.cat((values, values[:1])), 0.7), 0.01)


def test_infinities_and_nan() -> None:
    metric = Quantile(0)
    metric.update(torch.tensor([-math.inf, math.inf, 0.0, 5.0, math.inf]))
    assert [metric.value_at(q) for q in (0, 0.24, 0.25)] == [-math.inf, -math.inf, 0]
    assert metric.value_at(0.5) == pytest.approx(5, rel=0.01)
    assert [metric.value_at(q) for q in (0.75, 1)] == [math.inf, math.inf]
    metric.update(math.nan)
    assert math.isnan(metric.compute())


def test_errors() -> None:
    metric = Quantile()
    metric.update(torch.zeros(0))
    with pytest.raises(EmptyMetricError, match="Quantile has counted nothing"):
        metric.compute()
    with pytest.raises(ValueError, match="Quantile takes no weights; leave weight at None"):
        metric.update(torch.ones(2), torch.ones(2))  # type: ignore[arg-type]
    q: Any
    for q in (-0.1, 1.1, math.nan, "0.5"):
        message = re.escape(f"q must be a number in [0, 1], got {q!r}")
        with pytest.raises(ValueError, match=message):
            Quantile(q)
        with pytest.raises(ValueError, match=message):
            metric.value_at(q)
    for accuracy in (0, 0.00009, 1, math.nan):
        message = f"relative_accuracy must be at least 0.0001 and below 1, got {accuracy!r}"
        with pytest.raises(ValueError, match=message):
            Quantile(relative_accuracy=accuracy)
    with pytest.raises(ValueError, match="only a metric like"):
        metric.merge(Quantile(relative_accuracy=0.02))


def test_a_sketch_goes_on_from_its_state() -> None:
    first, second = Quantile(0.3), Quantile(0.3)
    first.update(torch.tensor([1.0, -3.0, 0.0]))
    second.update(torch.tensor([100.0, 1e-5]))
    assert_state_roundtrip(first, second)
    for metric in (first, second):
        metric.update(torch.tensor([2.0, -1e6]))
    assert first.compute() == second.compute()
    assert repr(first.state_dict()) == repr(second.state_dict())


@needs_native
@given(st.lists(NUMBERS, min_size=1, max_size=67), st.sampled_from([0.01, 0.2]))
def test_kernels_and_operators_find_the_same_buckets(numbers: list[float], accuracy: float) -> None:
    values = torch.tensor([*numbers, math.nan, math.inf], dtype=torch.float64)
    metric, other = (Quantile(relative_accuracy=accuracy) for _ in range(2))
    metric.update(values)
    with torch_backend():
        other.update(values)
    for name, expected in metric.state_dict().items():
        found = other.state_dict()[name]
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


@needs_native
def test_kernels_and_operators_find_the_same_buckets_of_many_numbers() -> None:
    values = torch.randn(200_000, dtype=torch.float64) * torch.randn(200_000).double().exp()
    metric, other = Quantile(), Quantile()
    metric.update(values)
    with torch_backend():
        other.update(values)
    assert repr(metric.state_dict()) == repr(other.state_dict())
    assert torch.equal(metric.state_dict()["positive"], other.state_dict()["positive"])
