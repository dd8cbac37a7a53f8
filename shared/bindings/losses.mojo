"""The extension's functions for losses and their gradients."""

from std.ffi import external_call
from std.sys import size_of

from shared.training.core import (
    TorchExecutor,
    Words,
    compute_dtype,
    pointer_at,
)
from shared.training.core.rows import ROW_BLOCKS
from shared.training.losses import (
    PARTS,
    BinaryCrossEntropy,
    RowsOfLogits,
    HuberLoss,
    PointwiseJob,
    PointwiseLoss,
    SigmoidFocal,
    SquaredError,
    count_targets,
    pointwise_loss,
    row_cross_entropy,
    sum_weights,
)

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


comptime HUGE_BYTES = 32 * 1024 * 1024
"""The fewest bytes that get huge pages. malloc maps memory of more than this
anew each time, so that nothing else is in it."""

comptime MADV_HUGEPAGE = Int32(14)
"""What `madvise` of Linux is told."""


def _advise_huge_pages(address: Int, bytes: Int):
    """Asks for huge pages in fresh memory, which then has fewer page faults."""
    comptime page = 4096
    if bytes < HUGE_BYTES:
        return
    var first = (address + page - 1) // page * page
    var last = (address + bytes) // page * page
    _ = external_call["madvise", Int32](first, last - first, MADV_HUGEPAGE)


struct Reduction:
    """What becomes of the losses of the rows; the same numbers as in Python."""

    comptime NONE = 0
    """Each row's own."""
    comptime SUM = 1
    """Their sum."""
    comptime MEAN = 2
    """Their sum by the number of rows that count."""


@fieldwise_init
struct _Reduced(Copyable, Movable):
    """How the losses are reduced, and where that goes."""

    var reduction: Int
    var total: Int
    var count: Int
    var executor: TorchExecutor


def _run[dtype: DType](mut job: RowsOfLogits, reduced: _Reduced) -> Int:
    comptime compute = compute_dtype[dtype]()
    var has_weights = job.row_weight != 0 or (
        job.class_weight != 0 and job.gamma < 0
    )
    var targets = count_targets[dtype](job)
    if targets.problem < job.rows:
        return targets.problem
    var count = targets.count
    if reduced.count != 0:
        if has_weights:
            pointer_at[Scalar[compute]](reduced.count)[] = count.cast[compute]()
        else:
            pointer_at[Int64](reduced.count)[] = Int64(count)
    var divisor = Float64(1)
    if reduced.reduction == Reduction.MEAN:
        divisor = count
        # A mean of nothing is 0, and so is its gradient.
        job.scale = 0 if count == 0 else job.scale / count
    if job.gradient != 0 and job.gradient != job.logits:
        _advise_huge_pages(
            job.gradient, job.rows * job.classes * size_of[Scalar[dtype]]()
        )
    var total = row_cross_entropy[dtype](job, reduced.executor)
    if reduced.total != 0:
        total = 0 if divisor == 0 else total / divisor
        pointer_at[Scalar[compute]](reduced.total)[] = total.cast[compute]()
    return job.rows


def _dispatch(dtype: Int, mut job: RowsOfLogits, reduced: _Reduced) -> Int:
    if dtype == Dtype.FLOAT32:
        return _run[DType.float32](job, reduced)
    if dtype == Dtype.FLOAT64:
        return _run[DType.float64](job, reduced)
    if dtype == Dtype.BFLOAT16:
        return _run[DType.bfloat16](job, reduced)
    return _run[DType.float16](job, reduced)


def _cross_entropy(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 23:
        return raise_error(
            "TypeError\0", "cross_entropy() takes 23 arguments\0"
        )
    var given = Arguments(args)
    var job = RowsOfLogits(
        logits=given.int(0),
        rows=given.int(2),
        classes=given.int(3),
        stride=given.int(4),
        target=given.int(5),
        ignore_index=given.int(6),
        class_weight=given.int(7),
        row_weight=given.int(8),
        smoothing=given.number(9),
        z_loss=given.number(10),
        gamma=given.number(11),
        scale=given.number(12),
        gradient=given.int(13),
        gradient_stride=given.int(14),
        losses=given.int(15),
        predicted=given.int(16),
        rank=given.int(17),
        nll=given.int(18),
        weight_sum=0,
        spread=0,
        totals=Array[Float64, ROW_BLOCKS](fill=0),
    )
    var dtype = given.int(1)
    var reduced = _Reduced(
        reduction=given.int(19),
        total=given.int(20),
        count=given.int(21),
        executor=TorchExecutor(given.int(22)),
    )
    if has_error():
        return 0
    var problem: Int
    with ReleasedGIL(job.rows * job.classes >= GIL_ELEMENTS):
        problem = _dispatch(dtype, job, reduced)
    return new_int(problem)


struct Rule:
    """The losses of single elements; the same numbers as in Python."""

    comptime SQUARED_ERROR = 0
    """`mse`."""
    comptime HUBER = 1
    """`huber`, with its delta."""
    comptime BINARY_CROSS_ENTROPY = 2
    """`bce_with_logits`."""
    comptime SIGMOID_FOCAL = 3
    """`sigmoid_focal`, with gamma and alpha."""


def _run_pointwise[
    dtype: DType, Loss: PointwiseLoss
](rule: Loss, given: Arguments) -> Int:
    var job = PointwiseJob[Loss](
        rule=rule,
        preds=given.int(2),
        target=given.int(3),
        size=given.int(4),
        weight=given.int(5),
        positive=given.int(6),
        columns=given.int(7),
        scale=given.number(10),
        gradient=given.int(11),
        losses=given.int(12),
        totals=Array[Float64, PARTS](fill=0),
    )
    var reduction = given.int(13)
    var total_at = given.int(14)
    var count_at = given.int(15)
    var executor = TorchExecutor(given.int(16))
    if has_error():
        return 0
    with ReleasedGIL(job.size >= GIL_ELEMENTS):
        var count = Float64(job.size)
        if job.weight != 0 and (count_at != 0 or reduction == Reduction.MEAN):
            count = sum_weights[dtype](job.weight, job.size)
        if count_at != 0:
            pointer_at[Scalar[dtype]](count_at)[] = count.cast[dtype]()
        var is_mean = reduction == Reduction.MEAN
        if is_mean:
            # A mean of nothing is 0, and so is its gradient.
            job.scale = 0 if count == 0 else job.scale / count
        if job.gradient != 0:
            _advise_huge_pages(
                job.gradient, job.size * size_of[Scalar[dtype]]()
            )
        var total = pointwise_loss[dtype](job, executor)
        if total_at != 0:
            if is_mean:
                total = 0 if count == 0 else total / count
            pointer_at[Scalar[dtype]](total_at)[] = total.cast[dtype]()
    return new_int(job.size)


def _dispatch_pointwise[dtype: DType](given: Arguments) -> Int:
    var rule = given.int(0)
    var first = given.number(8)
    var second = given.number(9)
    if rule == Rule.SQUARED_ERROR:
        return _run_pointwise[dtype](SquaredError(), given)
    if rule == Rule.HUBER:
        return _run_pointwise[dtype](HuberLoss(first), given)
    if rule == Rule.BINARY_CROSS_ENTROPY:
        return _run_pointwise[dtype](BinaryCrossEntropy(), given)
    return _run_pointwise[dtype](SigmoidFocal(first, second), given)


def _pointwise_loss(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 17:
        return raise_error(
            "TypeError\0", "pointwise_loss() takes 17 arguments\0"
        )
    var given = Arguments(args)
    if given.int(1) == Dtype.FLOAT32:
        return _dispatch_pointwise[DType.float32](given)
    return _dispatch_pointwise[DType.float64](given)


def add_loss_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    methods.add(
        "cross_entropy\0",
        _cross_entropy,
        (
            "cross_entropy(logits, dtype, rows, classes, stride, target,"
            " ignore_index, class_weight, row_weight, label_smoothing, z_loss,"
            " gamma, scale, gradient, gradient_stride, losses, predicted, rank,"
            " nll, reduction, total, count, parallel_for, /)\n--\n\nCompute"
            " the losses of rows and their gradient. Return the first row whose"
            " target is no class, or the number of rows.\0"
        ),
    )
    methods.add(
        "pointwise_loss\0",
        _pointwise_loss,
        (
            "pointwise_loss(rule, dtype, preds, target, size, weight,"
            " pos_weight, columns, first, second, scale, gradient, losses,"
            " reduction, total, count, parallel_for, /)\n--\n\nCompute the"
            " losses of elements and their gradient. Return how many there"
            " are.\0"
        ),
    )
