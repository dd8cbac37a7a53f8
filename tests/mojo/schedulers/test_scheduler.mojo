"""Schedulers, their state, and what the arguments may be."""

from std.testing import (
    TestSuite,
    assert_almost_equal,
    assert_equal,
    assert_false,
    assert_raises,
    assert_true,
)
from std.utils.numerics import nan

from shared.training.core import LearningRate
from shared.training.optimizers import (
    ADOPT,
    ASGD,
    LAMB,
    LARS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    Lion,
    NAdam,
    Optimizer,
    Prodigy,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SophiaG,
)
from shared.training.schedulers import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    Linear,
    LRScheduler,
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
)


struct Counted(LearningRate):
    """Has a learning rate, and counts how often it is set."""

    var lr: Float64
    var count: Int

    def __init__(out self):
        self.lr = 0
        self.count = 0

    def learning_rate(self) -> Float64:
        return self.lr

    def set_learning_rate(mut self, value: Float64):
        self.lr = value
        self.count += 1


def test_the_formulas_of_the_document() raises:
    # StepLR: base gamma^(step / k).
    assert_almost_equal(
        Scheduler(Step(30), base_lr=0.1).get_lr(60), 0.001, atol=1e-17
    )
    # Cosine: min + (base - min) (1 + cos(pi step / T)) / 2.
    var cosine = Scheduler(Cosine(100, end=0.1), base_lr=0.1)
    assert_almost_equal(cosine.get_lr(50), 0.055, atol=1e-16)
    assert_almost_equal(cosine.get_lr(500), 0.01, atol=1e-17)
    # Linear warm-up: base step / W, then base.
    var warmup = Scheduler(Warmup(10, include_zero=True), base_lr=0.1)
    assert_equal(warmup.get_lr(0), 0)
    assert_almost_equal(warmup.get_lr(5), 0.05, atol=1e-17)
    assert_equal(warmup.get_lr(10), 0.1)


def drive[
    Kind: LRScheduler
](mut scheduler: Kind, mut optimizer: Counted, updates: Int) raises:
    # As a loop that knows the trait alone.
    scheduler.start(optimizer)
    for i in range(updates):
        scheduler.after_update(optimizer)
        if i % 5 == 4:
            scheduler.after_epoch(optimizer)


def test_steps_are_updates_or_epochs() raises:
    var optimizer = Counted()
    var by_step = Scheduler(Linear(20), base_lr=1)
    drive(by_step, optimizer, 10)
    assert_equal(optimizer.lr, 0.5)
    assert_equal(optimizer.count, 11)
    optimizer = Counted()
    var by_epoch = Scheduler[_, "epoch"](Linear(20), base_lr=1)
    drive(by_epoch, optimizer, 10)
    assert_equal(optimizer.lr, 0.9)
    assert_equal(optimizer.count, 3)


def test_state_goes_on_at_any_step() raises:
    for at in range(0, 30, 3):
        var optimizer = Counted()
        var first = Scheduler(
            Warmup["cosine"](7).then(CosineRestarts(4, multiplier=2), at=7),
            base_lr=0.3,
        )
        drive(first, optimizer, at)
        first.multiplier = 0.1
        var second = Scheduler(
            Warmup["cosine"](7).then(CosineRestarts(4, multiplier=2), at=7),
            base_lr=0.3,
        )
        second.load_state_dict(first.state_dict())
        for _ in range(10):
            var other = Counted()
            first.after_update(optimizer)
            second.after_update(other)
            assert_equal(optimizer.lr, other.lr)


def test_state_of_another_is_refused() raises:
    var scheduler = Scheduler(Cosine(10), base_lr=0.1)
    scheduler.steps = 3
    var state = scheduler.state_dict()
    var other = Scheduler(Cosine(11), base_lr=0.1)
    with assert_raises(contains="its schedule is"):
        other.load_state_dict(state)
    assert_equal(other.steps, 0)
    var slower = Scheduler(Cosine(10), base_lr=0.2)
    with assert_raises(contains="its base_lr is 0.1, this one's is 0.2"):
        slower.load_state_dict(state)
    var shape = Scheduler(Warmup(10), base_lr=0.1)
    with assert_raises(contains="its schedule is"):
        shape.load_state_dict(
            Scheduler(Warmup["cosine"](10), base_lr=0.1).state_dict()
        )
    with assert_raises(contains="the state has no line version="):
        scheduler.load_state_dict("steps=3\n")
    with assert_raises():
        scheduler.load_state_dict(state.replace("steps=3", "steps=three"))
    assert_equal(scheduler.steps, 3)


def rate_of[Target: LearningRate](mut optimizer: Target) raises:
    var before = optimizer.learning_rate()
    var scheduler = Scheduler(Step(1, gamma=0.5), base_lr=before)
    scheduler.start(optimizer)
    assert_equal(optimizer.learning_rate(), before)
    scheduler.after_update(optimizer)
    assert_equal(optimizer.learning_rate(), before / 2)


def test_every_rule_has_a_learning_rate() raises:
    var adamw = Optimizer(AdamW(lr=0.25))
    rate_of(adamw)
    assert_equal(adamw.rule.lr, 0.125)
    var sgd = Optimizer(SGD(lr=0.5))
    rate_of(sgd)
    assert_equal(sgd.rule.lr, 0.25)

    var adadelta = Adadelta(lr=0.5)
    rate_of(adadelta)
    assert_equal(adadelta.lr, 0.25)
    var adagrad = Adagrad(lr=0.5)
    rate_of(adagrad)
    var adam = Adam(lr=0.5)
    rate_of(adam)
    var adamax = Adamax(lr=0.5)
    rate_of(adamax)
    var adan = Adan(lr=0.5)
    rate_of(adan)
    assert_equal(adan.lr, 0.25)
    var adopt = ADOPT(lr=0.5)
    rate_of(adopt)
    var asgd = ASGD(lr=0.5)
    rate_of(asgd)
    var lamb = LAMB(lr=0.5)
    rate_of(lamb)
    assert_equal(lamb.lr, 0.25)
    var lars = LARS(lr=0.5)
    rate_of(lars)
    var lion = Lion(lr=0.5)
    rate_of(lion)
    var nadam = NAdam(lr=0.5)
    rate_of(nadam)
    var prodigy = Prodigy(lr=0.5)
    rate_of(prodigy)
    assert_equal(prodigy.lr, 0.25)
    var radam = RAdam(lr=0.5)
    rate_of(radam)
    var rmsprop = RMSprop(lr=0.5)
    rate_of(rmsprop)
    var rprop = Rprop(lr=0.5)
    rate_of(rprop)
    var free_adamw = ScheduleFreeAdamW(lr=0.5)
    rate_of(free_adamw)
    var free_sgd = ScheduleFreeSGD(lr=0.5)
    rate_of(free_sgd)
    var sophia = SophiaG(lr=0.5)
    rate_of(sophia)
    assert_equal(sophia.lr, 0.25)


def test_plateau() raises:
    var plateau = ReduceOnPlateau(factor=0.5, patience=2, cooldown=1)
    var expected: List[Float64] = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    for i in range(10):
        _ = plateau.observe(1.0 if i == 0 else 0.9)
        assert_equal(plateau.multiplier, expected[i])
    var state = plateau.state_dict()
    var again = ReduceOnPlateau(factor=0.5, patience=2, cooldown=1)
    again.load_state_dict(state)
    for _ in range(10):
        assert_equal(plateau.observe(0.9), again.observe(0.9))
        assert_equal(plateau.multiplier, again.multiplier)
    var nans = ReduceOnPlateau["max", False](patience=0, min_factor=0.05)
    assert_true(nans.observe(nan[DType.float64]()))
    assert_false(nans.observe(1))
    assert_false(nans.observe(2))
    assert_true(nans.observe(nan[DType.float64]()))
    assert_false(nans.observe(1))
    assert_equal(nans.multiplier, 0.05)
    assert_equal(nans.reductions, 2)


def test_schedules_of_no_and_of_one_step() raises:
    for steps in range(2):
        assert_equal(Linear(steps).value(steps), 0)
        assert_equal(Cosine(steps, end=0.5).value(steps), 0.5)
        assert_equal(Polynomial(steps, power=0).value(steps), 0)
        assert_equal(OneCycle(steps, end=0.5).value(steps), 0.5)
        assert_equal(Warmup(steps).value(0), 1)
        assert_equal(WarmupStableDecay(steps, 0, steps).value(steps), 0)


def test_then_is_associative() raises:
    var left = Warmup(3).then(Constant(), at=3).then(Cosine(5), at=7)
    var right = Warmup(3).then(Constant().then(Cosine(5), at=4), at=3)
    for step in range(20):
        assert_equal(left.value(step), right.value(step))
    assert_equal(left.warmup_steps(), 3)


def test_wrong_arguments_are_refused_with_their_value() raises:
    with assert_raises(
        contains="factor must be a finite number of at least 0.0, got -1.0"
    ):
        _ = Constant(-1)
    with assert_raises(contains="every must be at least 1, got 0"):
        _ = Step(0)
    with assert_raises(contains="milestones must be at least 5, got 2"):
        _ = MultiStep([5, 2])
    with assert_raises(contains="gamma must be a finite number"):
        _ = Exponential(nan[DType.float64]())
    with assert_raises(contains="steps must be at least 0, got -1"):
        _ = Cosine(-1)
    with assert_raises(contains="end must be"):
        _ = Linear(5, end=-1)
    with assert_raises(contains="power must be"):
        _ = Polynomial(5, power=-1)
    with assert_raises(contains="multiplier must be at least 1, got 0"):
        _ = CosineRestarts(5, multiplier=0)
    with assert_raises(
        contains="pct_start must be a finite number in [0.0, 1.0], got 2.0"
    ):
        _ = OneCycle(5, pct_start=2)
    with assert_raises(contains="down must be at least 1, got 0"):
        _ = Cyclic(5, 0)
    with assert_raises(contains="warmup must be at least 1, got 0"):
        _ = InverseSqrt(0)
    with assert_raises(contains="steps must be at least 12, got 10"):
        _ = WarmupStableDecay(10, 6, 6)
    with assert_raises(contains="power must be above 0, got 0"):
        _ = Warmup(5, power=0)
    with assert_raises(contains="values must hold at least one factor"):
        _ = Table([])
    with assert_raises(contains="steps must be at least 6, got 5"):
        _ = Piecewise([5, 5], [1.0, 1.0])
    with assert_raises(contains="steps and factors must be equally many"):
        _ = Piecewise([5], [1.0, 1.0])
    with assert_raises(contains="cycle must be at least 1, got 0"):
        _ = Noisy(Constant(), cycle=0)
    with assert_raises(contains="period must be at least 1, got 0"):
        _ = Repeat(Constant(), 0)
    with assert_raises(contains="high must be"):
        _ = Constant().clamp(0.5, 0.1)
    with assert_raises(contains="at must be at least 0, got -1"):
        _ = Constant().then(Constant(), at=-1)
    with assert_raises(contains="base_lr must be"):
        _ = Scheduler(Constant(), base_lr=-1)
    with assert_raises(contains="factor must be above 0 and below 1, got 1.0"):
        _ = ReduceOnPlateau(factor=1)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
