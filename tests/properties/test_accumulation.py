"""Properties of accumulation: the batches of an update weigh as one batch of all their items."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from hotloop.callbacks import Accumulate, Callback, GradientAccumulationSchedule, TrainState
from hotloop.config import TrainingConfig
from hotloop.loops import Observer, Trainer, Update, train_epoch
from hotloop.losses import LossSum, cross_entropy, focal, lm_cross_entropy
from hotloop.optimizers import SGD, AdamW
from hotloop.precision import Precision

FEATURES, HIDDEN, CLASSES, TOKENS = 3, 4, 3, 2
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0])
#: Largest difference over the norm of the gradient. In float32 that is 17 unit roundoffs, and
#: the largest of 28,000 updates was 11; in float64 a factor rounded to float32 is 10,000 times it.
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}

Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # A second one has nothing to do with tensors this small, and is waited for.
    torch.set_num_threads(1)


class Network(nn.Module):
    """Two layers of tokens, or one, whose parameters are added to fixed numbers.

    The parameters begin at 0, where an update with a learning rate of 1 puts minus the gradient
    in their place, without rounding.
    """

    def __init__(self, dtype: torch.dtype, seed: int, *, is_linear: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = (FEATURES, CLASSES) if is_linear else (FEATURES, HIDDEN, CLASSES)
        self.fixed: list[Tensor] = []
        for last, size in itertools.pairwise(sizes):
            for shape in ((size, last), (size,)):
                self.fixed.append(torch.randn(shape, generator=generator).to(dtype))
                name = f"moved{len(self.fixed)}"
                self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=dtype)))

    def forward(self, x: Tensor) -> Tensor:
        values = [fixed + moved for fixed, moved in zip(self.fixed, self.parameters())]
        for index in range(0, len(values), 2):
            x = functional.linear(x if index == 0 else x.tanh(), *values[index : index + 2])
        return x


class Kind(NamedTuple):
    """A loss as it is passed to a loop, and what it is the quotient of, item by item."""

    loss: Callable[[Any, Any], Any] | None
    step_fn: Callable[[nn.Module, Any], Any] | None
    losses: Callable[[Tensor, Tensor, Tensor], Tensor]
    counts: Callable[[Tensor, Tensor], Tensor]
    has_ignored: bool = True


def plain(preds: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(preds.mT, target, reduction="none")


def valid(target: Tensor, weight: Tensor) -> Tensor:
    return (target != -100).to(weight)


def weighted_step(model: nn.Module, batch: Any) -> Any:
    x, target, weight = batch
    return lm_cross_entropy(model(x), target, weight=weight)


def class_weights(target: Tensor, weight: Tensor) -> Tensor:
    return CLASS_WEIGHTS.to(weight)[target.clamp(min=0)] * valid(target, weight)


def numbered(preds: Tensor, target: Tensor) -> LossSum:
    return LossSum(plain(preds, target).sum(), int((target != -100).sum()))


def focal_losses(preds: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    log_p = -plain(preds, target)
    return -((1 - log_p.exp()) ** 2) * log_p


KINDS = {
    "mean": Kind(
        lambda preds, target: functional.cross_entropy(preds.mT, target),
        None,
        lambda preds, target, _: plain(preds, target),
        valid,
        has_ignored=False,
    ),
    "tokens": Kind(lm_cross_entropy, None, lambda p, t, _: plain(p, t), valid),
    "next tokens": Kind(
        lambda preds, target: lm_cross_entropy(preds, target, shift=True),
        None,
        lambda preds, target, _: plain(preds[:, :-1], target[:, 1:]),
        lambda target, weight: valid(target, weight)[:, 1:],
    ),
    "token weights": Kind(
        None,
        weighted_step,
        lambda preds, target, weight: plain(preds, target) * weight,
        lambda target, weight: valid(target, weight) * weight,
    ),
    "class weights": Kind(
        lambda preds, target: cross_entropy(preds.mT, target, weight=CLASS_WEIGHTS),
        None,
        lambda preds, target, weight: plain(preds, target) * class_weights(target, weight),
        class_weights,
    ),
    "numbers": Kind(numbered, None, lambda p, t, _: plain(p, t), valid),
    "focal": Kind(
        lambda preds, target: focal(preds.flatten(0, 1), target.flatten()),
        None,
        focal_losses,
        valid,
    ),
}

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda params: SGD(params, lr=1.0),
    "AdamW": lambda params: AdamW(params, lr=1.0, betas=(0.0, 0.9)),
    "torch's SGD": lambda params: torch.optim.SGD(params, lr=1.0),
    "torch's AdamW": lambda params: torch.optim.AdamW(params, lr=1.0, betas=(0.0, 0.9)),
}


class Reader:
    """Notes the gradient that each update used, and takes the update back."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.grads: list[Tensor] = []
        self.norms: list[float | None] = []
        self.are_applied: list[bool] = []
        self._optimizer = optimizer
        self._params: list[Tensor] = optimizer.param_groups[0]["params"]

    def read(self, norm: float | None, is_applied: bool) -> None:
        self.grads.append(torch.cat([self._used(param).flatten() for param in self._params]))
        self.norms.append(norm)
        self.are_applied.append(is_applied)
        with torch.no_grad():
            for param in self._params:
                param.zero_()

    def _used(self, param: Tensor) -> Tensor:
        if "betas" not in self._optimizer.param_groups[0]:
            return -param.detach()
        # With beta1 = 0 the first moment is the gradient.
        moment = self._optimizer.state[param].get("exp_avg")
        if moment is None:
            return torch.zeros_like(param)
        used: Tensor = moment.clone()
        moment.zero_()
        return used


class Watching(Observer):
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def after_update(self, update: Update) -> bool:
        self._reader.read(update.grad_norm, update.is_applied)
        return False


class Reading(Callback):
    """Reads each update, and asks for the number of batches of the next one."""

    def __init__(self, reader: Reader, windows: Iterator[int] | None) -> None:
        self._reader = reader
        self._windows = windows

    def _next(self) -> Accumulate | None:
        return None if self._windows is None else Accumulate(next(self._windows))

    def on_train_begin(self, state: TrainState) -> Accumulate | None:
        return self._next()

    def on_step_end(self, state: TrainState) -> Accumulate | None:
        self._reader.read(state.grad_norm, True)
        return self._next()

    def on_step_skipped(self, state: TrainState) -> Accumulate | None:
        self._reader.read(state.grad_norm, False)
        return self._next()


@dataclass
class Problem:
    """What is drawn.

    Attributes:
        rows: Samples of each batch.
        ignored: Which part of each batch's labels is ignored.
        windows: How many batches make an update: one number for all, or one for each in turn.
        seed: Of the network and the data.
        dtype: Of the network and the data.
        make: Makes the optimizer.
        epochs: Epochs of a trainer; 0 for `train_epoch`.
    """

    rows: list[int]
    ignored: list[float]
    windows: int | list[int]
    seed: int
    dtype: torch.dtype
    make: Callable[[Any], Optimizer]
    epochs: int

    def batches(self, *, has_ignored: bool = True) -> list[Batch]:
        generator = torch.Generator().manual_seed(self.seed + 1)
        batches = []
        for rows, part in zip(self.rows, self.ignored):
            shape = (rows, TOKENS)
            x = torch.randn((*shape, FEATURES), generator=generator).to(self.dtype)
            target = torch.randint(CLASSES, shape, generator=generator)
            if has_ignored:
                target[torch.rand(shape, generator=generator) < part] = -100
            drawn = torch.randint(4, shape, generator=generator)
            weight = torch.tensor([0.0, 0.25, 1.0, 3.0], dtype=self.dtype)[drawn]
            batches.append((x, target, weight))
        return batches

    def updates(self, batches: list[Batch]) -> list[list[Batch]]:
        """Return the batches of each update; no update has those of two epochs."""
        counts = self.counts()
        found = []
        for _ in range(max(self.epochs, 1)):
            rest = batches
            while rest:
                count = next(counts)
                found.append(rest[:count])
                rest = rest[count:]
        return found

    def counts(self) -> Iterator[int]:
        windows = self.windows
        return itertools.cycle([windows] if isinstance(windows, int) else windows)

    def run(
        self,
        kind: Kind,
        batches: list[Batch],
        *,
        model: nn.Module | None = None,
        max_norm: float | None = None,
        max_value: float | None = None,
        precision: Precision | None = None,
        nonfinite: str = "raise",
    ) -> tuple[Reader, list[float]]:
        """Train, and return what was read and the mean loss of each epoch."""
        model = self.network() if model is None else model
        optimizer = self.make(model.parameters())
        reader = Reader(optimizer)
        loader: list[Any] = [batch[:2] for batch in batches] if kind.step_fn is None else batches
        is_fixed = isinstance(self.windows, int)
        if self.epochs == 0:
            counts = self.counts()
            values = train_epoch(
                model,
                optimizer,
                kind.loss,
                loader,
                observer=Watching(reader),
                step_fn=kind.step_fn,
                accumulate=next(counts) if is_fixed else lambda: next(counts),
                max_norm=max_norm,
                max_value=max_value,
                precision=precision,
                nonfinite=nonfinite,
            )
            return reader, [values["loss"]]
        config = TrainingConfig(
            epochs=self.epochs,
            clip_norm=max_norm,
            clip_value=max_value,
            accumulate=self.windows if isinstance(self.windows, int) else 1,
            nonfinite=nonfinite,
            log_every="99 epochs",
            progress=False,
        )
        callback = Reading(reader, None if is_fixed else self.counts())
        trainer = Trainer(
            model,
            config,
            loader,
            loss=kind.loss,
            step_fn=kind.step_fn,
            optimizer=optimizer,
            precision=precision,
            callbacks=[callback],
        )
        return reader, trainer.train()["train_loss"]

    def network(self, *, is_linear: bool = False) -> Network:
        return Network(self.dtype, self.seed, is_linear=is_linear)


@st.composite
def problems(draw: st.DrawFn, *dtypes: torch.dtype, most_epochs: int = 2) -> Problem:
    rows = draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    assume(any(rows))
    each = st.sampled_from([0.0, 0.0, 0.5, 1.0])
    window = st.integers(1, 4)
    name = draw(st.sampled_from(list(OPTIMIZERS)))
    return Problem(
        rows,
        draw(st.lists(each, min_size=len(rows), max_size=len(rows))),
        draw(st.one_of(window, st.lists(window, min_size=2, max_size=4))),
        draw(st.integers(0, 99)),
        draw(st.sampled_from(dtypes or tuple(TOLERANCES))),
        OPTIMIZERS[name],
        draw(st.integers(0, most_epochs)),
    )


def parts(
    kind: Kind, model: nn.Module, batches: list[Batch], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of batches as one batch, and what it is divided by."""
    x, target, weight = (torch.cat(each) for each in zip(*batches))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        preds = model(x)
    return kind.losses(preds.to(weight), target, weight).sum(), kind.counts(target, weight).sum()


def gradient(
    kind: Kind, model: nn.Module, batches: list[Batch], dtype: torch.dtype | None = None
) -> Tensor:
    """Return the gradient of one batch, the parameters' one after another."""
    total, count = parts(kind, model, batches, dtype)
    mean = total / (count if count > 0 else 1)
    grads = torch.autograd.grad(mean, list(model.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


def cut(grad: Tensor, max_value: float | None, max_norm: float | None) -> Tensor:
    if max_value is not None:
        grad = grad.clamp(-max_value, max_value)
    if max_norm is not None:
        grad = grad * min(1.0, max_norm / (float(grad.norm()) + 1e-6))
    return grad


def assert_near(found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).norm())
    assert error <= TOLERANCES[expected.dtype] * float(expected.norm())


def assert_all_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


@pytest.mark.parametrize("name", KINDS)
@given(problem=problems())
def test_the_gradient_of_an_update_is_that_of_one_batch(name: str, problem: Problem) -> None:
    kind, model = KINDS[name], problem.network()
    batches = problem.batches(has_ignored=kind.has_ignored)
    total, count = (float(part.detach()) for part in parts(kind, model, batches))
    assume(count > 0)  # The mean loss of no item is not finite.
    reader, losses = problem.run(kind, batches)
    assert_all_near(
        reader.grads, [gradient(kind, model, update) for update in problem.updates(batches)]
    )
    tolerance = TOLERANCES[problem.dtype]
    assert losses == pytest.approx([total / count] * max(problem.epochs, 1), rel=tolerance)


@pytest.mark.parametrize("name", ["mean", "tokens", "numbers"])
@given(problem=problems(), data=st.data())
def test_clipping_sees_the_gradient_of_one_batch(
    name: str, problem: Problem, data: st.DataObject
) -> None:
    kind, model = KINDS[name], problem.network()
    batches = problem.batches(has_ignored=kind.has_ignored)
    assume(float(parts(kind, model, batches)[1]) > 0)
    expected = [gradient(kind, model, update) for update in problem.updates(batches)]
    largest = max(expected, key=lambda grad: float(grad.norm()))
    # Limits that cut something, and limits that do not.
    limits = st.sampled_from([None, 0.3, 1.5])
    value, norm = data.draw(limits), data.draw(st.one_of(limits, st.just(math.inf)))
    max_value = None if value is None else value * float(largest.abs().max())
    max_norm = None if norm is None else norm * float(cut(largest, max_value, None).norm())
    reader, _ = problem.run(kind, batches, max_norm=max_norm, max_value=max_value)
    assert_all_near(reader.grads, [cut(grad, max_value, max_norm) for grad in expected])
    is_measured = max_norm is not None or max_value is not None
    if not is_measured:
        assert set(reader.norms) == {None}
    else:
        norms = [float(cut(grad, max_value, None).norm()) for grad in expected]
        assert reader.norms == pytest.approx(norms, rel=TOLERANCES[problem.dtype], abs=0)


@given(
    problem=problems(most_epochs=0), counts=st.dictionaries(st.integers(0, 3), st.integers(1, 5))
)
def test_a_schedule_of_epochs_changes_the_windows(problem: Problem, counts: dict[int, int]) -> None:
    assume(counts)
    kind, model = KINDS["mean"], problem.network()
    batches = problem.batches(has_ignored=False)
    optimizer = problem.make(model.parameters())
    reader = Reader(optimizer)
    trainer = Trainer(
        model,
        TrainingConfig(epochs=4, progress=False),
        [batch[:2] for batch in batches],
        loss=kind.loss,
        optimizer=optimizer,
        callbacks=[GradientAccumulationSchedule(counts), Reading(reader, None)],
    )
    trainer.train()
    expected = []
    window = 1
    for epoch in range(4):
        window = counts.get(epoch, window)
        for first in range(0, len(batches), window):
            expected.append(gradient(kind, model, batches[first : first + window]))
    assert_all_near(reader.grads, expected)


def without_autocast(kind: Kind) -> Kind:
    """Return a step function whose forward pass is in full precision."""

    def step(model: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            if kind.step_fn is not None:
                return kind.step_fn(model, batch)
            assert kind.loss is not None
            return kind.loss(model(batch[0]), batch[1])

    return kind._replace(loss=None, step_fn=step)


@pytest.mark.parametrize("name", ["mean", "tokens", "token weights"])
@given(
    problem=problems(),
    limits=st.tuples(*[st.sampled_from([None, 0.1, 99.0])] * 2),
    # Powers of two, which no digit of a gradient depends on.
    scale=st.integers(-4, 16).map(lambda exponent: 2.0**exponent),
)
def test_a_scaler_leaves_no_trace(
    name: str, problem: Problem, limits: tuple[float | None, float | None], scale: float
) -> None:
    kind, model = KINDS[name], problem.network()
    batches = problem.batches(has_ignored=kind.has_ignored)
    assume(float(parts(kind, model, batches)[1]) > 0)
    precision = Precision("fp16", init_scale=scale, growth_interval=3)
    max_value, max_norm = limits
    reader, _ = problem.run(
        without_autocast(kind), batches, max_norm=max_norm, max_value=max_value, precision=precision
    )
    expected = [gradient(kind, model, update) for update in problem.updates(batches)]
    assert_all_near(reader.grads, [cut(grad, max_value, max_norm) for grad in expected])
    assert precision.overflows == 0
    assert precision.scaler is not None
    # It is open whether an update without gradients is one without overflow.
    if all(problem.rows):
        assert precision.scaler.get_scale() == scale * 2 ** (len(expected) // 3)


@pytest.mark.parametrize("way", ["norm", "scaler"])
@given(problem=problems(), data=st.data())
def test_what_is_not_finite_leaves_out_its_own_window(
    way: str, problem: Problem, data: st.DataObject
) -> None:
    kind, model = KINDS["mean"], problem.network()
    batches = problem.batches(has_ignored=False)
    bad = data.draw(st.sampled_from([i for i, rows in enumerate(problem.rows) if rows]))
    # Behind a tanh infinity leaves the loss finite, and its gradient not.
    batches[bad][0][0, 0, 0] = data.draw(st.sampled_from([math.inf, math.nan]))
    if way == "norm":
        reader, losses = problem.run(kind, batches, nonfinite="skip")
    else:
        precision = Precision("fp16", init_scale=8.0)
        reader, losses = problem.run(without_autocast(kind), batches, precision=precision)
    applied = []
    left = []
    for update in problem.updates(batches):
        applied.append(all(batch is not batches[bad] for batch in update))
        if applied[-1]:
            left += update
            assert_near(reader.grads[len(applied) - 1], gradient(kind, model, update))
        else:
            assert reader.grads[len(applied) - 1].count_nonzero() == 0
    assert reader.are_applied == applied
    if problem.epochs == 0 and any(len(batch[1]) for batch in left):
        total, count = (float(part.detach()) for part in parts(kind, model, left))
        assert losses == [pytest.approx(total / count, rel=TOLERANCES[problem.dtype])]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["mean", "tokens", "token weights"])
@given(problem=problems(torch.float32))
def test_low_precision_loses_what_it_rounds(name: str, precision: str, problem: Problem) -> None:
    """One layer in autocast, accumulated and as one batch, within a bound of the roundings.

    Of token i, with inputs x, logits z, weight w and d = softmax(z) - onehot(t), the gradient is
    w d [x, 1] over the sum of all w. In a dtype with the unit roundoff u three things are
    rounded: z, where another order of sums may move it to the next number, 2u |z| away, and so d
    by half of that, the largest slope of softmax; then d over the divisor, which is another in
    each way; then the sum over the tokens of a batch. With g_i = w d [x, 1] over the sum of all
    w, the two ways differ by at most

        sum_i u |w z [x, 1]| / sum(w)  +  2 sum_i u |g_i|  +  2 sum_i u |g_i|

    The scale of float16 keeps what is below its normal numbers out of this.
    """
    kind, model = KINDS[name], problem.network(is_linear=True)
    batches = problem.batches(has_ignored=kind.has_ignored)
    assume(float(parts(kind, model, batches)[1]) > 0)
    low = Precision(precision, init_scale=256.0)
    assert low.dtype is not None
    trained, dtypes = problem.network(is_linear=True), set()
    trained.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    reader, _ = problem.run(kind, batches, model=trained, precision=low)
    assert dtypes == {low.dtype}
    u = torch.finfo(low.dtype).eps / 2
    for found, update in zip(reader.grads, problem.updates(batches), strict=True):
        expected = gradient(kind, model, update, low.dtype)
        x, target, weight = (torch.cat(each).flatten(0, 1) for each in zip(*update))
        with torch.no_grad():
            z = model(x)
        d = z.softmax(1) - functional.one_hot(target.clamp(min=0), CLASSES)
        share = kind.counts(target, weight)
        share = share / share.sum().clamp(min=1e-9)
        size = share * (x.square().sum(1) + 1).sqrt()
        bound = u * float((size * (z.norm(dim=1) + 4 * d.norm(dim=1))).sum())
        # What float32 adds, and products of roundings.
        assert float((found - expected).norm()) <= bound * (1 + 8 * u) + 1e-6
