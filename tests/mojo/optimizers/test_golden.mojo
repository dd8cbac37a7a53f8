"""Every rule against the digits of float64 loops: torch's or, without one, a peer's."""

from std.testing import TestSuite, assert_almost_equal, assert_equal

from shared.training.core import UpdateRule
from shared.training.optimizers import (
    ADOPT,
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    Lion,
    MuonMomentum,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SophiaG,
)
from shared.training.optimizers.adam import bias_correction

from golden import numbers_of
from reference import one_parameter

comptime FILE = "tests/golden/optimizers.json"
"""Written by `tests/golden/generate_optimizers.py`, an entry a line."""

comptime TOLERANCE = 1e-14
"""Eight steps round some ten times each; the largest parameters are near 2."""


comptime Stepper[Rule: UpdateRule] = Optimizer[Rule, DType.float64]
"""The optimizer of these tests."""


def leave[
    Rule: UpdateRule
](mut optimizer: Stepper[Rule], step: Int, grads: List[Float64]):
    """Changes nothing before a step."""
    pass


def check[
    Rule: UpdateRule,
    //,
    prepare: def(
        mut optimizer: Stepper[Rule], step: Int, grads: List[Float64]
    ) thin -> None = leave[Rule],
](entry: String, rule: Rule) raises:
    """Compares each step with the file's."""
    var gradients = numbers_of(FILE, "gradients", '"gradients": ')
    var expected = numbers_of(FILE, entry, '"params": ')
    assert_equal(len(expected), len(gradients))
    assert_equal(len(expected), 16)
    var parameters = one_parameter[DType.float64](
        numbers_of(FILE, "start", '"start": ')
    )
    var optimizer = Stepper[Rule](rule)
    optimizer._create_state(parameters)
    for step in range(len(gradients) // 2):
        for i in range(2):
            parameters[0].grad[i] = gradients[2 * step + i]
        prepare(optimizer, step + 1, parameters[0].grad)
        optimizer.step(parameters)
        for i in range(2):
            assert_almost_equal(
                parameters[0].value[i],
                expected[2 * step + i],
                String(t"{entry}, element {i} after step {step + 1}"),
                atol=TOLERANCE,
                rtol=0,
            )


def test_sgd() raises:
    check(
        "sgd",
        SGD[momentum=True, nesterov=True](
            lr=0.1, momentum_decay=0.9, weight_decay=0.1
        ),
    )


def test_adam() raises:
    check("adam", Adam(lr=0.1, weight_decay=0.1))
    check("adamw", AdamW[amsgrad=True](lr=0.1, weight_decay=0.1))


def test_muon_momentum() raises:
    check("muon momentum", MuonMomentum[nesterov=False](momentum=0.9))
    check("muon momentum", MuonMomentum(momentum=0.9))


def test_rmsprop() raises:
    check("rmsprop", RMSprop(lr=0.1, alpha=0.9, weight_decay=0.1))
    check(
        "rmsprop momentum",
        RMSprop[momentum=True](lr=0.1, alpha=0.9, momentum_decay=0.5),
    )
    check("rmsprop centered", RMSprop[centered=True](lr=0.1, alpha=0.9))
    check(
        "rmsprop both",
        RMSprop[centered=True, momentum=True](
            lr=0.1, alpha=0.9, momentum_decay=0.5, maximize=True
        ),
    )


def test_adagrad() raises:
    check("adagrad", Adagrad(lr=0.1))
    check(
        "adagrad decay",
        Adagrad(
            lr=0.1,
            lr_decay=0.1,
            initial_accumulator_value=0.5,
            weight_decay=0.1,
        ),
    )


def test_adadelta() raises:
    check("adadelta", Adadelta(lr=0.1, rho=0.8, weight_decay=0.1))


def test_adafactor() raises:
    check("adafactor", Adafactor(lr=0.1, weight_decay=0.1, eps1=2.0**-52))
    check(
        "adafactor eps",
        Adafactor(
            lr=0.1, beta2_decay=-0.5, eps1=0.3, eps2=0.1, d=1.5, maximize=True
        ),
    )


def test_adamax() raises:
    check("adamax", Adamax(lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0.1))


def test_nadam() raises:
    check("nadam", NAdam(lr=0.1, momentum_decay=0.1, weight_decay=0.1))
    check("nadam decoupled", NAdam(lr=0.1, weight_decay=0.1, decoupled=True))


def test_radam() raises:
    check("radam", RAdam(lr=0.1, weight_decay=0.1))
    check("radam decoupled", RAdam(lr=0.1, weight_decay=0.1, decoupled=True))


def test_rprop() raises:
    check("rprop", Rprop(lr=0.1, step_size_min=0.03, step_size_max=0.13))


def test_asgd() raises:
    check("asgd", ASGD(lr=0.1, lambd=0.1, t0=3, weight_decay=0.1))


def test_lion() raises:
    check("lion", Lion(lr=0.1, weight_decay=0.1))


def test_adan() raises:
    check("adan", Adan(lr=0.1, weight_decay=0.1))


def test_adopt() raises:
    check("adopt", ADOPT(lr=0.1, beta2=0.99))
    check("adopt unclipped", ADOPT(lr=0.1, beta2=0.99, clip=False))


def move_hessian(
    mut optimizer: Stepper[SophiaG], step: Int, grads: List[Float64]
):
    """Averages the estimates of two samples."""
    for i in range(2):
        ref hessian = optimizer._state[1][i]
        hessian = 0.9 * hessian + (1 - 0.9) * 2 * grads[i] * grads[i]


def test_sophia() raises:
    check[move_hessian](
        "sophia",
        SophiaG(lr=0.1, beta1=0.9, rho=0.05, weight_decay=0.1),
    )


def warmed_up(step: Int) -> Tuple[Float64, Float64]:
    """Gives the rate, warmed up in three steps, and the weight of a step.

    Steps are weighted by the square of the largest rate so far, here the last.
    """
    var sum = 0.0
    var lr = 0.0
    for i in range(1, step + 1):
        lr = 0.1 * min(1.0, Float64(i) / 3)
        sum += lr * lr
    return lr, lr * lr / sum


def warm_up_sgd(
    mut optimizer: Stepper[ScheduleFreeSGD], step: Int, grads: List[Float64]
):
    """Sets what changes from step to step."""
    var lr, weight = warmed_up(step)
    optimizer.rule.lr = lr
    optimizer.rule.weight = weight


def warm_up_adamw(
    mut optimizer: Stepper[ScheduleFreeAdamW], step: Int, grads: List[Float64]
):
    """Sets what changes from step to step."""
    var lr, weight = warmed_up(step)
    optimizer.rule.lr = lr
    optimizer.rule.weight = weight
    optimizer.rule.bias2 = bias_correction(0.999, Float64(step))


def test_schedule_free() raises:
    check[warm_up_sgd]("schedule-free sgd", ScheduleFreeSGD(weight_decay=0.1))
    check[warm_up_adamw](
        "schedule-free adamw", ScheduleFreeAdamW(weight_decay=0.1)
    )


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
