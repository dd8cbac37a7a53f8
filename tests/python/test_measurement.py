"""What a pass over data measures."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
import torchmetrics.classification
from torch import Tensor, nn

from hotloop.errors import EmptyMetricError
from hotloop.loops import StepOutput, StepResult, Trainer, evaluate, train_epoch
from hotloop.loops.measurement import Measurement, NumberMean, RunningLoss
from hotloop.metrics import (
    F1,
    Accuracy,
    ConfusionMatrix,
    MeanSquaredError,
    MetricCollection,
    Perplexity,
    RunningMoments,
    TopKAccuracy,
    metric_collection,
)
from hotloop.rows import scan_rows
from hotloop.testing import ScriptedMetric, differences
from hotloop.testing.state_roundtrip import saved_and_loaded


def test_mean_of_numbers() -> None:
    mean = NumberMean()
    assert math.isnan(mean.value)
    for value in (1.0, 2.0, 6.0):
        mean.add([value])
    assert (mean.value, mean.sum, mean.count) == (3, 9, 3)


def scalars(*values: float) -> list[Tensor]:
    return [torch.tensor(value) for value in values]


def test_windows_and_epochs_of_a_loss() -> None:
    running = RunningLoss()
    assert running.window() is None
    assert math.isnan(running.mean())
    running.add(scalars(1, 4), [1, 2])
    assert running.window() == 3
    assert running.window() is None
    running.add(scalars(0), [3])
    assert running.mean() == 1.5
    running.restart()
    assert math.isnan(running.mean())
    # A window goes on where an epoch ends.
    running.add(scalars(2), [1])
    running.restart()
    running.add(scalars(8), [1])
    assert running.window() == (0 * 3 + 2 + 8) / 5
    assert running.mean() == 8


@pytest.mark.parametrize("counts", ["numbers", "tensors", "mixed"])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_any_number_of_losses_has_an_exact_mean(count: int, counts: str) -> None:
    values = torch.rand(count)
    weights: list[Any] = [index % 5 + 0.5 for index in range(count)]
    expected = math.fsum(v * w for v, w in zip(values.double().tolist(), weights))
    expected /= math.fsum(weights)
    if counts != "numbers":
        step = 1 if counts == "tensors" else 3
        for index in range(0, count, step):
            weights[index] = torch.tensor(weights[index])
    running = RunningLoss()
    for begin in range(0, count, 7):
        running.add(values[begin : begin + 7].unbind(), weights[begin : begin + 7])
    assert len(running._losses) == len(running._counts) < 256
    assert running.window() == pytest.approx(expected, rel=1e-14)
    assert running.mean() == pytest.approx(expected, rel=1e-14)


def test_small_losses_beside_large_ones_are_not_lost() -> None:
    running = RunningLoss()
    running.add(scalars(2.0**24, *[1.0] * 1000), [1] * 1001)
    assert running.mean() == (2**24 + 1000) / 1001
    running = RunningLoss()
    running.add([torch.tensor(0.1, dtype=torch.bfloat16)], [1])
    assert running.mean() == torch.tensor(0.1, dtype=torch.bfloat16).item()


@pytest.mark.parametrize("nothing", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_the_mean_of_nothing_counts_for_nothing(nothing: Any) -> None:
    running = RunningLoss()
    running.add(scalars(math.nan, 2.0, math.inf), [nothing, 3, nothing])
    assert running.window() == 2
    running.add(scalars(math.nan), [nothing])
    assert running.window() is None
    assert running.mean() == 2
    running.add(scalars(math.nan), [1])
    assert math.isnan(running.mean())


@pytest.mark.parametrize("counts", ["numbers", "tensors", "mixed"])
@pytest.mark.parametrize("split", [0, 1, 200, 256, 300])
def test_a_running_loss_goes_on_from_its_state_bit_for_bit(split: int, counts: str) -> None:
    losses = torch.rand(400).unbind()
    weights: list[Any] = [index % 5 + 0.5 for index in range(400)]
    if counts != "numbers":
        step = 1 if counts == "tensors" else 3
        for index in range(0, 400, step):
            weights[index] = torch.tensor(weights[index])
    first, second = RunningLoss(), RunningLoss()
    first.add(scalars(3), [2])
    first.restart()
    second.add(scalars(99), [99])
    second.window()
    second.add(scalars(98), [98])
    for index in range(split):
        first.add(losses[index : index + 1], weights[index : index + 1])
    state = saved_and_loaded(first.state_dict())
    second.load_state_dict(state)
    before = copy.deepcopy(state)
    for running in (first, second):
        for index in range(split, 400):
            running.add(losses[index : index + 1], weights[index : index + 1])
    assert second.mean() == first.mean()
    assert second.window() == first.window()
    assert differences(before, state) == []


def test_the_state_of_a_running_loss() -> None:
    running = RunningLoss()
    running.add(scalars(1, 2), [1, 1])
    running.window()
    running.add(scalars(6, 7), [2, 3])
    state = running.state_dict()
    assert torch.equal(state.pop("losses"), torch.tensor([6.0, 7.0]))
    assert state == {"counts": [2, 3], "sums": None, "epoch": [3.0, 2.0], "window": [0.0, 0.0]}
    # Taking it changes nothing.
    assert running.window() == (6 * 2 + 7 * 3) / 5


def result_of(samples: int, preds: Any = None) -> StepResult:
    return StepResult(torch.tensor(1.0), samples, samples, preds, torch.zeros(samples).long())


def test_a_measurement_counts_samples_and_shows_them_to_its_metrics() -> None:
    metric = ScriptedMetric([0.5, 0.75])
    metric.update(torch.ones(1), torch.ones(1))
    measurement = Measurement({"score": metric})
    assert (metric.batches, metric.resets) == (0, 1)
    for samples in (3, 2):
        measurement.update(result_of(samples, torch.ones(samples, 2)))
    measurement.loss.add(scalars(1, 6), [3, 2])
    assert measurement.samples == 5
    assert metric.batches == 2
    assert measurement.compute() == {"loss": 3, "score": 0.5}
    measurement.skipped = 4
    measurement.grad_norm.add([1])
    measurement.restart()
    assert (measurement.samples, measurement.skipped, measurement.grad_norm.count) == (0, 0, 0)
    assert (metric.batches, metric.resets) == (0, 2)


def test_measurements_that_cannot_be() -> None:
    measurement = Measurement({"accuracy": Accuracy()})
    message = r"metrics need predictions and targets; return StepOutput\(loss, preds, target\) from"
    with pytest.raises(ValueError, match=message):
        measurement.update(result_of(3))
    with pytest.raises(EmptyMetricError, match="Accuracy has counted nothing"):
        measurement.compute()
    with pytest.raises(ValueError, match="the loader yields no samples; check its dataset and"):
        Measurement().compute()
    without = Measurement()
    without.update(result_of(3))
    without.loss.add(scalars(2), [3])
    assert without.compute() == {"loss": 2}


def test_a_measurement_goes_on_from_its_state() -> None:
    first = Measurement({"score": ScriptedMetric([0.5, 0.75]), "accuracy": Accuracy()})
    first.update(result_of(3, torch.ones(3, 2)))
    first.loss.add(scalars(2), [3])
    first.grad_norm.add([0.5])
    first.skipped = 1
    assert first.compute()["score"] == 0.5
    state = first.state_dict()
    counts = state["metrics"]["accuracy"].pop("counts")
    assert counts.tolist() == [3, 3]
    assert {name: state[name] for name in state if name != "loss"} == {
        "grad_norm": [0.5, 1],
        "samples": 3,
        "skipped": 1,
        "metrics": {
            "score": {"batches": 1, "resets": 1, "computed": 1},
            "accuracy": {"invalid": 0},
        },
    }
    state["metrics"]["accuracy"]["counts"] = counts
    second = Measurement({"accuracy": Accuracy(), "score": ScriptedMetric([0.5, 0.75])})
    second.update(result_of(9, torch.eye(9)))
    second.loss.add(scalars(7), [9])
    second.load_state_dict(saved_and_loaded(state))
    assert differences(state, second.state_dict()) == []
    for measurement in (first, second):
        measurement.update(result_of(1, torch.tensor([[0.0, 1.0]])))
        measurement.loss.add(scalars(6), [1])
        assert measurement.samples == 4
        assert measurement.compute() == {"loss": 3, "score": 0.75, "accuracy": 0.75}


@pytest.mark.parametrize("others", [("score",), (), ("accuracy", "score")])
def test_a_state_of_other_metrics_changes_nothing(others: tuple[str, ...]) -> None:
    measurement = Measurement({"accuracy": Accuracy()})
    measurement.update(result_of(3, torch.ones(3, 2)))
    before = measurement.state_dict()
    other = Measurement({name: ScriptedMetric([]) for name in others}).state_dict()
    message = (
        f"the state has the metrics {list(others)}, and there are ['accuracy']; pass the same "
        "metrics as in the saved run"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        measurement.load_state_dict(other)
    assert differences(before, measurement.state_dict()) == []


class Stateless:
    """A metric without a state to give."""

    def update(self, preds: Tensor, target: Tensor) -> None: ...

    def reset(self) -> None: ...

    def compute(self) -> float:
        return 1.0


@pytest.mark.parametrize("missing", ["state_dict", "load_state_dict", "both"])
def test_a_metric_without_a_state_is_named(missing: str) -> None:
    metric: Any = Stateless()
    if missing != "both":
        other = {"state_dict": "load_state_dict", "load_state_dict": "state_dict"}[missing]
        setattr(metric, other, lambda: {})
    measurement = Measurement({"good": Accuracy(), "bad": metric})
    message = (
        r"metric 'bad' cannot be saved: Stateless needs the methods state_dict\(\) and "
        r"load_state_dict\(state\)"
    )
    with pytest.raises(TypeError, match=message):
        measurement.state_dict()


class Summed(nn.Module):
    """Like a metric of torchmetrics.

    Its state_dict is empty, it counts in place, and it keeps what it has computed.
    """

    def __init__(self, inner: Summed | None = None) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.inner = inner
        self.total, self.seen = torch.tensor(0.0), list[Tensor]()
        self.computed: float | None = None

    @property
    def metric_state(self) -> dict[str, Any]:
        return {"total": self.total, "seen": self.seen}

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.computed = None
        self.total += preds.sum()
        self.seen.append(preds.amax())
        if self.inner is not None:
            self.inner.update(preds * 10, target)

    def compute(self) -> float:
        if self.computed is None:
            inner = 0 if self.inner is None else self.inner.compute()
            self.computed = float(self.total + torch.stack(self.seen).sum()) + inner
        return self.computed

    def reset(self) -> None:
        self.total, self.seen, self.computed = torch.tensor(0.0), [], None
        if self.inner is not None:
            self.inner.reset()


def test_metrics_like_those_of_torchmetrics_go_on_from_their_state() -> None:
    first, second = (Measurement({"sum": Summed(Summed())}) for _ in range(2))
    first.update(result_of(2, torch.tensor([[1.0, 2.0]])))
    state = saved_and_loaded(first.state_dict())
    assert list(state["metrics"]["sum"]) == ["", "inner"]
    before = copy.deepcopy(state)
    second.update(result_of(2, torch.tensor([[50.0, 60.0]])))
    assert second.compute()["sum"] == 11 * (50 + 60 + 60)
    second.load_state_dict(state)
    assert second.compute()["sum"] == 11 * (1 + 2 + 2)
    for measurement in (first, second):
        measurement.update(result_of(2, torch.tensor([[3.0, 4.0]])))
        assert measurement.compute()["sum"] == 11 * (1 + 2 + 3 + 4 + 2 + 4)
    assert differences(before, state) == []


def scores_of(seed: int, samples: int = 6) -> StepResult:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (samples,), generator=generator)
    preds = torch.randn(samples, 4, generator=generator)
    return StepResult(torch.tensor(1.0), samples, samples, preds, target)


def measured(metrics: Any, seeds: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Return what the metrics make of some batches, without the loss."""
    measurement = Measurement(metrics)
    for seed in seeds:
        measurement.update(scores_of(seed))
    return {name: value for name, value in measurement.compute().items() if name != "loss"}


def peers() -> dict[str, Any]:
    return {
        "accuracy": torchmetrics.classification.MulticlassAccuracy(4, average="micro"),
        "f1": torchmetrics.classification.MulticlassF1Score(4),
    }


def test_metrics_of_torchmetrics_and_of_hotloop() -> None:
    both = peers() | {"own_accuracy": Accuracy(), "own_f1": F1(num_classes=4)}
    values = measured(both)
    assert all(type(value) is float for value in values.values())
    assert values["accuracy"] == pytest.approx(values["own_accuracy"])
    assert values["f1"] == pytest.approx(values["own_f1"])


@pytest.mark.parametrize("kind", [torchmetrics.MetricCollection, MetricCollection])
def test_collections_have_names_of_their_own(kind: Any) -> None:
    collection = kind(peers(), prefix="a_", postfix="_b")
    values = measured(collection)
    expected = measured(peers())
    assert values == {f"a_{name}_b": value for name, value in expected.items()}
    # The collection itself counts.
    assert {name: float(value) for name, value in collection.compute().items()} == values


@pytest.mark.parametrize("kind", [torchmetrics.MetricCollection, MetricCollection, dict])
def test_metrics_of_torchmetrics_go_on_from_their_state(kind: Any) -> None:
    first, second = (Measurement(kind(peers())) for _ in range(2))
    for seed in (1, 2):
        first.update(scores_of(seed))
    second.update(scores_of(3))
    state = saved_and_loaded(first.state_dict())
    second.load_state_dict(state)
    for measurement in (first, second):
        measurement.update(scores_of(4))
    assert second.compute() == first.compute()
    assert {name: first.compute()[name] for name in peers()} == measured(peers(), (1, 2, 4))
    with pytest.raises(ValueError, match="pass the same metrics as in the saved run"):
        second.load_state_dict(state | {"metrics": {"other": {}}})


def test_metrics_of_a_mapping_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {
        "accuracy": Accuracy(),
        "top2": TopKAccuracy(2),
        "f1": F1(),
        "confusion": ConfusionMatrix(),
        "perplexity": Perplexity(ignore_index=None),
    }
    alone = {name: measured({name: copy.deepcopy(each)})[name] for name, each in metrics.items()}
    scans = []

    def scan(*arguments: Any, **options: Any) -> Any:
        scans.append(arguments)
        return scan_rows(*arguments, **options)

    monkeypatch.setattr(metric_collection, "scan_rows", scan)
    values = measured(metrics)
    assert len(scans) == 2
    confusion = values.pop("confusion")
    assert torch.equal(confusion, alone.pop("confusion"))
    assert values == pytest.approx(alone, rel=1e-6)
    # The metrics have counted what they would have counted alone.
    assert metrics["f1"].compute() == values["f1"]


def test_values_that_are_no_floats() -> None:
    class Curve:
        def update(self, preds: Tensor, target: Tensor) -> None: ...

        def reset(self) -> None: ...

        def compute(self) -> Any:
            return {
                "tensor": torch.tensor(3),
                "numpy": np.float32(0.5),
                "points": torch.arange(3),
                "text": "none",
            }

    values = measured({"curve": Curve(), "matrix": ConfusionMatrix()})
    assert {name: value for name, value in values.items() if type(value) in (int, float, str)} == {
        "curve_tensor": 3,
        "curve_numpy": 0.5,
        "curve_text": "none",
    }
    assert torch.equal(values["curve_points"], torch.arange(3))
    assert values["matrix"].shape == (4, 4)


def test_rows_of_a_loss_stand_in_for_logits() -> None:
    metrics = {"accuracy": Accuracy(), "perplexity": Perplexity()}
    measurement = Measurement(metrics)
    for seed in (1, 2):
        result = scores_of(seed)
        rows = scan_rows(result.preds, result.target, nll=True)
        measurement.update(result._replace(preds=rows, target=None))
    values = measurement.compute()
    del values["loss"]
    assert values == pytest.approx(measured(metrics), rel=1e-6)
    with pytest.raises(ValueError, match="not all metrics can be counted from rows of scores"):
        Measurement(peers()).update(result._replace(preds=rows))


@pytest.mark.parametrize("metrics", [Accuracy(), [Accuracy()], torchmetrics.MeanMetric()])
def test_one_metric_needs_a_name(metrics: Any) -> None:
    message = (
        "metrics must be a mapping of names to metrics, or a collection of them, got "
        rf"{type(metrics).__name__}; for one metric pass {{'name': metric}}"
    )
    with pytest.raises(TypeError, match=message):
        Measurement(metrics)


def batches_of(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(5, 3), torch.randint(0, 4, (5,))) for _ in range(count)]


@pytest.mark.parametrize("kind", [torchmetrics.MetricCollection, MetricCollection, dict])
def test_every_loop_takes_metrics_of_torchmetrics(kind: Any) -> None:
    model = nn.Linear(3, 4)
    collection = {
        "matrix": torchmetrics.classification.MulticlassConfusionMatrix(4),
        "accuracy": torchmetrics.classification.MulticlassAccuracy(4, average="micro"),
    }
    loss = nn.CrossEntropyLoss()
    found = evaluate(model, loss, batches_of(3), kind(collection))
    assert found["matrix"].sum() == 15
    assert type(found["accuracy"]) is float
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained = train_epoch(model, optimizer, loss, batches_of(3), kind(collection))
    assert trained["matrix"].shape == (4, 4)
    trainer = Trainer(
        model, None, batches_of(3), batches_of(2), loss=loss, metrics=kind(collection)
    )
    history = trainer.train()
    # What is no number has no place in a history, and is there where it is asked for.
    assert "train_matrix" not in history
    assert "val_matrix" not in history
    values = trainer.validate()
    assert values["val_matrix"].sum() == 10
    assert values["val_accuracy"] == history["val_accuracy"][-1]
    assert trainer.test(batches_of(1))["test_matrix"].sum() == 5


def test_a_metric_of_several_values_is_in_the_history() -> None:
    class Spread(RunningMoments):
        def update(self, value: Any, weight: Any = None) -> None:  # type: ignore[override]
            super().update(value)

    def step(model: nn.Module, batch: Any) -> StepOutput:
        preds = model(batch[0])
        return StepOutput(nn.functional.cross_entropy(preds, batch[1]), preds, batch[1])

    trainer = Trainer(
        nn.Linear(3, 4), None, batches_of(2), batches_of(2), step_fn=step, metrics={"p": Spread()}
    )
    history = trainer.train()
    assert history["train_p_count"][-1] == history["val_p_count"][-1] == 40
    assert history["val_p_variance"][-1] > 0


def test_regression_metrics_in_a_loop() -> None:
    model = nn.Linear(3, 1)
    batches = [(inputs, inputs.sum(1, keepdim=True)) for inputs, _ in batches_of(4)]
    values = evaluate(model, nn.MSELoss(), batches, {"mse": MeanSquaredError()})
    assert values["mse"] == pytest.approx(values["loss"], rel=1e-6)
