"""The extension's functions for whole training loops."""

from std.utils.numerics import isfinite

from shared.training.core import TorchExecutor, Words, words_at
from shared.training.loops import (
    Program,
    ProgramWord,
    run_forward,
    run_gradient,
)
from shared.training.models.block import Block
from shared.training.models.table import LayerTable

from .plan import Outcome, PlanWord, plan_work, run_launches
from .python import (
    Arguments,
    Methods,
    ReleasedGIL,
    has_error,
    new_int,
    raise_error,
)

comptime SERIAL_WORK = 262144
"""Updates of so little work stay on the thread of a program that has one: another one would take
half of the parameters away from the cache of its core."""


struct RateWord:
    """Where each field of the numbers that change with each batch lies, in words."""

    comptime NUMBERS = 0
    """How many there are: learning rates and weight decays of groups."""
    comptime VALUES = 1
    """Address of a float64 for each number of each batch."""
    comptime PLACES = 2
    """Addresses of the numbers in the plan, one word each."""


def _layer_kept(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 4:
        return raise_error("TypeError\0", "layer_kept() takes 4 arguments\0")
    var arguments = Arguments(args)
    var table = arguments.int(0)
    var index = arguments.int(1)
    var stride = arguments.int(2)
    var dtype = arguments.int(3)
    if has_error():
        return 0
    var block = Block(stride, stride, 0, 0, True, False, 0, 0)
    if dtype == 0:
        return new_int(
            LayerTable[DType.float32](words_at(table), index + 1).kept(
                index, block
            )
        )
    return new_int(
        LayerTable[DType.float64](words_at(table), index + 1).kept(index, block)
    )


def _train_batches(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 6:
        return raise_error("TypeError\0", "train_batches() takes 6 arguments\0")
    var arguments = Arguments(args)
    var program = Program(words_at(arguments.int(0)))
    var plan = arguments.int(1)
    var rates = arguments.int(2)
    var first = arguments.int(3)
    var last = arguments.int(4)
    var executor = TorchExecutor(arguments.int(5))
    if has_error():
        return 0
    var is_serial = (
        program.word(ProgramWord.THREADS) == 1
        and plan_work(words_at(plan)) <= SERIAL_WORK
    )
    with ReleasedGIL():
        for step in range(first, last):
            _set_rates(words_at(rates), step)
            if program.word(ProgramWord.DTYPE) == 0:
                run_gradient[DType.float32](program, step, executor)
            else:
                run_gradient[DType.float64](program, step, executor)
            if not isfinite(program.loss(step)):
                break
            var outcome = run_launches(words_at(plan), is_serial)
            var norms = words_at(program.word(ProgramWord.NORMS))
            norms[unsafe_offset=step] = words_at(plan)[
                unsafe_offset=PlanWord.NORM
            ]
            if outcome == Outcome.NOT_FINITE:
                break
            program.words[unsafe_offset=ProgramWord.DONE] = Int64(step + 1)
    return new_int(program.word(ProgramWord.DONE))


def _set_rates(rates: Words, step: Int):
    var numbers = Int(rates[unsafe_offset=RateWord.NUMBERS])
    var values = words_at(Int(rates[unsafe_offset=RateWord.VALUES]))
    for index in range(numbers):
        var place = Int(rates[unsafe_offset=RateWord.PLACES + index])
        words_at(place)[] = values[unsafe_offset=step * numbers + index]


def _forward_batches(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 4:
        return raise_error(
            "TypeError\0", "forward_batches() takes 4 arguments\0"
        )
    var arguments = Arguments(args)
    var program = Program(words_at(arguments.int(0)))
    var first = arguments.int(1)
    var last = arguments.int(2)
    var executor = TorchExecutor(arguments.int(3))
    if has_error():
        return 0
    with ReleasedGIL():
        if program.word(ProgramWord.DTYPE) == 0:
            run_forward[DType.float32](program, first, last, executor)
        else:
            run_forward[DType.float64](program, first, last, executor)
    return new_int(last)


def add_native_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    methods.add(
        "layer_kept\0",
        _layer_kept,
        (
            "layer_kept(table, index, stride, dtype, /)\n--\n\nReturn how many"
            " elements a layer keeps between its passes.\0"
        ),
    )
    methods.add(
        "train_batches\0",
        _train_batches,
        (
            "train_batches(program, plan, rates, first, last, parallel_for,"
            " /)\n--\n\nTrain on batches, and return the first that was not: a"
            " gradient was not finite, or all are done.\0"
        ),
    )
    methods.add(
        "forward_batches\0",
        _forward_batches,
        (
            "forward_batches(program, first, last, parallel_for, /)\n--\n\n"
            "Compute the losses and outputs of batches.\0"
        ),
    )
