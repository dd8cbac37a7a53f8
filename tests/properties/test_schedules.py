"""Properties that hold for every schedule, and torch's values over its hyperparameters."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from hotloop.schedulers import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Noisy,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Scheduler,
    Step,
    Table,
    Warmup,
    WarmupStableDecay,
    from_spec,
)

LR = 0.3
LENGTH = st.integers(0, 40)
PERIOD = st.integers(1, 12)
FACTOR = st.floats(0, 2)
UNIT = st.floats(0, 1)

SIMPLE: dict[str, st.SearchStrategy[Schedule]] = {
    "constant": st.builds(Constant, FACTOR),
    "step": st.builds(Step, PERIOD, UNIT),
    "multi_step": st.builds(MultiStep, st.lists(LENGTH, max_size=5).map(sorted), UNIT),
    "exponential": st.builds(Exponential, UNIT, UNIT),
    "linear": st.builds(Linear, LENGTH, FACTOR, FACTOR),
    "cosine": st.builds(Cosine, LENGTH, UNIT),
    "polynomial": st.builds(Polynomial, LENGTH, st.floats(0, 4), UNIT),
    "cosine_restarts": st.builds(CosineRestarts, PERIOD, st.integers(1, 3), UNIT, UNIT),
    "one_cycle": st.builds(
        OneCycle,
        LENGTH,
        st.floats(0, 0.5),
        start=FACTOR,
        end=FACTOR,
        shape=st.sampled_from(["cosine", "linear"]),
        three_phase=st.booleans(),
    ),
    "cyclic": st.builds(
        Cyclic,
        PERIOD,
        PERIOD,
        FACTOR,
        FACTOR,
        st.sampled_from(["triangular", "triangular2", "exp_range"]),
        UNIT,
    ),
    "inverse_sqrt": st.builds(InverseSqrt, PERIOD),
    "warmup": st.builds(
        Warmup,
        LENGTH,
        UNIT,
        st.sampled_from(["linear", "cosine", "polynomial", "exponential"]),
        st.floats(0.1, 4),
        st.booleans(),
    ),
    "warmup_stable_decay": st.builds(
        lambda stable, warmup, decay, shape, end: WarmupStableDecay(
            stable + warmup + decay, warmup, decay, shape, end
        ),
        LENGTH,
        LENGTH,
        LENGTH,
        st.sampled_from(["sqrt", "linear", "cosine"]),
        UNIT,
    ),
    "piecewise": st.builds(
        Piecewise,
        st.dictionaries(LENGTH, FACTOR, min_size=1).map(lambda points: sorted(points.items())),
        st.sampled_from(["linear", "constant"]),
    ),
    "table": st.builds(Table, st.lists(FACTOR, min_size=1)),
}
ANY = st.one_of(*SIMPLE.values())
WRAPPED: dict[str, st.SearchStrategy[Schedule]] = {
    "then": st.builds(lambda a, b, at: a.then(b, at=at), ANY, ANY, LENGTH),
    "product": st.builds(lambda a, b: a * b, ANY, ANY),
    "scale": st.builds(lambda a, factor: a.scale(factor), ANY, FACTOR),
    "clamp": st.builds(lambda a, low: a.clamp(low, low + 0.5), ANY, UNIT),
    "repeat": st.builds(lambda a, n, p: a.repeat(n, p), ANY, st.integers(1, 4), PERIOD),
    "noisy": st.builds(Noisy, ANY, UNIT, UNIT, PERIOD, st.integers(0, 2**64 - 1)),
}
EVERY = SIMPLE | WRAPPED


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def rates(opt: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in opt.param_groups]


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
def test_values_are_finite_and_never_negative(name: str, data: st.DataObject) -> None:
    schedule = data.draw(EVERY[name])
    for step in range(100):
        assert 0 <= schedule.value(step) < math.inf


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
def test_spec_goes_through_json(name: str, data: st.DataObject) -> None:
    schedule = data.draw(EVERY[name])
    again = from_spec(json.loads(json.dumps(schedule.spec())))
    assert again == schedule
    assert [again(step) for step in range(30)] == [schedule(step) for step in range(30)]


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data(), at=st.integers(0, 60))
def test_a_resumed_scheduler_goes_on_as_if_nothing_had_happened(
    name: str, data: st.DataObject, at: int
) -> None:
    schedule = data.draw(EVERY[name])
    whole = optimizer(0.1, 0.5)
    scheduler = Scheduler(whole, schedule)
    for _ in range(at):
        scheduler.step()
    state = json.loads(json.dumps(scheduler.state_dict()))
    resumed = optimizer(0.1, 0.5)
    other = Scheduler(resumed, from_spec(schedule.spec()))
    other.load_state_dict(state)
    for _ in range(10):
        assert rates(resumed) == rates(whole)
        scheduler.step()
        other.step()


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
def test_groups_keep_their_ratio(name: str, data: st.DataObject) -> None:
    schedule = data.draw(EVERY[name])
    opt = optimizer(0.25, 0.5, 1.0)
    scheduler = Scheduler(opt, schedule)
    for step in range(30):
        first, second, third = rates(opt)
        assert third == schedule(step)
        assert (first, second) == (third / 4, third / 2)
        scheduler.step()


@pytest.mark.parametrize("name", SIMPLE)
@given(data=st.data())
def test_past_its_length_a_schedule_stays(name: str, data: st.DataObject) -> None:
    schedule = data.draw(SIMPLE[name])
    if schedule.length is not None:
        last = schedule(schedule.length)
        assert all(schedule(schedule.length + more) == last for more in (1, 2, 50, 10**6))


@given(a=ANY, b=ANY, c=ANY, first=LENGTH, second=LENGTH)
def test_then_is_associative(
    a: Schedule, b: Schedule, c: Schedule, first: int, second: int
) -> None:
    left = a.then(b, at=first).then(c, at=first + second)
    right = a.then(b.then(c, at=second), at=first)
    assert [left(step) for step in range(100)] == [right(step) for step in range(100)]


@given(a=ANY, b=ANY, c=ANY)
def test_product_is_associative(a: Schedule, b: Schedule, c: Schedule) -> None:
    assert (a * b) * c == a * (b * c)


@pytest.mark.parametrize("shape", ["linear", "cosine", "polynomial", "exponential"])
@given(steps=LENGTH, start=UNIT, include_zero=st.booleans())
def test_warmup_rises_to_one(shape: str, steps: int, start: float, include_zero: bool) -> None:
    schedule = Warmup(steps, start, shape, include_zero=include_zero)
    values = [schedule(step) for step in range(steps + 3)]
    assert all(low <= high for low, high in itertools.pairwise(values))
    assert values[-3:] == [1.0] * 3
    assert include_zero or values[0] > 0
    if include_zero and steps and shape != "exponential":
        assert values[0] == start


@given(total=st.integers(0, 1000), warmup=UNIT)
def test_fractions_are_of_the_run(total: int, warmup: float) -> None:
    schedule = Warmup(warmup).then(Cosine(end=0.1)).resolve(total)
    steps = round(warmup * total)
    assert schedule == Warmup(steps).then(Cosine(total - steps, 0.1))
    assert schedule(total) == 0.1


def against_torch(schedule: Schedule, make: Any, steps: int) -> None:
    opt = optimizer(LR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(opt)
        for step in range(steps):
            assert LR * schedule(step) == pytest.approx(rates(opt)[0], rel=1e-12, abs=1e-15)
            if step + 1 < steps:
                opt.step()
                scheduler.step()


@given(every=PERIOD, gamma=UNIT)
def test_step_is_torch(every: int, gamma: float) -> None:
    against_torch(Step(every, gamma), lambda o: lr_scheduler.StepLR(o, every, gamma), 50)


@given(milestones=st.lists(st.integers(1, 30), max_size=5).map(sorted), gamma=UNIT)
def test_multi_step_is_torch(milestones: list[int], gamma: float) -> None:
    ours = MultiStep(milestones, gamma)
    against_torch(ours, lambda o: lr_scheduler.MultiStepLR(o, milestones, gamma), 60)


@given(gamma=UNIT)
def test_exponential_is_torch(gamma: float) -> None:
    against_torch(Exponential(gamma), lambda o: lr_scheduler.ExponentialLR(o, gamma), 60)


@given(steps=PERIOD, start=st.floats(0.01, 1), end=UNIT)
def test_linear_is_torch(steps: int, start: float, end: float) -> None:
    ours = Linear(steps, start, end)
    # torch multiplies the last value by a ratio: it stays at 0, and loses digits near it.
    if end == 0 or end > 1e-3:
        against_torch(ours, lambda o: lr_scheduler.LinearLR(o, start, end, steps), 2 * steps)


@given(steps=PERIOD, end=UNIT)
def test_cosine_is_torch_until_its_end(steps: int, end: float) -> None:
    ours = Cosine(steps, end)
    against_torch(ours, lambda o: lr_scheduler.CosineAnnealingLR(o, steps, LR * end), steps + 1)
    assert all(ours(step) == end for step in range(steps, 2 * steps))


@given(steps=PERIOD, power=st.floats(0.5, 3))
def test_polynomial_is_torch(steps: int, power: float) -> None:
    ours = Polynomial(steps, power)
    against_torch(ours, lambda o: lr_scheduler.PolynomialLR(o, steps, power), 2 * steps)


@given(period=PERIOD, multiplier=st.integers(1, 3), end=UNIT)
def test_cosine_restarts_is_torch(period: int, multiplier: int, end: float) -> None:
    ours = CosineRestarts(period, multiplier, end)

    def theirs(opt: Any) -> Any:
        return lr_scheduler.CosineAnnealingWarmRestarts(opt, period, multiplier, LR * end)

    against_torch(ours, theirs, 60)


@given(
    steps=st.integers(4, 60),
    pct_start=st.floats(0.3, 0.45),
    shape=st.sampled_from(["cosine", "linear"]),
    three_phase=st.booleans(),
)
def test_one_cycle_is_torch(steps: int, pct_start: float, shape: str, three_phase: bool) -> None:
    options = {"pct_start": pct_start, "three_phase": three_phase}
    anneal = {"cosine": "cos", "linear": "linear"}[shape]

    def theirs(opt: Any) -> Any:
        return lr_scheduler.OneCycleLR(opt, LR, steps, anneal_strategy=anneal, **options)

    against_torch(OneCycle(steps, shape=shape, **options), theirs, steps)


@given(
    up=PERIOD,
    down=PERIOD,
    start=UNIT,
    shape=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=UNIT,
)
def test_cyclic_is_torch(up: int, down: int, start: float, shape: str, gamma: float) -> None:
    def theirs(opt: Any) -> Any:
        options = {"mode": shape, "gamma": gamma, "cycle_momentum": False}
        return lr_scheduler.CyclicLR(opt, LR * start, LR, up, down, **options)

    # torch's place in the cycle is a float, off by some 1e-16 of a cycle.
    ours = Cyclic(up, down, start, 1.0, shape, gamma)
    opt = optimizer(LR)
    scheduler = theirs(opt)
    for step in range(60):
        assert LR * ours(step) == pytest.approx(rates(opt)[0], rel=1e-12, abs=1e-12)
        opt.step()
        scheduler.step()
