"""What a pass over data measures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.errors import EmptyMetricError
from hotloop.loops import (
    StepResult,
)
from hotloop.loops.measurement import Measurement, NumberMean, RunningLoss
from hotloop.metrics import Accuracy
from hotloop.testing import ScriptedMetric


def test_mean_of_numbers() -> None:
    mean = NumberMean()
    assert math.isnan(mean.value)
    for value in (1.0, 2.0, 6.0):
        mean.add(value)
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


def test_a_running_loss_goes_on_from_its_state() -> None:
    first = RunningLoss()
    first.add(scalars(1, 2), [1, 1])
    first.window()
    first.add(scalars(6), [2])
    state = first.state_dict()
    assert state == {"epoch": [15.0, 4.0], "window": [12.0, 2.0]}
    second = RunningLoss()
    second.add(scalars(99), [99])
    second.load_state_dict(state)
    for running in (first, second):
        running.add(scalars(0), [2])
        assert (running.window(), running.mean()) == (3, 2.5)
    assert state == {"epoch": [15.0, 4.0], "window": [12.0, 2.0]}


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
    measurement.grad_norm.add(1)
    measurement.restart()
    assert (measurement.samples, measurement.skipped, measurement.grad_norm.count) == (0, 0, 0)
    assert (metric.batches, metric.resets) == (0, 2)


def test_measurements_that_cannot_be() -> None:
    measurement = Measurement({"accuracy": Accuracy()})
    message = r"metrics need predictions and targets; return StepOutput\(loss, preds, target\) from"
    with pytest.raises(ValueError, match=message):
        measurement.update(result_of(3))
    with pytest.raises(EmptyMetricError, match="Accuracy has counted no sample"):
        measurement.compute()
    with pytest.raises(ValueError, match="the loader yields no samples; check its dataset and"):
        Measurement().compute()
    without = Measurement()
    without.update(result_of(3))
    without.loss.add(scalars(2), [3])
    assert without.compute() == {"loss": 2}


def test_a_measurement_goes_on_from_its_state() -> None:
    first = Measurement()
    first.update(result_of(3))
    first.loss.add(scalars(2), [3])
    first.grad_norm.add(0.5)
    first.skipped = 1
    state = first.state_dict()
    assert state == {
        "loss": {"epoch": [6.0, 3.0], "window": [6.0, 3.0]},
        "grad_norm": [0.5, 1],
        "samples": 3,
        "skipped": 1,
    }
    second = Measurement()
    second.update(result_of(9))
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert second.compute() == {"loss": 2}
