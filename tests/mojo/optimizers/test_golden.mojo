"""Every rule that torch has, too, against the digits of torch's float64 loops."""

from std.pathlib import Path
from std.testing import TestSuite, assert_almost_equal, assert_equal

from shared.training.core import UpdateRule
from shared.training.optimizers import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from reference import one_parameter

comptime FILE = "tests/golden/optimizers.json"
"""Written by `tests/golden/generate.py`, an entry a line."""

comptime TOLERANCE = 1e-14
"""Eight steps round some ten times each; the largest parameters are near 2."""


def numbers(entry: String, array: String) raises -> List[Float64]:
    """Reads all numbers of the last array in an entry of the file."""
    for line in Path(FILE).read_text().split("\n"):
        var text = String(line)
        if not text.startswith(String('  "', entry, '": ')):
            continue
        var values: List[Float64] = []
        var tail = text.split(array)[1]
        for part in tail.split(","):
            var digits = String(part)
            for mark in ["[", "]", "}", " "]:
                digits = digits.replace(mark, "")
            if digits:
                values.append(Float64(digits))
        return values^
    raise Error("no ", entry, " in ", FILE)


def check[Rule: UpdateRule, //](entry: String, rule: Rule) raises:
    """Compares each step with the file's."""
    var gradients = numbers("gradients", '"gradients": ')
    var expected = numbers(entry, '"params": ')
    assert_equal(len(expected), len(gradients))
    assert_equal(len(expected), 16)
    var parameters = one_parameter[DType.float64](numbers("start", '"start": '))
    var optimizer = Optimizer[Rule, DType.float64](rule)
    for step in range(len(gradients) // 2):
        for i in range(2):
            parameters[0].grad[i] = gradients[2 * step + i]
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


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
