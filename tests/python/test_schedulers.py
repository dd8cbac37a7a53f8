"""Schedules one by one, schedulers, and what makes them."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, DistributedSampler

from hotloop.cli import main
from hotloop.optimizers import SGD, AdamW
from hotloop.schedulers import (
    Clamp,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    Lambda,
    Linear,
    MultiStep,
    Noisy,
    OneCycle,
    Piecewise,
    Polynomial,
    ReduceOnPlateau,
    Repeat,
    Schedule,
    Scheduler,
    Step,
    Table,
    Warmup,
    WarmupStableDecay,
    as_lr_scheduler,
    chart,
    create_schedule,
    create_scheduler,
    from_spec,
    plan_steps,
    plot,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "schedules.json").read_text())


def params(count: int = 1) -> list[torch.Tensor]:
    return [torch.zeros(2, requires_grad=True) for _ in range(count)]


def values(schedule: Schedule, steps: int, lr: float = 1.0) -> list[float]:
    return [lr * schedule(step) for step in range(steps)]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name: str) -> None:
    case = GOLDEN[name]
    got = values(from_spec(case["spec"]), len(case["values"]))
    assert got == pytest.approx(case["values"], rel=1e-15, abs=1e-15)


def test_values_written_in_papers_and_documents() -> None:
    # Each written down by hand, with six digits.
    def check(schedule: Schedule, *expected: float, lr: float = 0.1) -> None:
        assert values(schedule, len(expected), lr) == pytest.approx(expected, abs=6e-7)

    check(Polynomial(5, 2.0), 0.1, 0.064, 0.036, 0.016, 0.004, 0, 0)
    check(
        Warmup(4, 0.01, include_zero=True).then(Cosine(6, 0.1)),
        *(0.001, 0.02575, 0.0505, 0.07525, 0.1, 0.093971, 0.0775, 0.055, 0.0325, 0.016029, 0.01),
    )
    check(
        CosineRestarts(4, 2),
        *(0.1, 0.085355, 0.05, 0.014645, 0.1, 0.096194, 0.085355, 0.069134, 0.05),
        *(0.030866, 0.014645, 0.003806, 0.1),
    )
    check(
        OneCycle(10),
        *(0.004, 0.052, 0.1, 0.0950485, 0.0811746, 0.0611262, 0.0388742, 0.0188258),
        *(0.0049519, 4e-7),
    )
    momentum = OneCycle(10, start=1, peak=0.85 / 0.95, end=1)
    expected = (0.95, 0.9, 0.85, 0.85495, 0.86883, 0.88887, 0.91113, 0.93117, 0.94505, 0.95)
    assert values(momentum, 10, 0.95) == pytest.approx(expected, abs=6e-6)
    assert 0.1 * Step(30)(60) == pytest.approx(0.001, rel=1e-15)


BAD: list[tuple[Any, str]] = [
    (lambda: Constant(-1.0), "factor must be a finite number of at least 0, got -1.0"),
    (lambda: Step(0), "every must be an int of at least 1 .*, got 0"),
    (lambda: Step(3, math.nan), "gamma must be a finite number of at least 0, got nan"),
    (lambda: MultiStep((5, 2)), r"milestones must not decrease, got \(5, 2\)"),
    (lambda: MultiStep((-1,)), "milestones must be an int of at least 0 .*, got -1"),
    (lambda: MultiStep(5), "milestones must be a sequence of lengths, got 5"),  # type: ignore[arg-type]
    (lambda: Exponential(-0.1), "gamma must be .*, got -0.1"),
    (lambda: Linear(5, start=-1), "start must be .*, got -1"),
    (lambda: Cosine(-5), "steps must be an int of at least 0 .*, got -5"),
    (lambda: Cosine(1.5), r"steps must be .* a float in \[0, 1\] .*, got 1.5"),
    (lambda: Cosine(True), "steps must be .*, got True"),
    (lambda: Cosine(5, end=math.inf), "end must be a finite number .*, got inf"),
    (lambda: Polynomial(5, power=-1), "power must be .*, got -1"),
    (lambda: CosineRestarts(0), "period must be .*, got 0"),
    (lambda: CosineRestarts(4, 1.5), "multiplier must be an int of at least 1, got 1.5"),  # type: ignore[arg-type]
    (lambda: OneCycle(10, pct_start=2), r"pct_start must be .* in \[0, 1\], got 2"),
    (lambda: OneCycle(10, 0.6, three_phase=True), r"pct_start must be .* in \[0, 0.5\], got 0.6"),
    (lambda: OneCycle(10, shape="cos"), "shape must be one of 'cosine', 'linear', got 'cos'"),
    (lambda: Cyclic(0), "up must be .*, got 0"),
    (lambda: Cyclic(3, shape="saw"), "shape must be one of .*, got 'saw'"),
    (lambda: InverseSqrt(0), "warmup must be .*, got 0"),
    (lambda: WarmupStableDecay(10, 6, 6), r"warmup \(6\) and decay \(6\) must fit .* \(10\)"),
    (lambda: Warmup(5, start=2), r"start must be .* in \[0, 1\], got 2"),
    (lambda: Warmup(5, power=0), "power must be above 0, got 0"),
    (lambda: Warmup.for_adam(1.0), "beta2 must be below 1, got 1"),
    (lambda: Piecewise(()), r"points must be pairs of step and factor, got \(\)"),
    (lambda: Piecewise({5: 1.0, 2: 1.0}), "points must have increasing int steps"),  # type: ignore[arg-type]
    (lambda: Table(()), "values must hold at least one factor"),
    (lambda: Table((1.0, -1.0)), r"values\[1\] must be .*, got -1.0"),
    (lambda: Noisy(Constant(), std=-1), "std must be .*, got -1"),
    (lambda: Noisy(Constant(), cycle=0), "cycle must be an int of at least 1, got 0"),
    (lambda: Noisy(Constant(), seed=-1), r"seed must be an int in \[0, 2\^64\), got -1"),
    (lambda: Lambda(5), "function must be a function of the step, got 5"),  # type: ignore[arg-type]
    (lambda: Constant().then(Cosine(5)), r"at must be given: Constant\(factor=1.0\) never ends"),
    (lambda: Constant().repeat(), "period must be given"),
    (lambda: Cosine(0).repeat(), "period must be an int of at least 1 .*, got 0"),
    (lambda: Repeat(Cosine(5), times=0), "times must be an int of at least 1 or None, got 0"),
    (lambda: Clamp(Cosine(5), 0.5, 0.1), "high must be .* of at least 0.5, got 0.1"),
    (lambda: Cosine().value(3), r"call resolve\(total\) first"),
    (lambda: Cosine().resolve(-1), "total must be an int of at least 0, got -1"),
    (lambda: from_spec({"name": "cosin"}), "unknown schedule 'cosin' .*'cosine'.*; it is one of"),
    (lambda: from_spec({"name": "cosine", "step": 5}), "unknown field .* 'step' .*'steps'"),
    (lambda: from_spec({"steps": 5}), "needs the name of a schedule"),
    (lambda: from_spec({"name": "lambda", "function": "os.system"}), "function must be a function"),
    (lambda: ReduceOnPlateau(mode="least"), "mode must be one of 'min', 'max', got 'least'"),
    (lambda: ReduceOnPlateau(factor=1), "factor must be above 0 and below 1, got 1"),
    (lambda: ReduceOnPlateau(patience=-1), "patience must be .*, got -1"),
    (lambda: Scheduler(SGD(params()), Cosine()), r"call resolve\(total\) first"),
    (lambda: Scheduler(SGD(params()), Constant(), unit="batch"), "unit must be one of 'step'"),
    (lambda: Scheduler(SGD(params()), Constant(), field="eps"), "field must be one of 'lr'"),
    (lambda: Scheduler(SGD(params()), Constant()).observe(1.0), "no plateau to observe for"),
    (lambda: create_scheduler(SGD(params()), "cosine", 0, 5), "max_epochs must be .*, got 0"),
    (lambda: create_scheduler(SGD(params()), {"end": 0.1}), "needs the name of a schedule"),
    (lambda: plan_steps(epochs=3), "size is unknown: give samples, batches or max_steps"),
    (lambda: plan_steps(samples=5, epochs=3), r"samples \(5\) need batch_size, got None"),
    (lambda: plan_steps(samples=5, batches=1), "give samples or batches, not both"),
    (lambda: plan_steps(batches=0, epochs=1), "batches must be an int of at least 1, got 0"),
    (lambda: plan_steps(batches=5), "length is unknown: give epochs or max_steps"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_wrong_arguments_are_refused_with_their_value(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("length", [0, 1])
def test_schedules_of_no_and_of_one_step(length: int) -> None:
    for schedule in (Linear(length), Cosine(length), Polynomial(length, 0.0), OneCycle(length)):
        assert schedule(length) == pytest.approx(getattr(schedule, "end", 0.0))
        assert math.isfinite(schedule(0))
    assert values(Warmup(length), 3) == [1.0, 1.0, 1.0]
    assert values(WarmupStableDecay(length, 0, length), 3) == [1.0, 0.0, 0.0][1 - length :][:3] + (
        [] if length else [0.0]
    )
    assert Warmup(length).then(Cosine(4))(length) == 1.0


def test_a_schedule_is_a_value() -> None:
    schedule = Warmup(5).then(Cosine(10, 0.1)).clamp(0.05) * 0.5
    assert schedule == Warmup(5).then(Cosine(10, 0.1)).clamp(0.05).scale(0.5)
    assert hash(schedule) == hash(from_spec(schedule.spec()))
    assert schedule.length == 15
    assert schedule.warmup_steps == 5
    with pytest.raises(AttributeError):
        schedule.factors = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        schedule * "2"  # type: ignore[operator]


def test_noise_depends_on_seed_and_step_alone() -> None:
    base = Cosine(20_000)
    noisy = Noisy(base, std=0.2, window=0.5, cycle=100, seed=3)
    steps = range(20_000 - 2000)
    inside = [noisy(s) / base(s) - 1 for s in steps if s % 100 < 50]
    assert all(noisy(s) == base(s) for s in steps if s % 100 >= 50)
    # The mean of n numbers of standard deviation 0.2 is within 4 of its own.
    assert statistics.fmean(inside) == pytest.approx(0, abs=4 * 0.2 / math.sqrt(len(inside)))
    assert statistics.stdev(inside) == pytest.approx(0.2, rel=0.05)
    assert noisy(7) == Noisy(base, 0.2, 0.5, 100, seed=3)(7)
    assert noisy(7) != Noisy(base, 0.2, 0.5, 100, seed=4)(7)


def test_plateau_counts_as_torch() -> None:
    for mode, threshold_mode, sign in (("min", "rel", 1), ("max", "abs", -1), ("min", "abs", 1)):
        options: dict[str, Any] = {"mode": mode, "patience": 2, "factor": 0.5, "cooldown": 1}
        options["threshold_mode"] = threshold_mode
        optimizer = torch.optim.SGD(params(), lr=1.0)
        theirs = lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        ours = ReduceOnPlateau(**options)
        generator = torch.Generator().manual_seed(0)
        for _ in range(200):
            loss = sign * float(torch.rand((), generator=generator))
            theirs.step(loss)
            ours.observe(loss)
            # torch leaves out reductions below 1e-8.
            if optimizer.param_groups[0]["lr"] > 1e-7:
                assert ours.multiplier == optimizer.param_groups[0]["lr"]
    plateau = ReduceOnPlateau(factor=0.5, patience=2, cooldown=1)
    got = []
    for loss in [1.0] + [0.9] * 9:
        plateau.observe(loss)
        got.append(plateau.multiplier)
    assert got == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_plateau_has_limits_and_bears_nan() -> None:
    plateau = ReduceOnPlateau(factor=0.5, patience=0, min_factor=0.3)
    plateau.observe(1.0)
    assert [plateau.observe(math.nan) for _ in range(3)] == [True, True, False]
    assert plateau.multiplier == 0.3
    plateau = ReduceOnPlateau(factor=0.5, patience=0, max_reductions=1)
    assert [plateau.observe(loss) for loss in (1.0, 2.0, 2.0)] == [False, True, False]


def test_plateau_multiplies_a_schedule_but_not_its_warmup() -> None:
    optimizer = AdamW(params(), lr=1.0)
    plateau = ReduceOnPlateau(factor=0.5, patience=0)
    schedule = Warmup(4).then(Constant())
    scheduler = Scheduler(optimizer, schedule, plateau=plateau)
    for loss in (1.0, 2.0, 3.0):
        scheduler.observe(loss)
        scheduler.step()
    assert scheduler.last_values == [1.0]
    scheduler.step()
    scheduler.observe(1.0)
    scheduler.observe(2.0)
    assert optimizer.param_groups[0]["lr"] == 0.5
    state = json.loads(json.dumps(scheduler.state_dict()))
    other = AdamW(params(), lr=1.0)
    resumed = Scheduler(other, schedule, plateau=ReduceOnPlateau(factor=0.5, patience=0))
    resumed.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.5
    for one in (scheduler, resumed):
        one.observe(3.0)
        assert one.last_values == [0.25]


@pytest.mark.parametrize("make", [AdamW, SGD, torch.optim.AdamW])
def test_a_tensor_lr_is_written_in_place(make: Any) -> None:
    rate = torch.tensor(0.5)
    options = {"foreach": False} if make.__module__.startswith("torch") else {}
    optimizer = make(params(), lr=rate, **options)
    scheduler = Scheduler(optimizer, Step(1, 0.5))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == 0.25
    scheduler.step()
    assert rate == 0.125


def test_momentum_and_weight_decay() -> None:
    adam = AdamW(params(), betas=(0.8, 0.99), weight_decay=0.1)
    sgd = SGD(params(), lr=0.1, momentum=0.8)
    for optimizer in (adam, sgd):
        scheduler = Scheduler(optimizer, Step(1, 0.5), field="momentum")
        scheduler.step()
    assert adam.param_groups[0]["betas"] == (0.4, 0.99)
    assert sgd.param_groups[0]["momentum"] == 0.4
    Scheduler(adam, Step(1, 0.5), field="weight_decay").step()
    assert adam.param_groups[0]["weight_decay"] == 0.05
    with pytest.raises(ValueError, match="its groups have"):
        Scheduler(torch.optim.Rprop(params()), Constant(), field="momentum")


def test_it_is_the_only_writer() -> None:
    optimizer = SGD(params(), lr=0.1)
    scheduler = Scheduler(optimizer, Cosine(10))
    scheduler.step()
    optimizer.param_groups[0]["lr"] = 0.07
    with pytest.raises(RuntimeError, match=r"lr of param group 0 is 0\.07, but its scheduler"):
        scheduler.step()
    assert scheduler.steps == 1
    optimizer.param_groups[0]["initial_lr"] = 0.2
    optimizer.param_groups[0]["lr"] = scheduler.last_values[0]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.2 * Cosine(10)(2)


def test_a_group_that_comes_later_joins() -> None:
    optimizer = SGD(params(), lr=0.1)
    scheduler = Scheduler(optimizer, Step(2, 0.5))
    scheduler.step()
    optimizer.add_param_group({"params": params(), "lr": 0.4})
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.2]


def test_state_of_another_scheduler_is_refused() -> None:
    scheduler = Scheduler(SGD(params()), Cosine(10))
    scheduler.step()
    state = scheduler.state_dict()
    for other, message in (
        (Scheduler(SGD(params()), Cosine(11)), "its spec is"),
        (Scheduler(SGD(params()), Cosine(10), unit="epoch"), "its unit is"),
        (Scheduler(SGD(params()), Cosine(10), plateau=ReduceOnPlateau()), "its plateau is"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
        assert other.steps == 0
        other.load_state_dict(state, strict=False)
        assert other.steps == 1
    with pytest.raises(ValueError, match="version 1, got 9"):
        scheduler.load_state_dict(state | {"version": 9})


def test_state_is_loaded_without_unpickling(tmp_path: Path) -> None:
    scheduler = Scheduler(SGD(params()), Warmup(3).then(MultiStep((4, 5))))
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    scheduler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_create_scheduler_by_name_and_by_spec() -> None:
    one = create_scheduler(SGD(params()), "Cosine", 10, 50, warmup_steps=0.03, end=0.1)
    spec = {"name": "cosine", "total": 500, "warmup": 0.03, "end": 0.1}
    two = create_scheduler(SGD(params()), spec)
    assert one.schedule == two.schedule == Warmup(15).then(Cosine(485, 0.1))
    assert one.unit == "step"
    assert create_schedule("onecycle", 40) == OneCycle(40)
    assert create_schedule("inverse_sqrt", warmup=7) == InverseSqrt(7)
    assert create_schedule("warmup_stable_decay", 100, 0.05) == WarmupStableDecay(100, 5, 10)
    assert create_schedule("step", every=5) == Step(5)
    with pytest.raises(TypeError, match=r"unknown argument .*'ends' .*'end'"):
        create_scheduler(SGD(params()), "cosine", 1, 5, ends=3)


@pytest.mark.parametrize("samples", [1, 7, 24, 25])
@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_plan_counts_what_a_loader_yields(
    samples: int, batch_size: int, accumulate: int, world_size: int, drop_last: bool
) -> None:
    data = list(range(samples))
    sampler = DistributedSampler(data, world_size, rank=0, shuffle=False, drop_last=drop_last)
    if len(sampler) == 0:
        return
    batches = len(list(DataLoader(data, batch_size, sampler=sampler, drop_last=drop_last)))
    plan = plan_steps(
        samples=samples,
        batch_size=batch_size,
        accumulate=accumulate,
        epochs=3,
        world_size=world_size,
        drop_last=drop_last,
    )
    assert plan == (batches, math.ceil(batches / accumulate), 3 * math.ceil(batches / accumulate))


def test_plan_of_unknown_data() -> None:
    assert plan_steps(max_steps=70).updates == 70
    assert plan_steps(batches=10, epochs=4, accumulate=4) == (10, 3, 12)
    assert plan_steps(batches=10, epochs=4, max_steps=25).updates == 25


def test_facade_is_one_of_torchs_schedulers() -> None:
    optimizer = torch.optim.SGD([{"params": params(), "lr": 0.5}, {"params": params()}], lr=0.1)
    scheduler = as_lr_scheduler(optimizer, Warmup(3).then(Cosine(7)))
    assert isinstance(scheduler, lr_scheduler.LRScheduler)
    assert scheduler.base_lrs == [0.5, 0.1]
    schedule = scheduler.schedule
    for step in range(12):
        assert scheduler.last_epoch == step
        assert scheduler.get_last_lr() == [0.5 * schedule(step), 0.1 * schedule(step)]
        optimizer.step()
        scheduler.step()
    state = json.loads(json.dumps(scheduler.state_dict()))
    again = as_lr_scheduler(torch.optim.SGD(params(), lr=0.5), schedule)
    again.load_state_dict(state)
    assert again.last_epoch == 12
    assert again.schedule is schedule
    with pytest.raises(ValueError, match="the state is of another schedule"):
        as_lr_scheduler(torch.optim.SGD(params(), lr=0.5), Cosine(3)).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_facade_in_torchs_compositions() -> None:
    def run(make: Any) -> list[float]:
        optimizer = torch.optim.SGD(params(), lr=0.1)
        scheduler = make(optimizer)
        rates = []
        for _ in range(15):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    def ours(optimizer: Any) -> Any:
        warmup = as_lr_scheduler(optimizer, Warmup(4, 0.5, include_zero=True))
        cosine = as_lr_scheduler(optimizer, Cosine(8))
        return lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [4])

    def theirs(optimizer: Any) -> Any:
        warmup = lr_scheduler.LambdaLR(optimizer, Warmup(4, 0.5, include_zero=True))
        cosine = lr_scheduler.LambdaLR(optimizer, Cosine(8))
        return lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [4])

    assert run(ours) == pytest.approx(run(theirs), rel=1e-15)

    def chained(optimizer: Any) -> Any:
        first = as_lr_scheduler(optimizer, Cosine(8))
        return lr_scheduler.ChainedScheduler([first, lr_scheduler.ExponentialLR(optimizer, 0.9)])

    def chained_torch(optimizer: Any) -> Any:
        first = lr_scheduler.LambdaLR(optimizer, Cosine(8))
        return lr_scheduler.ChainedScheduler([first, lr_scheduler.ExponentialLR(optimizer, 0.9)])

    assert run(chained) == run(chained_torch)


def test_plot_and_chart(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    schedule = Warmup(0.1).then(Cosine())
    axes = plot(schedule, 50, initial=0.5)
    drawn = axes.lines[0].get_ydata()
    assert list(drawn) == values(schedule.resolve(50), 50, 0.5)
    matplotlib.pyplot.close(axes.figure)
    lines = chart(schedule, 50, width=40, height=5).splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("       1 ┤")
    # The curve rises, then falls.
    rows = [line[10:50] for line in lines[:5]]
    heights = [sum(row[column] != " " for row in rows) for column in range(40)]
    assert heights[4] == max(heights) == 5
    assert heights[-1] <= 1
    assert "0" in chart(Constant(0.0), 1)


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["schedule", "linear", "--steps", "11", "--lr", "0.5", "--rows", "3"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[:4]] == [
        ["step", "factor", "lr"],
        ["0", "1", "0.5"],
        ["5", "0.545455", "0.272727"],
        ["10", "0.0909091", "0.0454545"],
    ]
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps({"name": "cosine", "total": 20, "warmup": 0.5}))
    assert main(["schedule", str(path)]) == 0
    assert " 19 " in capsys.readouterr().out
    pytest.importorskip("matplotlib").use("agg")
    assert main(["schedule", "cosine", "--plot", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"
    for arguments, message in (
        (["cosin"], "unknown schedule 'cosin'"),
        (['{"name"'], "the spec is not JSON"),
        (["cosine", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["cosine", "--rows", "1"], "--rows must be at least 2, got 1"),
        (["noisy"], "schedule"),
    ):
        assert main(["schedule", *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("hotloop: ")
        assert message in captured.err
        assert captured.err.count("\n") == 1
