"""hotloop's metrics where torchmetrics' are expected."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from typing import Any

import pytest
import torch
import torchmetrics
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from hotloop.metrics import (
    Accuracy,
    BitsPerByte,
    ConfusionMatrix,
    Mean,
    MeanSquaredError,
    Min,
    PearsonCorrCoef,
    Perplexity,
    Quantile,
    R2Score,
    RunningMean,
    RunningMoments,
    SpearmanCorrCoef,
    Sum,
    TokenAccuracy,
    as_torchmetrics,
)
from hotloop.testing import run_ranks

VALUES = [Mean(), Sum(), Min(), RunningMean(4), RunningMoments(), Quantile(0.3)]
NUMBERS = [MeanSquaredError(), R2Score(), PearsonCorrCoef(), SpearmanCorrCoef()]
CLASSES = [Accuracy(), ConfusionMatrix(), Perplexity(), TokenAccuracy(), BitsPerByte([1, 2, 0, 3])]


def batches(metric: Any, count: int = 3) -> list[tuple[torch.Tensor, ...]]:
    """Return batches that a metric takes."""
    torch.manual_seed(1)
    if metric in CLASSES:
        return [(torch.randn(6, 4), torch.randint(0, 4, (6,))) for _ in range(count)]
    columns = 1 if metric in VALUES else 2
    return [tuple(torch.randn(columns, 5)) for _ in range(count)]


def close(found: Any, expected: Any) -> bool:
    """Compare a value of tensors with one of numbers."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in found)
    assert isinstance(found, torch.Tensor)
    return torch.allclose(found.double(), torch.as_tensor(expected).double(), equal_nan=True)


@pytest.mark.parametrize("metric", [*VALUES, *NUMBERS, *CLASSES], ids=lambda m: type(m).__name__)
def test_each_kind(metric: Any) -> None:
    wrapped, whole = as_torchmetrics(metric), copy.deepcopy(metric)
    assert isinstance(wrapped, torchmetrics.Metric)
    assert wrapped.higher_is_better is metric.higher_is_better
    for count, batch in enumerate(batches(metric), 1):
        alone = copy.deepcopy(metric)
        alone.update(*batch)
        assert close(wrapped(*batch), alone.compute())
        whole.update(*batch)
        assert wrapped.update_count == count
        assert close(wrapped.compute(), whole.compute())
    for other in (pickle.loads(pickle.dumps(wrapped)), wrapped.clone(), copy.deepcopy(wrapped)):
        assert close(other.compute(), whole.compute())
        other.update(*batches(metric)[0])
        other.reset()
        other.update(*batches(metric)[0])
        alone = copy.deepcopy(metric)
        alone.update(*batches(metric)[0])
        assert close(other.compute(), alone.compute())
    assert close(wrapped.compute(), whole.compute())
    # The metric itself has counted nothing.
    assert repr(metric) in repr(wrapped)
    assert repr(copy.deepcopy(metric).state_dict()) == repr(fresh_state(metric))


def fresh_state(metric: Any) -> Any:
    fresh = copy.deepcopy(metric)
    fresh.reset()
    return fresh.state_dict()


@pytest.mark.parametrize("metric", [*VALUES, *NUMBERS, *CLASSES], ids=lambda m: type(m).__name__)
def test_states_merge_and_go_on(metric: Any) -> None:
    whole = copy.deepcopy(metric)
    parts = [as_torchmetrics(metric) for _ in range(2)]
    for part, batch in zip((parts[0], parts[1], parts[1]), batches(metric)):
        part.update(*batch)
        whole.update(*batch)
    parts[1].persistent(True)
    restored = as_torchmetrics(metric)
    restored.load_state_dict(parts[1].state_dict())
    for merged in (parts[0].clone(), parts[0].clone()):
        merged.merge_state(restored if merged is parts[0] else parts[1])
        if not isinstance(metric, RunningMean):
            assert close(merged.compute(), whole.compute())
    # Moving it packs and unpacks what it has counted.
    value = parts[1].compute()
    moved = parts[1].to("cpu").set_dtype(torch.float64)
    moved._computed = None
    assert close(value, moved.compute())


def test_what_the_metric_had_counted_stays() -> None:
    metric = Mean()
    metric.update(3.0)
    wrapped = as_torchmetrics(metric)
    wrapped.update(5.0)
    assert wrapped.compute() == 4
    assert metric.compute() == 3
    wrapped.reset()
    assert as_torchmetrics(metric).packed[0].dtype == torch.uint8


def test_a_collection_of_torchmetrics_tells_metrics_apart() -> None:
    # Their states are alike; only how a value is made of them differs.
    collection = torchmetrics.MetricCollection(
        {
            "mse": as_torchmetrics(MeanSquaredError()),
            "rmse": as_torchmetrics(MeanSquaredError(squared=False)),
            "peer": torchmetrics.MeanSquaredError(),
        },
        prefix="val_",
    )
    preds, target = torch.randn(2, 8).unbind()
    for _ in range(3):
        collection.update(preds, target)
    values = collection.compute()
    assert values["val_mse"] == pytest.approx(float(values["val_peer"]))
    assert values["val_rmse"] == pytest.approx(math.sqrt(values["val_mse"]))
    assert len(collection.compute_groups) == 3
    copied = collection.clone(prefix="test_")
    copied.reset()
    assert set(copied(preds, target)) == {"test_mse", "test_rmse", "test_peer"}


def test_arguments_by_name() -> None:
    wrapped = as_torchmetrics(R2Score())
    assert list(wrapped._update_signature.parameters) == ["preds", "target", "weight"]
    collection = torchmetrics.MetricCollection([wrapped, torchmetrics.MeanSquaredError()])
    preds, target = torch.randn(2, 8).unbind()
    collection.update(preds=preds, target=target, weight=torch.ones(8), extra=1)
    plain = R2Score()
    plain.update(preds, target)
    assert float(collection.compute()["TorchMetric"]) == pytest.approx(plain.compute())


def test_dtypes_and_devices_of_values() -> None:
    wrapped = as_torchmetrics(RunningMoments())
    wrapped.update(torch.tensor([1.0, 2.0]))
    assert {value.dtype for value in wrapped.compute().values()} == {torch.float32}
    wrapped.set_dtype(torch.float64)
    wrapped.update(torch.tensor([0.1]))
    assert {value.dtype for value in wrapped.compute().values()} == {torch.float64}


def test_states_of_other_metrics_are_refused() -> None:
    first, second = as_torchmetrics(RunningMean(3)), as_torchmetrics(RunningMean(4))
    second.update(1.0)
    message = r"only states of RunningMean\(window=3\) can be merged, got one of RunningMean\(wind"
    with pytest.raises(ValueError, match=message):
        first.merge_state(second)
    first.update(2.0)
    first._is_synced = True
    with pytest.raises(TorchMetricsUserError, match="forward cannot count while synced"):
        first(1.0)


def test_only_metrics_are_wrapped() -> None:
    with pytest.raises(TypeError, match=r"must be a hotloop.metrics.Metric, got MeanMetric"):
        as_torchmetrics(torchmetrics.MeanMetric())  # type: ignore[arg-type]


def test_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hotloop.metrics.torch_metric", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    message = r"as_torchmetrics needs torchmetrics, which .*: pip install 'hotloop\[metrics\]'"
    with pytest.raises(ImportError, match=message):
        as_torchmetrics(Mean())


def _count(rank: int) -> None:
    torch.manual_seed(0)
    metrics = {"r2": R2Score(), "quantile": Quantile(0.5), "rank": SpearmanCorrCoef()}
    wrapped = {name: as_torchmetrics(metric) for name, metric in metrics.items()}
    pairs = [tuple(torch.randn(2, 5 + part).unbind()) for part in range(3)]
    # The second rank has one batch, and the first two of other sizes.
    for part, (preds, target) in enumerate(pairs):
        for name, metric in metrics.items():
            arguments = (preds,) if name == "quantile" else (preds, target)
            metric.update(*arguments)
            if part % 2 == rank:
                wrapped[name].update(*arguments)
    for name, metric in metrics.items():
        value = metric.compute()
        assert wrapped[name].compute() == pytest.approx(value, rel=1e-6), name
        # Then it goes on with its own.
        assert repr(wrapped[name]._metric.state_dict()) != repr(metric.state_dict())


def test_ranks_gather_what_they_have_counted() -> None:
    run_ranks(2, _count)
