"""The loops as functions, against the same written out by hand."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hotloop.config import Cadence, TrainingConfig
from hotloop.errors import EmptyMetricError, NonFiniteError, OverflowStreakError
from hotloop.loops import (
    History,
    Observer,
    StepOutput,
    StepResult,
    Trainer,
    Update,
    Window,
    batch_size,
    evaluate,
    forward,
    optimizer_step,
    to_device,
    train_epoch,
    training_step,
)
from hotloop.loops.backward import backward
from hotloop.loops.batch import device_of
from hotloop.loops.measurement import Measurement, NumberMean, RunningLoss
from hotloop.loops.optimizer_step import clear_gradients
from hotloop.loops.pace import Pace
from hotloop.losses import LossSum
from hotloop.metrics import Accuracy
from hotloop.optimizers import SGD, AdamW, WeightAverage
from hotloop.optimizers.fused_step import FusedStep
from hotloop.precision import Precision
from hotloop.testing import FakeClock, NanInjector, ScriptedMetric, TinyModel, differences

CPU, META = torch.device("cpu"), torch.device("meta")


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


# Batches


class Point(NamedTuple):
    x: Tensor
    y: Any


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Tensor
    rest: Any
    name: str = "a"
    rows: int = dataclasses.field(init=False, default=-1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", len(self.x))


class Encoding:
    """Moves itself, as tokenizers' encodings do."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Encoding:
        return Encoding(self.x.to(device))


def ones(rows: int = 2) -> Tensor:
    return torch.ones(rows, 3)


NESTINGS: dict[str, Callable[[], Any]] = {
    "tensor": ones,
    "list": lambda: [ones(), ones(4)],
    "tuple": lambda: (ones(), "text", None),
    "named tuple": lambda: Point(ones(), [ones(4)]),
    "dict": lambda: {"x": ones(), "y": {"z": (ones(4), 5)}},
    "dict of no tensor first": lambda: {"n": 5, "x": [[], ones()]},
    "dataclass": lambda: Sample(ones(), {"y": Point(ones(4), 1)}, "b"),
    "list of dataclasses": lambda: [Sample(ones(), None)],
    "scalar first": lambda: (torch.tensor(1.0), ones()),
}


def tensors_in(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Encoding):
        return [batch.x]
    if dataclasses.is_dataclass(batch):
        batch = list(vars(batch).values())
    parts = batch.values() if isinstance(batch, dict) else batch
    nested = parts if isinstance(batch, (dict, list, tuple)) else ()
    return [tensor for part in nested for tensor in tensors_in(part)]


def skeleton(batch: Any) -> Any:
    """Return a batch with shapes in place of its tensors."""
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    if dataclasses.is_dataclass(batch):
        return type(batch), skeleton(vars(batch))
    if isinstance(batch, dict):
        return type(batch), [(key, skeleton(value)) for key, value in batch.items()]
    if isinstance(batch, (list, tuple)):
        return type(batch), [skeleton(part) for part in batch]
    return batch


@pytest.mark.parametrize("name", NESTINGS)
def test_batches_of_any_nesting_move(name: str) -> None:
    batch = NESTINGS[name]()
    before = skeleton(batch)
    moved = to_device(batch, META)
    assert skeleton(moved) == before
    assert {tensor.device.type for tensor in tensors_in(moved)} == {"meta"}
    # The loader's own batch is as it was.
    assert skeleton(batch) == before
    assert {tensor.device.type for tensor in tensors_in(batch)} == {"cpu"}
    assert batch_size(batch) == batch_size(moved) == 2


@pytest.mark.parametrize("name", NESTINGS)
def test_batches_that_are_there_stay_what_they_are(name: str) -> None:
    batch = NESTINGS[name]()
    assert to_device(batch, CPU) is batch


def test_a_part_that_moves_leaves_the_others() -> None:
    there = torch.empty(2, device=META)
    inner = [there, "text"]
    moved = to_device({"a": ones(), "b": inner, "c": there}, META)
    assert moved["a"].device == META
    assert moved["b"] is inner
    assert moved["c"] is there


def test_objects_move_themselves() -> None:
    encoding = Encoding(ones())
    moved = to_device((encoding, 3), META)
    assert moved[0].x.device == META
    assert encoding.x.device == CPU
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device({"x": packed}, META)["x"]
    assert isinstance(moved, PackedSequence)
    # Its sizes belong on the CPU.
    assert (moved.data.device, moved.batch_sizes.device) == (META, CPU)
    assert to_device(packed, CPU) is packed

    @dataclasses.dataclass
    class Graph:
        x: Tensor
        moves: int = 0

        def to(self, device: torch.device) -> Graph:
            return Graph(self.x.to(device), self.moves + 1)

    assert to_device(Graph(ones()), META).moves == 1


@pytest.mark.parametrize("batch", ["text", 5, None, {1, 2}, SimpleNamespace(to=3), Sample, [], {}])
def test_what_holds_no_tensor_stays(batch: Any) -> None:
    assert to_device(batch, META) is batch


def test_fields_that_share_a_name_with_the_method_are_fields() -> None:
    class Edge(NamedTuple):
        to: Tensor

    assert to_device(Edge(ones()), META).to.device == META


def test_pinned_sources_do_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def to(tensor: Tensor, *args: Any, **options: Any) -> str:
        seen.append((args, options))
        return "moved"

    monkeypatch.setattr(Tensor, "to", to)
    assert to_device([ones()], META) == ["moved"]
    assert seen == [((META,), {"non_blocking": True})]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(0, 3), 0),
        ([torch.tensor(1.0), {"a": "x", "b": torch.ones(7)}], 7),
        (OrderedDict(a=torch.ones(3), b=torch.ones(4)), 3),
        (Sample(torch.ones(6, 1), torch.ones(4)), 6),
        (Point(torch.tensor(1.0), torch.ones(5)), 5),
    ],
)
def test_samples_are_counted_by_the_first_tensor(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


@pytest.mark.parametrize(
    "batch", [5, "abc", torch.tensor(1.0), [], {"x": torch.tensor(1)}, Encoding(ones()), Sample]
)
def test_samples_that_cannot_be_counted(batch: Any) -> None:
    message = (
        "a batch must have a tensor whose first dimension counts its samples, or the step function "
        f"return StepOutput(loss, preds, target) with such a target; got {type(batch).__name__}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        batch_size(batch)


def test_device_of_a_model() -> None:
    assert device_of(nn.Linear(1, 1, device=META)) == META
    assert device_of(nn.BatchNorm1d(1, affine=False, device=META)) == META
    assert device_of(nn.ReLU()) == CPU


# The forward pass


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


# The backward pass


class Tagged(Tensor):
    """A subclass, which torch lets take part in backward passes."""

    calls: Counter[str] = Counter()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls[getattr(func, "__name__", "")] += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def gradients_by(run: Callable[[Tensor], None], dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)).to(dtype)
    unused = nn.Parameter(torch.ones(2, dtype=dtype))
    kept: list[Any] = []
    weight = model[0].weight
    weight.register_hook(lambda grad: grad * 3)
    model[3].bias.register_post_accumulate_grad_hook(lambda p: kept.append(p.grad.clone()))
    for _ in range(3):
        hidden = model[:2](torch.randn(5, 3, dtype=dtype))
        hidden.retain_grad()
        loss = model[2:](hidden).square().mean()
        run(loss + 0 * weight.sum())
        kept.append(hidden.grad)
    return [unused.grad, *kept, *(param.grad for param in model.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gradients_have_the_bits_of_torchs(dtype: torch.dtype) -> None:
    ours, theirs = (gradients_by(run, dtype) for run in (backward, torch.autograd.backward))
    assert differences(ours, theirs) == []
    assert len(ours) == 11


@pytest.fixture
def fallbacks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the losses that torch's own function gets."""
    seen: list[Tensor] = []
    original = torch.autograd.backward

    @functools.wraps(original)
    def recorded(loss: Any, *args: Any, **options: Any) -> Any:
        seen.append(loss)
        return original(loss, *args, **options)

    monkeypatch.setattr(torch.autograd, "backward", recorded)
    return seen


def test_plain_losses_go_to_the_engine(fallbacks: list[Tensor]) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    backward(x * x)
    assert x.grad == 4
    # A leaf is a loss too.
    backward(x)
    assert x.grad == 5
    assert fallbacks == []


def test_other_losses_go_the_usual_way(
    fallbacks: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    Tagged.calls.clear()
    backward((x * x).as_subclass(Tagged))
    assert Tagged.calls["backward"] == 1
    assert x.grad == 4
    # torch calls itself again for a subclass.
    assert len(fallbacks) == 2
    backward(nn.Parameter(torch.tensor(1.0)))
    backward(torch.empty((), device="meta", requires_grad=True) * 2)
    assert len(fallbacks) == 4
    monkeypatch.setattr("hotloop.loops.backward._ENGINE", None)
    backward(x * 3)
    assert len(fallbacks) == 5
    assert x.grad == 4 + 3


def twice(run: Callable[[Tensor], None]) -> None:
    loss = torch.ones(3, requires_grad=True).square().sum()
    run(loss)
    run(loss)


@pytest.mark.parametrize(
    "fail",
    [
        lambda run: run(torch.tensor(1.0)),
        lambda run: run(torch.tensor(1)),
        lambda run: run(torch.ones((), requires_grad=True).to(torch.complex64)),
        lambda run: run(torch.ones((), requires_grad=True).detach()),
        twice,
    ],
)
def test_errors_are_torchs(fail: Callable[[Any], None]) -> None:
    with pytest.raises(RuntimeError) as theirs:
        fail(torch.autograd.backward)
    with pytest.raises(RuntimeError) as ours:
        fail(backward)
    assert str(ours.value) == str(theirs.value) != ""


def test_an_exception_in_the_graph_comes_out() -> None:
    x = torch.ones((), requires_grad=True)

    def fail(grad: Tensor) -> None:
        raise KeyError("of the hook")

    y = x * 2
    y.register_hook(fail)
    with pytest.raises(KeyError, match="of the hook"):
        backward(y + 1)
    assert x.grad is None


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
    update = Update(window.losses, window.counts, 2, None, True, None)
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
    single = Update(losses[:1], [7], 7, None, True, None)
    assert single.loss is losses[0]
    for counts in ([1, 2], [torch.tensor(1), torch.tensor(2)], [0.5, 1.0]):
        assert Update(losses, counts, 3, None, True, None).loss.item() == 3


# The optimizer's step

MAKERS = [
    pytest.param(lambda params: AdamW(params, lr=0.05), id="AdamW"),
    pytest.param(lambda params: SGD(params, lr=0.05, momentum=0.9), id="SGD"),
    pytest.param(lambda params: torch.optim.AdamW(params, lr=0.05), id="torch.AdamW"),
    pytest.param(lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9), id="torch.SGD"),
]


def model_with_gradients(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    add_gradients(model, scale)
    return model


def add_gradients(model: nn.Module, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(3)
    for param in model.parameters():
        grad = torch.randn(param.shape, generator=generator) * scale
        param.grad = grad if param.grad is None else param.grad + grad


def norm_of(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))


@pytest.mark.parametrize("make", MAKERS)
def test_a_plain_step_is_the_optimizers_own(make: Any) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    for _ in range(3):
        assert optimizer_step(optimizer) == FusedStep(None, is_applied=True)
        assert all(param.grad is None for param in model.parameters())
        reference.step()
        reference.zero_grad()
        for each in (model, other):
            add_gradients(each)
    assert differences(model.state_dict(), other.state_dict()) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_values_are_cut_as_torch_cuts_them(make: Any, max_norm: float | None) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    for _ in range(3):
        nn.utils.clip_grad_value_(other.parameters(), 0.5)
        assert max(float(param.grad.abs().max()) for param in other.parameters()) == 0.5
        expected = norm_of(other)
        report = optimizer_step(optimizer, max_value=0.5, max_norm=max_norm)
        assert report == (pytest.approx(expected, rel=1e-6), True)
        if max_norm is not None:
            assert expected > max_norm
            nn.utils.clip_grad_norm_(other.parameters(), max_norm)
        reference.step()
        reference.zero_grad()
        for each in (model, other):
            add_gradients(each)
    tolerance = 0 if max_norm is None else 1e-6
    torch.testing.assert_close(
        model.state_dict(), other.state_dict(), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("make", MAKERS)
def test_the_norm_is_cut_as_torch_cuts_it(make: Any) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    for scale, max_norm in ((1.0, 2.0), (1.0, 1e9), (3.0, 0.1), (1.0, math.inf)):
        expected = float(nn.utils.clip_grad_norm_(other.parameters(), max_norm))
        report = optimizer_step(optimizer, max_norm=max_norm)
        assert report == (pytest.approx(expected, rel=1e-6), True)
        reference.step()
        reference.zero_grad()
        for each in (model, other):
            add_gradients(each, scale)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_what_need_not_be_cut_keeps_its_bits(make: Any) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer_step(make(other.parameters()))
    report = optimizer_step(make(model.parameters()), max_norm=1e6, max_value=1e6)
    assert report.grad_norm == pytest.approx(norm_of(model_with_gradients()), rel=1e-6)
    assert differences(model.state_dict(), other.state_dict()) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"max_value": 0.3}, {"average": 1}])
def test_a_factor_multiplies_the_gradients_first(make: Any, options: dict[str, Any]) -> None:
    results = []
    for scale, factor in ((0.25, 1.0), (1.0, 0.25), (1.0, torch.tensor(0.25))):
        model = model_with_gradients(scale)
        has_average = "average" in options
        average = WeightAverage(model, 0.5) if has_average else None
        report = optimizer_step(
            make(model.parameters()), **(options | {"average": average}), grad_factor=factor
        )
        assert all(param.grad is None for param in model.parameters())
        results.append((report, model.state_dict(), average.state_dict() if average else None))
    first, *others = results
    for report, state, averages in others:
        assert report == (
            None if first[0].grad_norm is None else pytest.approx(first[0].grad_norm, rel=1e-12),
            True,
        )
        # A power of two costs no bit, but for those of the norm.
        torch.testing.assert_close(state, first[1], rtol=1e-6, atol=1e-7)
        if averages is not None:
            torch.testing.assert_close(averages["averages"], first[2]["averages"])


def test_a_factor_elsewhere_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    original = torch._foreach_mul_

    def recorded(grads: list[Tensor], factor: Any) -> None:
        calls.append((len(grads), factor))
        original(grads, factor)

    monkeypatch.setattr(torch, "_foreach_mul_", recorded)
    model = nn.Linear(3, 2, device=META)
    model(torch.ones(4, 3, device=META)).sum().backward()
    factor = torch.tensor(0.5, device=META)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert optimizer_step(optimizer, grad_factor=factor) == (None, True)
    assert calls == [(2, factor)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("way", ["max_norm", "max_value", "scaler"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_changes_nothing(make: Any, way: str, bad: float) -> None:
    model = model_with_gradients()
    model[2].bias.grad[1] = bad
    before = copy.deepcopy(model.state_dict())
    optimizer = make(model.parameters())
    average = WeightAverage(model, 0.9)
    options: dict[str, Any] = {way: 0.5}
    if way == "scaler":
        scaler = GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.tensor(1.0))
        options = {way: scaler}
    report = optimizer_step(optimizer, average=average, **options)
    assert report.is_applied is False
    assert report.grad_norm is not None
    assert not math.isfinite(report.grad_norm)
    assert differences(model.state_dict(), before) == []
    assert average.updates == 0
    assert len(optimizer.state) == 0 or all(
        float(state.get("step", 0)) == 0 for state in optimizer.state.values()
    )
    assert all(param.grad is None for param in model.parameters())
    if way == "scaler":
        assert scaler.get_scale() == 4


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "options", [{}, {"max_norm": 1.0}, {"max_value": 0.3}, {"max_value": 0.3, "max_norm": 1.0}]
)
def test_a_scaler_scales_and_takes_it_back(make: Any, options: dict[str, Any]) -> None:
    model, other = model_with_gradients(), model_with_gradients()
    optimizer, reference = make(model.parameters()), make(other.parameters())
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for _ in range(3):
        scale = scaler.scale(torch.tensor(1.0)).item()
        for param in model.parameters():
            param.grad *= scale
        report = optimizer_step(optimizer, scaler=scaler, **options)
        expected = optimizer_step(reference, **({"max_norm": math.inf} | options))
        assert report == (pytest.approx(expected.grad_norm, rel=1e-6), True)
        for each in (model, other):
            add_gradients(each)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-7)
    assert scaler.get_scale() == 16


@pytest.mark.parametrize("make", MAKERS)
def test_a_scaler_that_is_off_does_nothing(make: Any) -> None:
    optimizer = make(model_with_gradients().parameters())
    scaler = GradScaler("cpu", enabled=False)
    assert optimizer_step(optimizer, scaler=scaler) == FusedStep(None, is_applied=True)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_an_average_follows(make: Any, max_norm: float | None) -> None:
    model = model_with_gradients()
    optimizer, average = make(model.parameters()), WeightAverage(model, 0.9)
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        report = optimizer_step(optimizer, average=average, max_norm=max_norm)
        assert (report.grad_norm is None) == (max_norm is None)
        expected.update_parameters(model)
        add_gradients(model)
    assert average.updates == 3
    for ours, theirs in zip(average.averages.values(), expected.module.parameters()):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.1}, {"average": True}])
def test_parameters_without_a_gradient_stay(make: Any, options: dict[str, Any]) -> None:
    used, idle = nn.Linear(2, 1), nn.Linear(2, 1)
    model = nn.ModuleList([used, idle])
    optimizer = make(model.parameters())
    if options.get("average"):
        options = {"average": WeightAverage(model, 0.9)}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer_step(optimizer, **options)
    before = copy.deepcopy(idle.state_dict())
    for _ in range(2):
        used(torch.ones(1, 2)).sum().backward()
        assert optimizer_step(optimizer, **options).is_applied
    # Neither momentum nor decay moves what the loss does not depend on.
    assert differences(idle.state_dict(), before) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "options",
    [{"max_norm": 1.0}, {"max_norm": 0.0}, {"max_value": 1.0}, {"grad_factor": 0.5}],
)
def test_a_step_without_any_gradient(make: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    report = optimizer_step(make(model.parameters()), **options)
    assert report == (None if "grad_factor" in options else 0.0, True)
    assert differences(model.state_dict(), before) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"max_value": 1.0}])
def test_a_scaled_step_without_any_gradient(make: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(2, 1)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.tensor(1.0))
    optimizer = make(model.parameters())
    for _ in range(2):
        assert optimizer_step(optimizer, scaler=scaler, **options) == (0.0, True)
    # Nothing has overflowed.
    assert scaler.get_scale() == 16


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": -1.0}, "max_norm must be at least 0 .* got -1.0"),
        ({"max_norm": math.nan}, "max_norm must be at least 0 .* got nan"),
        ({"max_value": 0.0}, "max_value must be above 0, or None; got 0.0"),
        ({"max_value": math.nan}, "max_value must be above 0, or None; got nan"),
        ({"grad_factor": -0.5}, "grad_factor must be above 0 and finite, got -0.5"),
        ({"grad_factor": torch.tensor(0.0)}, "grad_factor must be above 0 and finite, got 0.0"),
        ({"grad_factor": math.inf, "max_value": 1.0}, "grad_factor must be above 0 and .* got inf"),
    ],
)
def test_what_would_turn_the_step_around_is_refused(
    make: Any, options: dict[str, Any], message: str
) -> None:
    model = model_with_gradients()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer_step(make(model.parameters()), **options)
    assert differences(model.state_dict(), before) == []


def test_a_class_clears_gradients_its_own_way() -> None:
    calls: list[str] = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            calls.append("own")
            super().zero_grad(set_to_none)

    model = model_with_gradients()
    clear_gradients(Own(model.parameters(), lr=0.1))
    assert calls == ["own"]
    assert all(param.grad is None for param in model.parameters())


# What is measured


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
    assert math.isnan(running.window())
    assert math.isnan(running.mean())
    running.add(scalars(1, 4), [1, 2])
    assert running.window() == 3
    assert math.isnan(running.window())
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
    assert math.isnan(running.window())
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

    def after_batch(self, result: StepResult) -> None:
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


# Cadences


def due(pace: Pace, updates: int = 5, epochs: int = 2) -> tuple[list[int], list[int]]:
    """Return the steps and the epochs after which it is time."""
    steps = [
        epoch * updates + update
        for epoch in range(epochs)
        for update in range(1, updates + 1)
        if pace.is_due(epoch * updates + update, update)
    ]
    return steps, [epoch for epoch in range(epochs) if pace.is_due_after_epoch(epoch)]


@pytest.mark.parametrize(
    ("cadence", "steps", "epochs", "is_of_updates"),
    [
        (None, [], [], False),
        (3, [3, 6, 9], [], True),
        ("1 step", list(range(1, 11)), [], True),
        (Cadence(4, "steps"), [4, 8], [], True),
        ("1 epoch", [], [0, 1], False),
        ("2 epochs", [], [1], False),
        ("0.4 epochs", [2, 4, 7, 9], [], True),
        ("0.7 epochs", [4, 9], [], True),
        # At least one update lies between two times.
        ("0.01 epochs", list(range(1, 11)), [], True),
    ],
)
def test_paces_of_updates_and_epochs(
    cadence: Any, steps: list[int], epochs: list[int], is_of_updates: bool
) -> None:
    pace = Pace(cadence, 5, FakeClock())
    assert due(pace) == (steps, epochs)
    assert pace.is_of_updates == is_of_updates


@pytest.mark.parametrize(("cadence", "seconds"), [("30 seconds", 30), ("0.5 minutes", 30)])
def test_paces_of_time(cadence: str, seconds: float) -> None:
    clock = FakeClock()
    clock.advance(7)
    pace = Pace(cadence, None, clock)
    assert pace.is_of_updates
    seen = []
    for passed in (29, 1, 1, 28, 1.5, 100, 0, 29.9, 0.1):
        clock.advance(passed)
        seen.append(pace.is_due(1, 1))
    # Counted from the last time, and not from when that one should have been.
    assert seen == [False, True, False, False, True, True, False, False, True]
    assert not pace.is_due_after_epoch(0)


def test_a_fraction_of_an_epoch_needs_its_length() -> None:
    message = "'0.5 epochs' needs the length of an epoch, and the loader does not tell it; use st"
    with pytest.raises(ValueError, match=message):
        Pace("0.5 epochs", None, FakeClock())
    assert due(Pace("2 epochs", None, FakeClock())) == ([], [1])
    with pytest.raises(ValueError, match=r"a cadence must be .* got 'often'"):
        Pace("often", 5, FakeClock())


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
