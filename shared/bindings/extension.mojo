"""The CPython module `hotloop._kernels`.

It is written against the C API, with nothing of Mojo's runtime, so that the
binary needs neither Mojo nor a certain version of Python.
"""

from shared.training.core import Words, words_at
from shared.training.core.table import (
    BLOCK,
    RECORD_WORDS,
    ContextWord,
    RowWord,
)
from shared.training.loops import ProgramWord
from shared.training.models.table import LayerKind, LayerWord

from shared.bindings.counts import add_count_functions
from shared.bindings.curves import add_curve_functions
from shared.bindings.kernels import Kernel
from shared.bindings.losses import add_loss_functions
from shared.bindings.moments import add_moment_functions
from shared.bindings.native import add_native_functions
from shared.bindings.plan import HandleWord, LaunchWord, PlanWord, run_plan
from shared.bindings.python import (
    Methods,
    create_module,
    has_error,
    new_int,
    raise_error,
    read_int,
)
from shared.bindings.rows import add_row_functions
from shared.bindings.torch import RuntimeWord, Torch


comptime LAYOUT_WORDS = 12


def _layout(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 1:
        return raise_error("TypeError\0", "layout() takes 1 argument\0")
    var address = read_int(Int(args[unsafe_offset=0]))
    if has_error():
        return 0
    var out = words_at(address)
    out[unsafe_offset=0] = BLOCK
    out[unsafe_offset=1] = RowWord.END
    out[unsafe_offset=2] = RECORD_WORDS
    out[unsafe_offset=3] = ContextWord.END
    out[unsafe_offset=4] = LaunchWord.END
    out[unsafe_offset=5] = PlanWord.END
    out[unsafe_offset=6] = HandleWord.END
    out[unsafe_offset=7] = RuntimeWord.END
    out[unsafe_offset=8] = Kernel.END
    out[unsafe_offset=9] = ProgramWord.END
    out[unsafe_offset=10] = LayerWord.END
    out[unsafe_offset=11] = LayerKind.END
    return new_int(LAYOUT_WORDS)


def _step(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 1:
        return raise_error("TypeError\0", "step() takes 1 argument\0")
    var address = read_int(Int(args[unsafe_offset=0]))
    if has_error():
        return 0
    return new_int(run_plan(words_at(address)))


def _probe(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 2:
        return raise_error("TypeError\0", "probe() takes 2 arguments\0")
    var runtime = read_int(Int(args[unsafe_offset=0]))
    var handle = read_int(Int(args[unsafe_offset=1]))
    if has_error():
        return 0
    var torch = Torch(words_at(runtime))
    torch.bump_version(handle)
    var grad = torch.grad(handle)
    return new_int(0 if grad == 0 else torch.data_pointer(grad))


@export
def PyInit__kernels() abi("C") -> Int:
    """Creates the module; CPython calls it at import.

    Returns:
        A new reference, or 0 with an exception set.
    """
    var methods = Methods()
    methods.add(
        "layout\0",
        _layout,
        (
            "layout(address, /)\n--\n\nWrite the sizes of all shared structures"
            " and return how many there are.\0"
        ),
    )
    methods.add(
        "step\0",
        _step,
        (
            "step(plan, /)\n--\n\nTake one optimizer step by the plan at an"
            " address. Return 0, 1 if the plan has become stale and nothing was"
            " done, or 2 if a gradient is not finite.\0"
        ),
    )
    methods.add(
        "probe\0",
        _probe,
        (
            "probe(runtime, handle, /)\n--\n\nBump a tensor's version and"
            " return the address of its gradient, or 0.\0"
        ),
    )
    add_row_functions(methods)
    add_loss_functions(methods)
    add_count_functions(methods)
    add_curve_functions(methods)
    add_moment_functions(methods)
    add_native_functions(methods)
    return create_module(
        "_kernels\0",
        "hotloop's kernels: optimizer steps, losses and metrics.\0",
        methods,
    )
