"""The loops as functions, against the same written out by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hotloop.loops import (
    evaluate,
    train_epoch,
    training_step,
)
from hotloop.metrics import Accuracy
from hotloop.optimizers import SGD, AdamW, WeightAverage


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


def make_batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(n, 3), torch.randint(0, 4, (n,))) for n in sizes]


def test_evaluate_changes_nothing() -> None:
    model = make_model()
    model.train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    loss = nn.CrossEntropyLoss()
    first = evaluate(model, loss, make_batches(5, 2), {"accuracy": Accuracy()})
    torch.set_rng_state(rng)
    assert first == evaluate(model, loss, make_batches(5, 2), {"accuracy": Accuracy()})
    assert [module.training for module in model] == [True, True, False, True]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_evaluate_weighs_by_samples() -> None:
    model = make_model()
    loss = nn.CrossEntropyLoss()
    batches = make_batches(5, 2)
    whole = [tuple(torch.cat(parts) for parts in zip(*batches))]
    split, joined = evaluate(model, loss, batches), evaluate(model, loss, whole)
    assert split["loss"] == pytest.approx(joined["loss"], rel=1e-6)


def test_evaluate_restores_modes_after_an_error() -> None:
    model = make_model()
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(model, nn.CrossEntropyLoss(), [(torch.randn(2, 99), torch.zeros(2).long())])
    assert model.training


def test_training_step_adds_gradients() -> None:
    model = nn.Linear(3, 4)
    (batch,) = make_batches(5)
    result = training_step(model, batch, nn.CrossEntropyLoss())
    assert len(result.target) == len(result.preds) == 5
    assert not result.loss.requires_grad
    once = model.weight.grad.clone()
    training_step(model, batch, nn.CrossEntropyLoss())
    torch.testing.assert_close(model.weight.grad, 2 * once)


@pytest.mark.parametrize("batches", [[], make_batches(0)])
def test_empty_loaders_raise(batches: Any) -> None:
    model, loss = nn.Linear(3, 4), nn.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="loader yields no samples; check"):
        train_epoch(model, optimizer, loss, batches)
    with pytest.raises(ValueError, match="loader yields no samples; check"):
        evaluate(model, loss, batches)


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
def test_clipping_and_averaging_are_those_of_torch(make: Any) -> None:
    batches = make_batches(5, 5, 2)
    model = nn.Linear(3, 4)
    other = copy.deepcopy(model)
    optimizer = make(model.parameters(), lr=0.01)
    reference = torch.optim.AdamW(other.parameters(), lr=0.01, fused=True)
    average = WeightAverage(model, 0.9)
    expected = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    values = train_epoch(
        model, optimizer, nn.CrossEntropyLoss(), batches, max_norm=0.3, average=average
    )
    norms = []
    for x, y in batches:
        other.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        norms.append(float(nn.utils.clip_grad_norm_(other.parameters(), 0.3)))
        reference.step()
        expected.update_parameters(other)
    assert max(norms) > 0.3
    assert values["grad_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)
    assert values["skipped_updates"] == 0
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b)
    for a, b in zip(average.averages.values(), expected.module.parameters()):
        torch.testing.assert_close(a, b.detach())


def test_accumulated_updates_are_those_of_the_whole_window() -> None:
    results = []
    for sizes, accumulate in (((5, 3, 2, 4), 3), ((10, 4), 1)):
        torch.manual_seed(0)
        model = nn.Linear(3, 4)
        inputs, target = make_batches(14)[0]
        batches = list(zip(inputs.split(sizes), target.split(sizes)))
        optimizer = SGD(model.parameters(), lr=0.1)
        train_epoch(model, optimizer, nn.CrossEntropyLoss(), batches, accumulate=accumulate)
        results.append(model.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
