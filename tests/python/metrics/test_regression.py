"""Metrics of predicted numbers: splits, merges, states and what is refused."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop import EmptyMetricError
from hotloop.metrics import (
    ExplainedVariance,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    R2Score,
    SpearmanCorrCoef,
)
from hotloop.testing import assert_state_roundtrip
from tests.conftest import needs_native
from tests.python.metrics.batches import (
    CUTS,
    LAYOUTS,
    as_dtype,
    every_order,
    laid_out,
    pieces,
    torch_backend,
)

SUMS = [MeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError]
ERRORS = [*SUMS, R2Score, ExplainedVariance, PearsonCorrCoef]
EACH = [*ERRORS, SpearmanCorrCoef]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FLOATS = st.floats(-100, 100, width=16)


@st.composite
def batches(draw: Any, offsets: tuple[float, ...] = (0.0, 1e8)) -> dict[str, Any]:
    """Draw predictions and targets of one output or three, in any dtype and layout."""
    outputs = draw(st.sampled_from([1, 3]))
    count = draw(st.integers(2, 67))
    rows = st.lists(FLOATS, min_size=count * outputs, max_size=count * outputs)
    offset = draw(st.sampled_from(offsets))
    pair = {}
    for name in ("preds", "target"):
        dtype = torch.float64 if offset else draw(st.sampled_from(DTYPES))
        values = as_dtype([x + offset for x in draw(rows)], dtype).view(count, outputs)
        if outputs == 1 and draw(st.booleans()):
            values = values[:, 0]
        pair[name] = laid_out(values, draw(st.sampled_from(LAYOUTS[: 1 + values.ndim])))
    if pair["preds"].ndim != pair["target"].ndim:
        pair = {name: values.reshape(-1) for name, values in pair.items()}
    return {**pair, "outputs": outputs, "cuts": pieces(count, draw(CUTS))}


def counted(kind: Any, batch: dict[str, Any], *options: Any) -> list[Any]:
    """Return a metric for each piece of a batch."""
    parts = []
    for piece in batch["cuts"]:
        metric = kind(*options, num_outputs=batch["outputs"], multioutput="raw_values")
        metric.update(batch["preds"][piece], batch["target"][piece])
        parts.append(metric)
    return parts


@pytest.mark.parametrize("kind", EACH)
@given(batch=batches())
def test_any_split_and_any_order_of_merges_gives_the_same(kind: Any, batch: dict[str, Any]) -> None:
    whole = counted(kind, batch | {"cuts": [slice(None)]})[0].compute()
    for metric in every_order(counted(kind, batch)):
        found = metric.compute()
        assert found.shape == (batch["outputs"],)
        # How far rounding goes depends on how much of the targets' variance is left over.
        assert torch.allclose(found, whole, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("kind", EACH)
@given(batch=batches(), had=st.integers(0, 2))
def test_a_metric_goes_on_from_its_state(kind: Any, batch: dict[str, Any], had: int) -> None:
    first, second = (kind(num_outputs=batch["outputs"]) for _ in range(2))
    for _ in range(had):
        first.update(batch["preds"], batch["target"])
    second.update(batch["target"], batch["preds"])
    assert_state_roundtrip(first, second)
    for metric in (first, second):
        metric.update(batch["preds"], batch["target"])
    assert first.compute() == pytest.approx(second.compute(), rel=0, nan_ok=True)
    # A state is a copy.
    state, value = first.state_dict(), first.compute()
    second.load_state_dict(state)
    first.update(batch["preds"], batch["target"])
    first.merge(second)
    second.update(batch["target"], batch["preds"])
    second.load_state_dict(state)
    assert second.compute() == pytest.approx(value, rel=0, nan_ok=True)


@pytest.mark.parametrize("kind", EACH)
def test_targets_far_from_0(kind: Any) -> None:
    # Each difference is exact, and so the value is that of the differences.
    near = torch.randint(-1000, 1000, (500,)).double()
    target = near + torch.randint(-500, 500, (500,))
    far, plain = kind(), kind()
    plain.update(near, target)
    offset = 2.0**40
    for preds_part, target_part in zip((near + offset).split(7), (target + offset).split(7)):
        far.update(preds_part, target_part)
    if kind is MeanAbsolutePercentageError:
        assert far.compute() == pytest.approx(
            float((near - target).abs().mean()) / offset, rel=1e-6
        )
    else:
        assert far.compute() == pytest.approx(plain.compute(), rel=1e-13)


@pytest.mark.parametrize("kind", ERRORS)
def test_weights_are_as_good_as_repetitions(kind: Any) -> None:
    preds, target = torch.randn(40, 2), torch.randn(40, 2)
    weights = torch.randint(0, 4, (40,))
    weighted, repeated = kind(num_outputs=2), kind(num_outputs=2)
    preds[weights == 0] = math.nan
    for part in range(0, 40, 9):
        piece = slice(part, part + 9)
        weighted.update(preds[piece], target[piece], weights[piece])
    repeated.update(preds.repeat_interleave(weights, 0), target.repeat_interleave(weights, 0))
    assert weighted.compute() == pytest.approx(repeated.compute(), rel=1e-13)


@pytest.mark.parametrize("kind", SUMS)
def test_elements_of_any_shape(kind: Any) -> None:
    preds, target = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    metric, flat, single = kind(), kind(), kind()
    metric.update(preds.transpose(1, 2), target.transpose(1, 2), torch.tensor([1.0, 0, 2, 3]))
    flat.update(
        preds.reshape(-1), target.reshape(-1), torch.tensor([1.0, 0, 2, 3]).repeat_interleave(15)
    )
    assert metric.compute() == pytest.approx(flat.compute(), rel=1e-14)
    single.update(preds[0, 0, 0], target[0, 0, 0])
    single.update(preds[0, 0, 0], target[0, 0, 0], torch.tensor([2.0]))
    expected = kind()
    expected.update(preds[0, 0, :1], target[0, 0, :1])
    assert single.compute() == expected.compute()


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize(
    ("outputs", "preds", "target"),
    [(1, (4,), (5,)), (1, (4, 1), (4,)), (2, (4,), (4,)), (2, (4, 3), (4, 3)), (2, (4, 2), (4, 1))],
)
def test_shapes_that_are_refused(
    kind: Any, outputs: int, preds: tuple[int, ...], target: tuple[int, ...]
) -> None:
    metric = kind(num_outputs=outputs)
    message = re.escape(f", got {preds} and {target}")
    with pytest.raises(ValueError, match=f"^preds and target must .*{message}$"):
        metric.update(torch.zeros(preds), torch.zeros(target))
    with pytest.raises(EmptyMetricError, match=f"{kind.__name__} has counted nothing"):
        metric.compute()


@pytest.mark.parametrize("kind", [R2Score, ExplainedVariance, PearsonCorrCoef, SpearmanCorrCoef])
def test_several_outputs_are_not_taken_for_one(kind: Any) -> None:
    message = r"both have shape \(N,\) or \(N, 1\); set num_outputs for more, got \(4, 2\) and"
    with pytest.raises(ValueError, match=message):
        kind().update(torch.zeros(4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, 2.0], "weight must have shape (3,), one for each sample, got (2,)"),
        ([[1.0], [2.0], [3.0]], "weight must have shape (3,), one for each sample, got (3, 1)"),
        ([1.0, 2.0, -1.0], "weight[2] is -1.0, must be finite and at least 0"),
        ([1.0, math.nan, math.inf], "weight[1] is nan, must be finite and at least 0"),
        ([math.inf, 1.0, 1.0], "weight[0] is inf, must be finite and at least 0"),
    ],
)
def test_weights_that_are_refused(kind: Any, weight: list[Any], message: str) -> None:
    metric, plain = kind(), kind()
    for each in (metric, plain):
        each.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]))
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.update(torch.ones(3), torch.ones(3), torch.tensor(weight))
    assert metric.compute() == pytest.approx(plain.compute(), rel=0, nan_ok=True)


@pytest.mark.parametrize("kind", EACH)
def test_nothing_counted(kind: Any) -> None:
    metric = kind()
    metric.update(torch.zeros(0), torch.zeros(0))
    if kind is not SpearmanCorrCoef:
        metric.update(torch.ones(2), torch.ones(2), torch.zeros(2))
    with pytest.raises(EmptyMetricError, match=f"{kind.__name__} has counted nothing"):
        metric.compute()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    metric.compute()
    metric.reset()
    with pytest.raises(EmptyMetricError):
        metric.compute()


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("where", ["preds", "target"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinities_stay(kind: Any, where: str, bad: float) -> None:
    pair = {"preds": torch.tensor([1.0, 2.0, 3.5]), "target": torch.tensor([1.0, 2.5, 3.0])}
    parts = []
    for row in range(3):
        part = {name: values[row : row + 1].clone() for name, values in pair.items()}
        if row == 1:
            part[where][0] = bad
        parts.append(kind())
        parts[-1].update(**part)
    if kind is SpearmanCorrCoef and bad == math.inf:
        return  # An infinity has a rank.
    for metric in every_order(parts):
        assert not math.isfinite(metric.compute())
        if kind in (MeanSquaredError, MeanAbsoluteError):
            assert metric.compute() == pytest.approx(bad, nan_ok=True)
        metric.update(torch.tensor([1.0]), torch.tensor([2.0]))
        assert not math.isfinite(metric.compute())


@pytest.mark.parametrize("kind", EACH)
def test_options_that_are_refused(kind: Any) -> None:
    for outputs in (0, 1.0, True):
        with pytest.raises(ValueError, match="num_outputs must be a positive int, got "):
            kind(num_outputs=outputs)
    with pytest.raises(
        ValueError, match="unknown multioutput 'raw'; it is one of raw_values, uniform_average"
    ):
        kind(multioutput="raw")
    if kind not in (R2Score, ExplainedVariance):
        with pytest.raises(ValueError, match="unknown multioutput 'variance_weighted'"):
            kind(multioutput="variance_weighted")
    with pytest.raises(ValueError, match=f"only a metric like {kind.__name__}.* can be merged"):
        kind().merge(kind(num_outputs=2))


def test_ranks_take_no_weights() -> None:
    with pytest.raises(ValueError, match="SpearmanCorrCoef takes no weights; leave weight at None"):
        SpearmanCorrCoef().update(torch.ones(2), torch.ones(2), torch.ones(2))


def test_kept_values_are_copies() -> None:
    preds, target = torch.randn(9), torch.randn(9)
    metric, plain = SpearmanCorrCoef(), SpearmanCorrCoef()
    plain.update(preds.clone(), target.clone())
    metric.update(preds, target)
    preds.zero_()
    assert metric.compute() == plain.compute()


@pytest.mark.parametrize("kind", ERRORS)
def test_predictions_with_a_graph(kind: Any) -> None:
    preds = torch.randn(9, requires_grad=True) * 2
    target = torch.randint(0, 9, (9,))
    metric, plain = kind(), kind()
    metric.update(preds, target)
    plain.update(preds.detach(), target.double())
    value = metric.compute()
    assert value == plain.compute()
    assert isinstance(value, float)


def test_which_way_is_better() -> None:
    assert [kind.higher_is_better for kind in EACH] == [False] * 3 + [True] * 4


@needs_native
@pytest.mark.parametrize("kind", ERRORS)
@given(
    batch=batches(), weights=st.lists(st.sampled_from([0.0, 1.0, 0.3]), min_size=67, max_size=67)
)
def test_kernels_and_operators_count_alike(
    kind: Any, batch: dict[str, Any], weights: list[float]
) -> None:
    weight = torch.tensor(weights[: len(batch["preds"])])
    for arguments in ((), (weight,)):
        metric, other = (kind(num_outputs=batch["outputs"]) for _ in range(2))
        metric.update(batch["preds"], batch["target"], *arguments)
        with torch_backend():
            other.update(batch["preds"], batch["target"], *arguments)
        (mine,), (theirs,) = metric.state_dict().values(), other.state_dict().values()
        # Operators measure all moments or none.
        measured = (mine != 0) & (theirs != 0)
        assert torch.allclose(mine[measured], theirs[measured], rtol=1e-9, atol=1e-9)
        assert bool((theirs[~measured & (mine != 0)].abs() < 1e-9).all())
