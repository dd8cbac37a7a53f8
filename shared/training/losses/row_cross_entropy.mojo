"""Cross entropy of rows of logits, and its gradient in the same pass."""

from std.math import iota
from std.utils.numerics import inf

from ..core import (
    Address,
    Executor,
    compute_dtype,
    load,
    load_part,
    pointer_at,
    store,
    store_part,
)
from ..core.exponential import exp, log
from ..core.memory import Elements
from ..core.rows import (
    GRAIN,
    NONE,
    ROW_BLOCKS,
    highest_score,
    lanes_of,
    reduce_max,
    scan_row,
    sum_exponentials,
)
from .power import power, smallest


@fieldwise_init
struct RowsOfLogits(Copyable, Movable):
    """Rows of logits by addresses and sizes, options, and where results go.

    With logits x, target t, class weights w (1 without) and label smoothing s, a
    row's loss is

        `a ((1 - s) w_t (L - x_t) + s / C sum_c w_c (L - x_c) + z L^2)`

    where `L = log sum_c e^(x_c)`, a is the row's own weight (1 without) and z the
    factor of the log-normaliser's square. For the focal loss of classes, w_t is
    multiplied by the power `gamma` of the probability that the target misses.
    """

    var logits: Int
    """The first row."""
    var rows: Int
    """How many."""
    var classes: Int
    """Elements of a row."""
    var stride: Int
    """Elements from one row to the next."""
    var target: Int
    """The int64 class of each row."""
    var ignore_index: Int
    """The target of rows whose loss and gradient are 0."""
    var class_weight: Int
    """The weight of each class, in the compute dtype; 0 for none."""
    var row_weight: Int
    """The weight of each row, in the compute dtype; 0 for none."""
    var smoothing: Float64
    """The part of each target that is spread over all classes."""
    var z_loss: Float64
    """The factor of the squared log-normaliser."""
    var gamma: Float64
    """The power of focal loss, which counts rows whatever their class; -1 for
    cross entropy. With it there is no smoothing."""
    var scale: Float64
    """The factor of the gradient."""
    var gradient: Int
    """Where the gradient goes, rows as far apart as `gradient_stride` says; the
    logits' own address to overwrite them; 0 for none."""
    var gradient_stride: Int
    """Elements from one row of the gradient to the next."""
    var losses: Int
    """Where each row's loss goes, in the compute dtype; 0 for nowhere."""
    var predicted: Int
    """Where the int64 first class with the highest logit goes; 0 for nowhere."""
    var rank: Int
    """With `predicted`: where the int32 rank of each target goes."""
    var nll: Int
    """With `predicted`: where each row's `L - x_t` goes, in the compute dtype."""
    var weight_sum: Float64
    """The sum of the class weights, or the number of classes; set by the kernel."""
    var spread: Float64
    """The smoothing by the number of classes; set by the kernel."""
    var totals: Array[Float64, ROW_BLOCKS]
    """The sum of the losses of each part."""

    def block_rows(self) -> Int:
        """Counts the rows of a part.

        Returns:
            The number; the last part may have fewer.
        """
        return (self.rows + ROW_BLOCKS - 1) // ROW_BLOCKS


@fieldwise_init
struct TargetCount(ImplicitlyCopyable, Movable):
    """What is known of the targets before any logit is read."""

    var count: Float64
    """The sum of the weights of the rows that are not ignored."""
    var problem: Int
    """The first row whose target is no class, or the number of rows."""


def count_targets[dtype: DType](job: RowsOfLogits) -> TargetCount:
    """Checks the targets and sums their weights.

    Parameters:
        dtype: The dtype of the logits.

    Args:
        job: The rows.

    Returns:
        What the mean divides by, the number of rows without weights; and the
        first bad target, at which counting stops. Focal loss leaves the class
        weights out.
    """
    comptime compute = compute_dtype[dtype]()
    var targets = pointer_at[Int64](job.target)
    var classes = pointer_at[Scalar[compute]](job.class_weight)
    var rows = pointer_at[Scalar[compute]](job.row_weight)
    var count = Float64(0)
    for i in range(job.rows):
        var target = Int(targets[unsafe_offset=i])
        if target == job.ignore_index:
            continue
        if target < 0 or target >= job.classes:
            return TargetCount(count, i)
        var weight = Float64(1)
        if job.class_weight != 0 and job.gamma < 0:
            weight = classes[unsafe_offset=target].cast[DType.float64]()
        if job.row_weight != 0:
            weight *= rows[unsafe_offset=i].cast[DType.float64]()
        count += weight
    return TargetCount(count, job.rows)


def row_cross_entropy[
    dtype: DType, Runner: Executor
](mut job: RowsOfLogits, executor: Runner) -> Float64:
    """Computes the losses of all rows, and their gradient.

    The sum is taken in float64 and in one order, so that the number of threads
    does not change the bits.

    Parameters:
        dtype: The dtype of the logits and of the gradient.
        Runner: The type of the executor.

    Args:
        job: The rows, whose targets `count_targets` has found to be classes.
        executor: Who runs the parts.

    Returns:
        The sum of the losses.
    """
    comptime compute = compute_dtype[dtype]()
    job.weight_sum = Float64(job.classes)
    if job.class_weight != 0:
        var weights = pointer_at[Scalar[compute]](job.class_weight)
        job.weight_sum = 0
        for i in range(job.classes):
            job.weight_sum += weights[unsafe_offset=i].cast[DType.float64]()
    job.spread = 0
    if job.smoothing != 0:
        job.spread = job.smoothing / Float64(job.classes)
    var block = job.block_rows()
    if block == 0:
        return 0
    var blocks = (job.rows + block - 1) // block
    executor.execute(
        blocks,
        max(1, GRAIN // max(1, block * job.classes)),
        _run_blocks[dtype],
        Pointer(to=job)
        .unsafe_bitcast[NoneType]()
        .unsafe_origin_cast[MutUntrackedOrigin](),
    )
    var total = Float64(0)
    for i in range(blocks):
        total += job.totals.unsafe_get(i)
    return total


def _run_blocks[
    dtype: DType
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    var job = address.unsafe_bitcast[RowsOfLogits]()
    for block in range(Int(begin), Int(end)):
        var total = Float64(0)
        var first = block * job[].block_rows()
        for i in range(first, min(first + job[].block_rows(), job[].rows)):
            total += _run_row[dtype](job[], i)
        job[].totals.unsafe_get(block) = total


def _run_row[dtype: DType](job: RowsOfLogits, i: Int) -> Float64:
    """Computes a row's loss and gradient."""
    comptime compute = compute_dtype[dtype]()
    var target = Int(pointer_at[Int64](job.target)[unsafe_offset=i])
    if target == job.ignore_index:
        _ignore_row[dtype](job, i)
        return 0
    var row = pointer_at[Scalar[dtype]](job.logits).unsafe_offset(
        i * job.stride
    )
    var softmax = _Softmax[dtype](row, job.classes)
    var score = load[dtype, 1](row, target)[0]
    var log_sum = log(softmax.sum)
    var nll = log_sum + (softmax.highest - score).cast[DType.float64]()
    if job.predicted != 0:
        _report_row[dtype](job, i, row, target, nll)
    var weight = _weight_at[compute](job.class_weight, target)
    var power_at_target = exp(score - softmax.highest).cast[DType.float64]()
    var hit = power_at_target / softmax.sum
    var loss = _RowLoss(job, weight=weight, nll=nll, hit=hit)
    if job.smoothing != 0:
        var below = _sum_below[dtype](job, row, softmax.highest)
        loss.value += job.spread * (job.weight_sum * log_sum + below)
    if job.z_loss != 0:
        var normaliser = softmax.highest.cast[DType.float64]() + log_sum
        loss.value += job.z_loss * normaliser * normaliser
        loss.factor += 2 * job.z_loss * normaliser
    var row_weight = _weight_at[compute](job.row_weight, i)
    loss.value *= row_weight
    if job.losses != 0:
        pointer_at[Scalar[compute]](job.losses)[
            unsafe_offset=i
        ] = loss.value.cast[compute]()
    if job.gradient != 0:
        var outer = row_weight * job.scale
        var gradient = pointer_at[Scalar[dtype]](job.gradient).unsafe_offset(
            i * job.gradient_stride
        )
        softmax.write(
            job, row, gradient, outer * loss.factor, outer * job.spread
        )
        var at_target = loss.factor * hit - loss.own - job.spread * weight
        store[dtype, 1](gradient, target, (outer * at_target).cast[compute]())
    return loss.value


@always_inline
def _weight_at[dtype: DType](weights: Int, i: Int) -> Float64:
    if weights == 0:
        return 1
    return pointer_at[Scalar[dtype]](weights)[unsafe_offset=i].cast[
        DType.float64
    ]()


struct _RowLoss(ImplicitlyCopyable, Movable):
    """A row's loss and what its gradient is made of.

    The gradient is `factor` softmax less `spread` w, and at the target less `own`,
    too.
    """

    var value: Float64
    var factor: Float64
    var own: Float64

    @always_inline
    def __init__(
        out self,
        job: RowsOfLogits,
        *,
        weight: Float64,
        nll: Float64,
        hit: Float64,
    ):
        """Computes the target's part, for its weight and its probability, `hit`."""
        var own = (1 - job.smoothing) * weight
        var slope = own
        if job.gamma >= 0:
            comptime least = smallest[DType.float32]().cast[DType.float64]()
            var missed = 1 - hit
            own *= power(max(missed, least), job.gamma)
            slope = own
            if missed >= least:
                slope += own * nll * job.gamma * hit / missed
        self.value = own * nll
        self.factor = slope + job.spread * job.weight_sum
        self.own = slope


struct _Softmax[dtype: DType](ImplicitlyCopyable, Movable):
    """The highest logit of a row and the sum of `e^(x - highest)`."""

    comptime compute = compute_dtype[Self.dtype]()
    comptime width = lanes_of[Self.dtype]()
    comptime Lanes = SIMD[Self.compute, Self.width]

    var highest: Scalar[Self.compute]
    var sum: Float64
    var powers: Self.Lanes
    """What is summed, of a row of at most one vector."""

    @always_inline
    def __init__(out self, row: Elements[Self.dtype], classes: Int):
        self.powers = Self.Lanes(0)
        if classes > Self.width:
            self.highest = highest_score[Self.dtype](row, classes)
            self.sum = sum_exponentials[Self.dtype](row, classes, self.highest)
            return
        var scores = load_part[Self.dtype, Self.width](
            row, 0, classes, -inf[Self.compute]()
        )
        self.highest = reduce_max(scores)
        # Not e^-infinity, which is NaN where the highest is -infinity, too.
        var is_loaded = iota[DType.int32, Self.width]().lt(Int32(classes))
        var powers = exp(scores - Self.Lanes(self.highest))
        self.powers = is_loaded.select(powers, Self.Lanes(0))
        self.sum = self.powers.cast[DType.float64]().reduce_add()

    @always_inline
    def write(
        self,
        job: RowsOfLogits,
        row: Elements[Self.dtype],
        gradient: Elements[Self.dtype],
        factor: Float64,
        spread: Float64,
    ):
        """Writes `factor` softmax less `spread` w, maybe over the logits."""
        var share = factor / self.sum
        if job.class_weight != 0 and job.smoothing != 0:
            _write_gradient[Self.dtype, True](
                job, row, gradient, self.highest, share, spread
            )
        elif job.classes > Self.width:
            _write_gradient[Self.dtype, False](
                job, row, gradient, self.highest, share, spread
            )
        else:
            var lanes = self.powers.fma(
                Self.Lanes(share.cast[Self.compute]()),
                Self.Lanes(-spread.cast[Self.compute]()),
            )
            store_part[Self.dtype, Self.width](gradient, 0, job.classes, lanes)


def _report_row[
    dtype: DType
](job: RowsOfLogits, i: Int, row: Elements[dtype], target: Int, nll: Float64,):
    """Writes what metrics are counted from."""
    comptime compute = compute_dtype[dtype]()
    var scan = scan_row[dtype](row, job.classes, target)
    if scan.has_nan:
        scan.predicted = NONE
        scan.rank = job.classes
    pointer_at[Int64](job.predicted)[unsafe_offset=i] = Int64(scan.predicted)
    pointer_at[Int32](job.rank)[unsafe_offset=i] = Int32(scan.rank)
    pointer_at[Scalar[compute]](job.nll)[unsafe_offset=i] = nll.cast[compute]()


def _ignore_row[dtype: DType](job: RowsOfLogits, i: Int):
    comptime compute = compute_dtype[dtype]()
    if job.losses != 0:
        pointer_at[Scalar[compute]](job.losses)[unsafe_offset=i] = 0
    if job.predicted != 0:
        pointer_at[Int64](job.predicted)[unsafe_offset=i] = NONE
        pointer_at[Int32](job.rank)[unsafe_offset=i] = NONE
        pointer_at[Scalar[compute]](job.nll)[unsafe_offset=i] = 0
    if job.gradient != 0:
        var gradient = pointer_at[Scalar[dtype]](job.gradient).unsafe_offset(
            i * job.gradient_stride
        )
        for j in range(job.classes):
            gradient[unsafe_offset=j] = 0


def _sum_below[
    dtype: DType
](
    job: RowsOfLogits,
    row: Elements[dtype],
    highest: Scalar[compute_dtype[dtype]()],
) -> Float64:
    """Sums `w_c (highest - x_c)`."""
    comptime compute = compute_dtype[dtype]()
    comptime width = lanes_of[dtype]()
    comptime Lanes = SIMD[compute, width]
    var weights = pointer_at[Scalar[compute]](job.class_weight)
    var total = SIMD[DType.float64, width](0)
    for i in range(0, job.classes, width):
        var count = job.classes - i
        var scores: Lanes
        var weight = Lanes(1)
        if count >= width:
            scores = load[dtype, width](row, i)
            if job.class_weight != 0:
                weight = load[compute, width](weights, i).cast[compute]()
        else:
            scores = load_part[dtype, width](row, i, count, highest)
            if job.class_weight != 0:
                weight = load_part[compute, width](weights, i, count, 0).cast[
                    compute
                ]()
        total += (weight * (Lanes(highest) - scores)).cast[DType.float64]()
    return total.reduce_add()


def _write_gradient[
    dtype: DType, has_weights: Bool
](
    job: RowsOfLogits,
    row: Elements[dtype],
    gradient: Elements[dtype],
    highest: Scalar[compute_dtype[dtype]()],
    factor: Float64,
    spread: Float64,
):
    """Writes `factor e^(x_c - highest) - spread w_c`, maybe over the logits."""
    comptime compute = compute_dtype[dtype]()
    comptime width = lanes_of[dtype]()
    comptime Lanes = SIMD[compute, width]
    var weights = pointer_at[Scalar[compute]](job.class_weight)
    var factors = Lanes(factor.cast[compute]())
    var less = Lanes(-spread.cast[compute]())
    var shift = Lanes(highest)
    var whole = job.classes // width * width
    for i in range(0, whole, width):
        var constant = less
        comptime if has_weights:
            constant *= load[compute, width](weights, i).cast[compute]()
        var powers = exp(load[dtype, width](row, i) - shift)
        store[dtype, width](gradient, i, powers.fma(factors, constant))
    if whole < job.classes:
        var count = job.classes - whole
        var constant = less
        comptime if has_weights:
            constant *= load_part[compute, width](
                weights, whole, count, 0
            ).cast[compute]()
        var powers = exp(
            load_part[dtype, width](row, whole, count, highest) - shift
        )
        store_part[dtype, width](
            gradient, whole, count, powers.fma(factors, constant)
        )
