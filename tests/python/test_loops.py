"""The loops as functions, against the same written out by hand."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hotloop.config import TrainingConfig
from hotloop.errors import NonFiniteError, OverflowStreakError
from hotloop.loops import (
    History,
    Observer,
    StepOutput,
    StepResult,
    Trainer,
    Update,
    Window,
    evaluate,
    forward,
    train_epoch,
    training_step,
)
from hotloop.loops.backward import backward
from hotloop.loops.measurement import Measurement
from hotloop.losses import LossSum
from hotloop.metrics import Accuracy
from hotloop.optimizers import SGD, AdamW, WeightAverage
from hotloop.precision import Precision
from hotloop.testing import FakeClock, NanInjector, ScriptedMetric, TinyModel, differences

META = torch.device("meta")


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


# The forward pass


class Point(NamedTuple):
    x: Tensor
    y: Any


def pair() -> tuple[Tensor, Tensor]:
    ((inputs, target),) = TinyModel().batches(1)
    return inputs, target


def test_a_loss_sees_predictions_and_target() -> None:
    model = TinyModel()
    inputs, target = pair()
    for batch in ((inputs, target), [inputs, target], Point(inputs, target)):
        output = forward(model, batch, nn.functional.mse_loss)
        assert torch.equal(output.loss, nn.functional.mse_loss(model(inputs), target))
        assert torch.equal(output.preds, model(inputs))
        assert output.target is target
    summed = forward(model, (inputs, target), lambda preds, target: LossSum(preds.sum(), 3))
    assert isinstance(summed.loss, LossSum)


def test_a_step_function_stands_in_place_of_the_loss() -> None:
    model, batch = TinyModel(), object()
    loss = torch.tensor(1.0)
    asked: list[Any] = []

    def step_fn(output: Any) -> Callable[[nn.Module, Any], Any]:
        return lambda *arguments: asked.append(arguments) or output

    def forbidden(*_: Any) -> Tensor:
        raise AssertionError

    for output in (loss, LossSum(loss, 2)):
        assert forward(model, batch, forbidden, step_fn(output)) == (output, None, None)
    own = StepOutput(loss, "preds", "target")
    assert forward(model, batch, None, step_fn(own)) is own
    assert asked == [(model, batch)] * 3


class Calls(nn.Module):
    """Returns what it is told, and remembers how it was called."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output
        self.calls: list[Any] = []

    def forward(self, *args: Any, **options: Any) -> Any:
        self.calls.append((args, options))
        return self.output


@pytest.mark.parametrize(
    ("batch", "call"),
    [
        ({"a": 1, "b": 2}, ((), {"a": 1, "b": 2})),
        (OrderedDict(a=1), ((), {"a": 1})),
        ((1, 2), ((1, 2), {})),
        ([1], ((1,), {})),
        (5, ((5,), {})),
        ("text", (("text",), {})),
    ],
)
def test_a_model_of_its_own_loss_is_called_with_the_batch(batch: Any, call: Any) -> None:
    loss = torch.tensor(1.0)
    model = Calls(loss)
    assert forward(model, batch, None) == (loss, None, None)
    assert model.calls == [call]


class Named(NamedTuple):
    loss: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda loss: loss,
        lambda loss: LossSum(loss, 1),
        lambda loss: {"loss": loss, "logits": 1},
        lambda loss: SimpleNamespace(loss=loss),
        Named,
    ],
)
def test_where_a_models_own_loss_is_found(wrap: Callable[[Tensor], Any]) -> None:
    loss = torch.tensor(1.0)
    found = forward(Calls(wrap(loss)), 0, None).loss
    assert (found.total if isinstance(found, LossSum) else found) is loss


@pytest.mark.parametrize(
    "output", [{"logits": 1}, (torch.tensor(1.0), 2), SimpleNamespace(loss=None), 1.0, None]
)
def test_models_without_a_loss(output: Any) -> None:
    message = (
        "without a loss the model must return one, as a scalar tensor or as 'loss' of what it "
        f"returns; it returned {type(output).__name__}. Pass loss=... or step_fn=..."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        forward(Calls(output), 0, None)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (torch.ones(2, 3), "Tensor"),
        ((1,), "tuple"),
        ([1, 2, 3], "list"),
        ({"inputs": 1, "target": 2}, "dict"),
    ],
)
def test_a_loss_needs_pairs(batch: Any, kind: str) -> None:
    message = f"must be a pair (inputs, target); pass step_fn=... for another, got {kind}"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        forward(TinyModel(), batch, nn.functional.mse_loss)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (torch.ones(4, 2), "Tensor of shape (4, 2)"),
        (torch.ones(1), "Tensor of shape (1,)"),
        (0.5, "float"),
        (None, "NoneType"),
        ((torch.tensor(1.0), 2), "tuple"),
    ],
)
def test_a_loss_must_be_a_scalar(loss: Any, kind: str) -> None:
    message = re.escape(
        f"the loss must be a scalar tensor or a LossSum, got {kind}; reduce it to its mean or "
        "return LossSum(total, count)"
    )
    with pytest.raises(TypeError, match=f"^{message}$"):
        forward(TinyModel(), pair(), lambda preds, target: loss)
    with pytest.raises(TypeError, match=f"^{message}$"):
        forward(TinyModel(), 0, None, lambda model, batch: StepOutput(loss))
    if loss is not None:
        with pytest.raises(TypeError, match=f"^{message}$"):
            forward(Calls({"loss": loss}), 0, None)


# Training steps


def test_a_training_step_gives_what_it_measured() -> None:
    model = TinyModel()
    inputs, target = pair()
    result = training_step(model, (inputs, target), nn.functional.mse_loss)
    expected = nn.functional.mse_loss(model(inputs), target)
    assert torch.equal(result.loss, expected.detach())
    assert (result.count, result.samples) == (4, 4)
    assert torch.equal(result.preds, model(inputs).detach())
    assert result.target is target
    assert result.loss.grad_fn is result.preds.grad_fn is None
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    assert differences([param.grad for param in model.parameters()], list(gradients)) == []


@pytest.mark.parametrize("count", [3, 3.0, torch.tensor(3), torch.tensor(3.0)])
def test_a_sum_is_divided_by_its_count(count: Any) -> None:
    model = TinyModel()
    inputs, target = pair()
    batch = (inputs, target)
    result = training_step(model, batch, lambda x, y: LossSum((x - y).square().sum(), count))
    total = (model(inputs) - target).square().sum()
    assert torch.equal(result.loss, total.detach() / 3)
    assert (result.count, result.samples) == (count, 4)
    gradients = torch.autograd.grad(total / 3, list(model.parameters()))
    assert differences([param.grad for param in model.parameters()], list(gradients)) == []


def test_a_training_step_moves_its_batch() -> None:
    model = nn.Linear(3, 2, device=META)
    result = training_step(model, (torch.ones(4, 3), torch.ones(4, 2)), nn.functional.mse_loss)
    assert result.target.device == result.loss.device == META
    assert result.samples == 4
    moved: list[Any] = []
    step_fn = lambda model, batch: moved.append(batch) or model(batch).sum()  # noqa: E731
    training_step(model, torch.ones(4, 3), step_fn=step_fn, device=META)
    assert moved[0].device == META


@pytest.mark.parametrize(
    ("batch", "target", "samples"),
    [
        (torch.ones(4, 3), torch.ones(6), 6),
        (torch.ones(4, 3), None, 4),
        # What is no tensor of samples does not count them.
        (torch.ones(4, 3), torch.tensor(1.0), 4),
        (torch.ones(4, 3), [torch.ones(9), torch.ones(2)], 4),
        ("text", {"labels": torch.ones(5)}, 5),
    ],
)
def test_samples_are_those_of_the_target_or_the_batch(
    batch: Any, target: Any, samples: int
) -> None:
    def step_fn(model: nn.Module, batch: Any) -> StepOutput:
        return StepOutput(model(torch.ones(1, 3)).sum(), None, target)

    assert training_step(nn.Linear(3, 1), batch, step_fn=step_fn).samples == samples
    measured = evaluate(nn.Linear(3, 1), None, [batch], step_fn=step_fn)
    assert list(measured) == ["loss"]


def test_a_step_without_samples_to_count_is_an_error() -> None:
    def step_fn(model: nn.Module, batch: Any) -> LossSum:
        return LossSum(model(torch.ones(1, 3)).sum(), 1)

    with pytest.raises(ValueError, match=r"a batch must have a tensor whose .* got str"):
        training_step(nn.Linear(3, 1), "text", step_fn=step_fn)


def test_a_training_step_runs_in_its_precision() -> None:
    model = nn.Linear(3, 2)
    batch = (torch.randn(4, 3), torch.randn(4, 2))
    dtypes: list[torch.dtype] = []

    def loss(preds: Tensor, target: Tensor) -> Tensor:
        dtypes.append(preds.dtype)
        return nn.functional.mse_loss(preds.float(), target)

    for name in ("fp32", "bf16", "fp16"):
        model.weight.grad = None
        precision = Precision(name, init_scale=8.0)
        result = training_step(model, batch, loss, precision=precision)
        scale = 8 if name == "fp16" else 1
        expected = nn.functional.mse_loss(model(batch[0]), batch[1])
        (gradient,) = torch.autograd.grad(expected, model.weight)
        torch.testing.assert_close(model.weight.grad, scale * gradient, rtol=0.02, atol=0.02)
        torch.testing.assert_close(result.loss, expected.detach(), rtol=0.02, atol=0.0)
    assert dtypes == [torch.float32, torch.bfloat16, torch.float16]


# Accumulation


def train_once(batches: list[Any], **options: Any) -> tuple[TinyModel, dict[str, float]]:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, train_epoch(model, optimizer, None, batches, **options)


def masked_step(kind: str) -> Callable[[nn.Module, Any], Any]:
    def step_fn(model: nn.Module, batch: Any) -> Any:
        inputs, target, mask = batch
        squares = (model(inputs) - target).square().sum(1)
        if kind == "mean":
            return StepOutput(squares.mean(), None, target)
        count: Any = mask.sum()
        if kind == "integers":
            # Beside losses in float64 their quotient has to be one too.
            return LossSum((squares * mask.ceil()).sum(), mask.ceil().long().sum())
        return LossSum((squares * mask).sum(), count if kind == "tensor" else float(count))

    return step_fn


@example(cuts=[4, 9], weights=[1.0] * 12, kind="integers")
@example(cuts=[4, 4], weights=[0.0] * 4 + [1.0] * 8, kind="number")
@example(cuts=[4, 4], weights=[0.0] * 4 + [1.0] * 8, kind="tensor")
@given(
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    weights=st.lists(st.sampled_from([0.0, 0.0, 0.25, 1.0, 3.0]), min_size=12, max_size=12),
    kind=st.sampled_from(["mean", "number", "tensor", "integers"]),
)
def test_any_partition_makes_the_same_update(
    cuts: list[int], weights: list[float], kind: str
) -> None:
    ((inputs, target),) = TinyModel().batches(1, rows=12)
    whole = (inputs, target, torch.tensor(weights, dtype=torch.float64))
    ends = [0, *sorted(cuts), 12]
    parts = [tuple(t[a:b] for t in whole) for a, b in itertools.pairwise(ends)]
    step_fn = masked_step(kind)
    # Of nothing there is no mean.
    assume(kind == "mean" or sum(weights) > 0)
    model, measured = train_once(parts, accumulate=len(parts), step_fn=step_fn)
    other, expected = train_once([whole], step_fn=step_fn)
    assert measured["loss"] == pytest.approx(expected["loss"], rel=1e-12)
    for ours, theirs in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_what_is_left_of_an_epoch_makes_an_update() -> None:
    ((inputs, target),) = TinyModel().batches(1, rows=11)
    step_fn = masked_step("mean")

    def split(*sizes: int) -> list[Any]:
        return list(zip(inputs.split(sizes), target.split(sizes), inputs.split(sizes)))

    model, measured = train_once(split(3, 1, 2, 5), accumulate=3, step_fn=step_fn)
    other, expected = train_once(split(6, 5), step_fn=step_fn)
    assert differences(model.state_dict(), other.state_dict()) != []
    for ours, theirs in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    # The tail has one batch of three.
    model, measured = train_once(split(3, 1, 2, 5), accumulate=3, step_fn=step_fn)
    assert measured["loss"] == pytest.approx(expected["loss"], rel=1e-12)


def test_a_window_of_one_batch_changes_no_bit() -> None:
    loss = torch.tensor(0.1, requires_grad=True)
    window = Window()
    assert not window.is_full
    assert window.take(loss, 3) is loss
    assert window.is_full
    assert (window.grad_factor, window.samples, window.counts) == (1.0, 3, [3])
    assert window.losses[0].requires_grad is False


def test_equal_batches_need_no_correction() -> None:
    window = Window(4)
    for _ in range(4):
        assert window.take(torch.tensor(3.0, requires_grad=True), 5) == 0.75
    assert (window.grad_factor, window.samples) == (1.0, 20)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_window_weighs_by_counts(as_tensor: bool) -> None:
    window = Window(2)
    totals = [torch.tensor(total, requires_grad=True) for total in (6.0, 1.0)]
    counts: list[Any] = [torch.tensor(3), torch.tensor(1)] if as_tensor else [3, 1]
    taken = [window.take(LossSum(*each), 7) for each in zip(totals, counts)]
    assert [value.item() for value in taken] == pytest.approx([1.0, 1 / 6])
    # (6 + 1) / (3 + 1), where the guess was 6 items.
    assert float(window.grad_factor) == 1.5
    assert isinstance(window.grad_factor, Tensor) == as_tensor
    assert [loss.item() for loss in window.losses] == [2.0, 1.0]
    assert window.counts == counts
    assert window.samples == 14


def test_a_batch_of_nothing_counts_for_nothing() -> None:
    window = Window(3)
    for samples, loss in ((0, math.nan), (2, 3.0), (0, math.nan)):
        backward(window.take(torch.tensor(loss, requires_grad=True) * 1, samples))
    assert [loss.item() for loss in window.losses] == [0.0, 3.0, 0.0]
    assert window.grad_factor == 3.0
    empty = Window(2)
    for _ in range(2):
        assert empty.take(torch.tensor(math.nan, requires_grad=True), 0).item() == 0
    assert empty.grad_factor == 1.0
    update = Update(window.losses, window.counts, 2, (), True, None)
    assert update.loss.item() == 3


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_empty_batch_is_no_reason_to_skip(nonfinite: str, accumulate: int) -> None:
    batches = TinyModel().batches(2)
    empty = tuple(part[:0] for part in batches[0])
    results = []
    for loader in ([batches[0], empty, batches[1]], batches):
        model = TinyModel()
        optimizer = SGD(model.parameters(), lr=0.1)
        values = train_epoch(
            model,
            optimizer,
            nn.functional.mse_loss,
            loader,
            nonfinite=nonfinite,
            accumulate=accumulate if len(loader) == 3 else 1,
            max_value=1.0,
        )
        results.append((values, model.state_dict()))
    assert results[0][0]["skipped_updates"] == 0
    assert results[0][0]["loss"] == pytest.approx(results[1][0]["loss"], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-12, atol=1e-14)


def test_the_loss_of_an_update_is_the_mean_of_its_items() -> None:
    losses = [torch.tensor(1.0), torch.tensor(4.0)]
    single = Update(losses[:1], [7], 7, (), True, None)
    assert single.loss is losses[0]
    for counts in ([1, 2], [torch.tensor(1), torch.tensor(2)], [0.5, 1.0]):
        assert Update(losses, counts, 3, (), True, None).loss.item() == 3


# Validation


@pytest.mark.parametrize("as_tensor", [False, True])
def test_evaluate_weighs_by_the_counts_of_the_loss(as_tensor: bool) -> None:
    counts = [3, 0, 1]
    batches = [(torch.full((4, 1), 6.0), torch.zeros(4)) for _ in counts]
    left = iter(counts)

    def loss(preds: Tensor, target: Tensor) -> LossSum:
        count: Any = next(left)
        return LossSum(
            preds.sum() * 0 + count * (count + 1), torch.tensor(count) if as_tensor else count
        )

    values = evaluate(nn.Identity(), loss, batches)
    # (3 * 4 + 1 * 2) / (3 + 1)
    assert values == {"loss": 3.5}


def test_evaluate_sees_batches_without_a_graph_and_in_its_precision() -> None:
    model = nn.Linear(3, 2)
    seen: list[Any] = []

    def step_fn(model: nn.Module, batch: Tensor) -> StepOutput:
        preds = model(batch)
        seen.append((preds.dtype, torch.is_inference_mode_enabled(), model.training))
        return StepOutput(preds.float().mean(), preds, torch.zeros(len(batch)).long())

    values = evaluate(
        model,
        None,
        [torch.ones(4, 3), torch.ones(2, 3)],
        {"score": ScriptedMetric([0.25])},
        step_fn=step_fn,
        precision=Precision("bf16"),
    )
    assert seen == [(torch.bfloat16, True, False)] * 2
    assert values["score"] == 0.25
    assert values["loss"] == pytest.approx(model(torch.ones(1, 3)).mean().item(), rel=0.05)
    assert model.training
    assert model.weight.grad is None


def test_evaluate_moves_batches_to_the_model() -> None:
    model = nn.Linear(3, 2, device=META)
    seen: list[torch.device] = []

    def step_fn(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch["x"].device)
        return torch.tensor(1.0)

    assert evaluate(model, None, [{"x": torch.ones(4, 3)}], step_fn=step_fn) == {"loss": 1}
    assert seen == [META]


def test_metrics_of_a_validation_start_anew() -> None:
    accuracy = Accuracy()
    preds, target = torch.eye(4), torch.arange(4)
    accuracy.update(preds, 3 - target)
    values = evaluate(nn.Identity(), nn.CrossEntropyLoss(), [(preds, target)], {"a": accuracy})
    assert values["a"] == 1


# Epochs


class Watch(Observer):
    def __init__(self, last: int | None = None) -> None:
        self.events: list[str] = []
        self.updates: list[Update] = []
        self.results: list[StepResult] = []
        self.last = last

    def before_batch(self) -> None:
        self.events.append("before")

    def after_batch(self, result: StepResult, window: Window) -> None:
        self.events.append("after")
        self.results.append(result)

    def after_update(self, update: Update) -> bool:
        self.events.append("update")
        self.updates.append(update)
        return len(self.updates) == self.last


def run_epoch(
    loader: Any = None, observer: Observer | None = None, **options: Any
) -> tuple[TinyModel, dict[str, float]]:
    model = options.pop("model", None) or TinyModel()
    optimizer = options.pop("optimizer", None) or SGD(model.parameters(), lr=0.1)
    loader = TinyModel().batches(5) if loader is None else loader
    loss = nn.functional.mse_loss
    return model, train_epoch(model, optimizer, loss, loader, observer=observer, **options)


def test_an_observer_sees_batches_and_updates() -> None:
    watch = Watch()
    run_epoch(observer=watch, accumulate=2, max_norm=1.0)
    assert watch.events == [*("before", "after") * 2, "update"] * 2 + ["before", "after", "update"]
    assert [update.samples for update in watch.updates] == [8, 8, 4]
    assert [update.counts for update in watch.updates] == [[4, 4], [4, 4], [4]]
    losses = [loss for update in watch.updates for loss in update.losses]
    assert differences(losses, [result.loss for result in watch.results]) == []
    assert all(update.is_applied and update.grad_norm > 0 for update in watch.updates)
    assert watch.updates[0].running is watch.updates[2].running
    assert watch.updates[2].running.mean() == pytest.approx(
        sum(loss.item() for loss in losses) / 5, rel=1e-14
    )


def test_an_observer_ends_the_epoch() -> None:
    watch = Watch(last=2)
    drawn: list[int] = []

    def loader() -> Iterator[Any]:
        for index, batch in enumerate(TinyModel().batches(9)):
            drawn.append(index)
            yield batch

    model, values = run_epoch(loader(), watch, accumulate=2)
    assert drawn == [0, 1, 2, 3]
    expected, other = run_epoch(TinyModel().batches(4), accumulate=2)
    assert differences(model.state_dict(), expected.state_dict()) == []
    assert values == other


def test_a_plain_observer_does_nothing() -> None:
    observer = Observer()
    observer.before_batch()
    first, values = run_epoch(observer=observer)
    second, expected = run_epoch()
    assert differences(first.state_dict(), second.state_dict()) == []
    assert values == expected


def test_the_number_of_batches_is_asked_before_each_update() -> None:
    asked = iter([1, 3, 2, 99])
    watch = Watch()
    run_epoch(TinyModel().batches(7), watch, accumulate=lambda: next(asked))
    assert [len(update.losses) for update in watch.updates] == [1, 3, 2, 1]


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, "2"])
def test_batches_of_an_update_are_counted(accumulate: Any) -> None:
    message = f"accumulate must be a positive int, got {accumulate!r}"
    for batches in (accumulate, lambda: accumulate):
        model = TinyModel()
        with pytest.raises(ValueError, match=message):
            run_epoch(model=model, accumulate=batches)
        assert differences(model.state_dict(), TinyModel().state_dict()) == []


def test_an_epoch_begins_with_a_clean_slate() -> None:
    model = TinyModel().eval()
    for param in model.parameters():
        param.grad = torch.full_like(param, 1e9)
    run_epoch(model=model)
    assert model.training
    assert differences(model.state_dict(), run_epoch()[0].state_dict()) == []


@pytest.mark.parametrize(
    ("options", "is_measured"),
    [
        ({}, False),
        ({"accumulate": 2}, False),
        ({"max_norm": math.inf}, True),
        ({"max_value": 1.0}, True),
        ({"nonfinite": "skip"}, True),
        ({"precision": Precision("fp16", init_scale=8.0)}, True),
    ],
)
def test_what_an_epoch_returns(options: dict[str, Any], is_measured: bool) -> None:
    metric = ScriptedMetric([0.5])
    model = TinyModel().float()
    batches = [(x.float(), y.float()) for x, y in TinyModel().batches(5)]
    _, values = run_epoch(batches, model=model, metrics={"score": metric}, **options)
    names = ["loss", "score", *(("grad_norm", "skipped_updates") if is_measured else ())]
    assert list(values) == names
    assert values["score"] == 0.5
    assert metric.batches == 5
    if is_measured:
        assert values["skipped_updates"] == 0
        assert values["grad_norm"] > 0


def test_a_measurement_goes_on_in_the_next_epoch() -> None:
    measurement = Measurement()
    batches = TinyModel().batches(6)
    model = TinyModel()
    for part in (batches[:2], batches[2:]):
        _, values = run_epoch(part, model=model, measurement=measurement)
    whole, expected = run_epoch(batches)
    assert differences(model.state_dict(), whole.state_dict()) == []
    assert values == {"loss": pytest.approx(expected["loss"], rel=1e-14)}
    assert measurement.samples == 24


# What is not finite


def test_only_two_ways_with_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="nonfinite must be 'raise' or 'skip', got 'ignore'"):
        run_epoch(nonfinite="ignore")


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"max_norm": math.inf}, {"max_value": 1.0}])
def test_a_measured_norm_raises_before_the_update(options: dict[str, Any]) -> None:
    watch = Watch()
    model = TinyModel()
    message = "norm of the gradients is nan, and the update was left out; .* nonfinite='skip'"
    with pytest.raises(NonFiniteError, match=message):
        run_epoch(NanInjector(TinyModel().batches(5), 2), watch, model=model, **options)
    assert len(watch.updates) == 2
    expected, _ = run_epoch(TinyModel().batches(2), **options)
    assert differences(model.state_dict(), expected.state_dict()) == []


def test_without_a_norm_the_mean_loss_of_the_epoch_raises() -> None:
    watch = Watch()
    model = TinyModel()
    message = "the mean loss of the epoch is nan; .* nonfinite='skip'"
    with pytest.raises(NonFiniteError, match=message):
        run_epoch(NanInjector(TinyModel().batches(5), 2), watch, model=model)
    assert len(watch.updates) == 5
    assert all(param.isnan().all() for param in model.parameters())


@pytest.mark.parametrize("make", [SGD, torch.optim.SGD])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_skipping_leaves_out_updates_and_counts_them(make: Any, accumulate: int) -> None:
    batches = TinyModel().batches(6)
    watch = Watch()
    model = TinyModel()
    model, values = run_epoch(
        NanInjector(batches, 2),
        watch,
        model=model,
        optimizer=make(model.parameters(), lr=0.1),
        nonfinite="skip",
        accumulate=accumulate,
    )
    left = batches[:2] + batches[2 + accumulate :]
    expected, other = run_epoch(left, nonfinite="skip", accumulate=accumulate)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-12, atol=1e-14)
    assert values["loss"] == pytest.approx(other["loss"], rel=1e-12)
    assert values["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-12)
    assert values["skipped_updates"] == 1
    place = 2 // accumulate
    assert [update.is_applied for update in watch.updates].index(False) == place
    assert watch.updates[place].grad_norm is None
    assert watch.updates[place].samples == 4 * accumulate


@pytest.mark.parametrize("make", [SGD, torch.optim.SGD])
def test_a_finite_loss_may_have_a_gradient_that_is_not(make: Any) -> None:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)

    def step_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).sqrt().mean()

    values = train_epoch(
        model,
        make(model.parameters(), lr=0.5),
        None,
        [torch.zeros(1, 1), torch.ones(1, 1)],
        step_fn=step_fn,
        nonfinite="skip",
    )
    assert values == {"loss": 1.0, "grad_norm": math.sqrt(0.5), "skipped_updates": 1}
    assert (model.weight.item(), model.bias.item()) == (0.75, -0.25)


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("make", [SGD, torch.optim.SGD])
def test_a_scaler_leaves_out_overflows_either_way(make: Any, nonfinite: str) -> None:
    model = TinyModel().float()
    batches = [(x.float(), y.float()) for x, y in TinyModel().batches(4)]
    precision = Precision("fp16", init_scale=8.0, max_overflows=1)
    optimizer = make(model.parameters(), lr=0.01)
    options: dict[str, Any] = {"model": model, "optimizer": optimizer, "precision": precision}
    _, values = run_epoch(NanInjector(batches, 1), nonfinite=nonfinite, **options)
    assert values["skipped_updates"] == 1
    assert math.isfinite(values["loss"])
    assert precision.overflows == 1
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 4
    bad = [tuple(torch.full_like(part, math.nan) for part in batches[0])] * 2
    with pytest.raises(OverflowStreakError, match="2 updates in a row overflowed"):
        run_epoch(bad, nonfinite=nonfinite, **options)


def test_nothing_but_skipped_updates_has_no_mean() -> None:
    bad = [tuple(torch.full_like(part, math.nan) for part in TinyModel().batches(1)[0])]
    _, values = run_epoch(bad * 3, nonfinite="skip")
    assert math.isnan(values["loss"])
    assert math.isnan(values["grad_norm"])
    assert values["skipped_updates"] == 3


# History


def test_a_history_is_of_a_run_that_goes_on() -> None:
    history = History()
    assert history.stop_reason is None
    history.update({"loss": 1.0}, 3)
    assert history.history("loss") == [(3, 1.0)]


WINDOWS = {"loss", "lr", "samples_per_second"}
EPOCHS = {"train_loss", "train_score", "seconds"}
MEASURED = {"grad_norm", "train_grad_norm", "train_skipped_updates"}


class MeanPrediction:
    def __init__(self) -> None:
        self.reset()

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.sum += float(preds.sum())
        self.count += preds.numel()

    def compute(self) -> float:
        return self.sum / self.count

    def reset(self) -> None:
        self.sum, self.count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sum, self.count = state["sum"], state["count"]


@pytest.mark.parametrize(
    ("settings", "val", "names"),
    [
        ({}, None, WINDOWS | EPOCHS),
        # The end of a run ends its last window, if it is known before.
        ({"log_every": 99}, None, WINDOWS | EPOCHS),
        ({"log_every": 99, "is_stream": True}, None, EPOCHS),
        ({"clip_norm": 1.0}, None, WINDOWS | EPOCHS | MEASURED),
        ({"clip_value": 1.0}, None, WINDOWS | EPOCHS | MEASURED),
        ({"nonfinite": "skip"}, None, WINDOWS | EPOCHS | MEASURED),
        (
            {"nonfinite": "skip", "poison": 1},
            None,
            WINDOWS | EPOCHS | MEASURED | {"skipped_updates"},
        ),
        ({}, "one", WINDOWS | EPOCHS | {"val_loss", "val_score"}),
        (
            {},
            "several",
            WINDOWS | EPOCHS | {"val_a_loss", "val_a_score", "val_b_loss", "val_b_score"},
        ),
    ],
)
def test_names_of_what_a_run_measures(settings: Any, val: str | None, names: set[str]) -> None:
    batches = TinyModel().batches(4)
    settings = {"log_every": 2, "poison": 10**6, "is_stream": False} | settings
    loader = NanInjector(batches, settings.pop("poison"))
    is_stream = settings.pop("is_stream")
    model = TinyModel()
    loaders = {None: None, "one": batches, "several": {"a": batches, "b": batches}}
    history = Trainer(
        model,
        TrainingConfig(progress=False, **settings),
        iter(loader) if is_stream else loader,
        loaders[val],
        loss=nn.functional.mse_loss,
        optimizer=SGD(model.parameters(), lr=0.01),
        metrics={"score": MeanPrediction()},
        clock=FakeClock(step=1),
    ).train()
    assert set(history.names()) == names
