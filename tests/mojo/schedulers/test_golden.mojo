"""Every schedule against the values that the Python tests read, too."""

from std.testing import TestSuite, assert_almost_equal, assert_equal

from shared.training.schedulers import (
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
    Schedule,
    Step,
    Table,
    Warmup,
    WarmupStableDecay,
)

from golden import numbers_of

comptime FILE = "tests/golden/schedules.json"
"""Written by `tests/golden/generate_schedules.py`, an entry a line."""


def check[Kind: Schedule](schedule: Kind, name: String) raises:
    var expected = numbers_of(FILE, name, '"values": ')
    # "table" and the wrapped ones have a field "values" of their own.
    assert_equal(len(expected), 24, name)
    for step in range(len(expected)):
        assert_almost_equal(
            schedule.value(step),
            expected[step],
            atol=1e-15,
            rtol=1e-15,
            msg=String(name, " at step ", step),
        )


def test_simple_schedules() raises:
    check(Constant(0.5), "constant")
    check(Step(5, gamma=0.5), "step")
    check(MultiStep([2, 7, 7]), "multi_step")
    check(Exponential(0.9), "exponential")
    check(Exponential(0.9, end=0.3), "exponential end")
    check(Linear(10, start=0.25, end=0.75), "linear")
    check(Cosine(12, end=0.1), "cosine")
    check(Polynomial(10, power=2), "polynomial")
    check(InverseSqrt(6), "inverse_sqrt")
    check(
        Piecewise([2, 6, 16], [0.5, 1.0, 0.0]),
        "piecewise",
    )
    check(
        Piecewise["constant"]([2, 6, 16], [0.5, 1.0, 0.0]), "piecewise constant"
    )
    check(Noisy(Constant(0.5), std=0.2, window=0.4, cycle=5, seed=7), "noisy")


def test_cycles() raises:
    check(CosineRestarts(4, multiplier=2, end=0.1), "cosine_restarts")
    check(CosineRestarts(5), "cosine_restarts equal")
    check(
        CosineRestarts(4, multiplier=2, end=0.1, peak=0.5),
        "cosine_restarts peak",
    )
    check(OneCycle(20), "one_cycle")
    check(OneCycle["linear", True](20, pct_start=0.25), "one_cycle three")
    check(Cyclic(3, 5, start=0.2, gamma=0.95), "cyclic triangular")
    check(
        Cyclic["triangular2"](3, 5, start=0.2, gamma=0.95), "cyclic triangular2"
    )
    check(Cyclic["exp_range"](3, 5, start=0.2, gamma=0.95), "cyclic exp_range")


def test_warmups() raises:
    check(Warmup(10, start=0.1, power=1.5), "warmup linear")
    check(Warmup["cosine"](10, start=0.1, power=1.5), "warmup cosine")
    check(Warmup["polynomial"](10, start=0.1, power=1.5), "warmup polynomial")
    check(Warmup["exponential"](10), "warmup exponential")
    check(Warmup["exponential"](10, start=0.01), "warmup geometric")
    check(Warmup(10, start=0.1, include_zero=True), "warmup zero")
    check(WarmupStableDecay(18, 3, 6, end=0.1), "wsd sqrt")
    check(WarmupStableDecay["linear"](18, 3, 6, end=0.1), "wsd linear")
    check(WarmupStableDecay["cosine"](18, 3, 6, end=0.1), "wsd cosine")


def test_compositions() raises:
    check(
        Warmup(4, start=0.01, include_zero=True).then(Cosine(6, end=0.1), at=4),
        "then",
    )
    check(Step(5, gamma=0.5) * Cosine(12), "product")
    check(Cosine(12).clamp(0.25, 0.9), "clamp")
    check(Linear(5).repeat(period=5, times=3), "repeat")


def half(step: Int) -> Float64:
    return 1 / Float64(step + 2)


def test_tables_and_functions() raises:
    var table = Table([0.1, 1.0, 0.3])
    assert_equal(table.value(0), 0.1)
    assert_equal(table.value(2), 0.3)
    assert_equal(table.value(9), 0.3)
    assert_equal(Lambda[half]().value(2), 0.25)
    assert_equal(Linear(5).scale(0.5).value(0), 0.5)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
