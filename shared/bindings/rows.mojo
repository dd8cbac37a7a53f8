"""The extension's functions for one pass over rows of logits."""

from shared.training.core import TorchExecutor, Words
from shared.training.core.rows import ROW_BLOCKS, RowsJob, scan_rows

from .dtypes import Dtype
from .python import (
    Arguments,
    Methods,
    ReleasedGIL,
    has_error,
    new_int,
    raise_error,
)

comptime GIL_ELEMENTS = 16384
"""The fewest elements for which other Python threads may run meanwhile."""


def _run[dtype: DType](mut job: RowsJob, executor: TorchExecutor) -> Int:
    if job.nll == 0:
        return scan_rows[dtype, False](job, executor)
    return scan_rows[dtype, True](job, executor)


def _dispatch(dtype: Int, mut job: RowsJob, executor: TorchExecutor) -> Int:
    if dtype == Dtype.FLOAT32:
        return _run[DType.float32](job, executor)
    if dtype == Dtype.FLOAT64:
        return _run[DType.float64](job, executor)
    if dtype == Dtype.BFLOAT16:
        return _run[DType.bfloat16](job, executor)
    return _run[DType.float16](job, executor)


def _scan_rows(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 12:
        return raise_error("TypeError\0", "scan_rows() takes 12 arguments\0")
    var given = Arguments(args)
    var dtype = given.int(1)
    var job = RowsJob(
        logits=given.int(0),
        rows=given.int(2),
        classes=given.int(3),
        stride=given.int(4),
        target=given.int(5),
        ignore_index=given.int(6),
        is_nan_reported=given.int(7) != 0,
        predicted=given.int(8),
        rank=given.int(9),
        nll=given.int(10),
        problems=Array[Int, ROW_BLOCKS](fill=0),
    )
    var executor = TorchExecutor(given.int(11))
    if has_error():
        return 0
    var problem: Int
    with ReleasedGIL(job.rows * job.classes >= GIL_ELEMENTS):
        problem = _dispatch(dtype, job, executor)
    return new_int(problem)


def add_row_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    methods.add(
        "scan_rows\0",
        _scan_rows,
        (
            "scan_rows(logits, dtype, rows, classes, stride, target,"
            " ignore_index, is_nan_reported, predicted, rank, nll,"
            " parallel_for, /)\n--\n\nFind the best class of each row and the"
            " rank and, unless nll is 0, the negative log-likelihood of its"
            " target. Return the first row with a bad target or a reported NaN,"
            " or the number of rows.\0"
        ),
    )
