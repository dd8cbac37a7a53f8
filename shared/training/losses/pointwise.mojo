"""Losses of single elements, with their gradient in the same pass."""

from std.math import iota
from std.sys import simd_width_of

from ..core import Address, Executor, compute_dtype, load_part, store_part
from ..core.memory import Elements
from ..core.rows import GRAIN
from .loss_sum import LossSum

comptime PARTS = 64
"""The most parts that elements are dealt out in, whatever the number of threads."""

comptime PART_STEP = 256
"""Parts have a multiple of this many elements, but for the last."""


@fieldwise_init
struct Slope[dtype: DType, width: Int](ImplicitlyCopyable, Movable):
    """Losses and their derivatives.

    Parameters:
        dtype: The dtype of the arithmetic.
        width: How many lanes.
    """

    var loss: SIMD[Self.dtype, Self.width]
    """The losses."""
    var slope: SIMD[Self.dtype, Self.width]
    """Their derivatives by the predictions."""


trait PointwiseLoss(Deinitable, ImplicitlyCopyable, Movable):
    """A loss of a prediction and its target."""

    def evaluate[
        dtype: DType, width: Int
    ](
        self,
        pred: SIMD[dtype, width],
        target: SIMD[dtype, width],
        positive: SIMD[dtype, width],
    ) -> Slope[dtype, width]:
        """Computes losses and derivatives in registers.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            pred: The predictions.
            target: What they should be.
            positive: The column's weight of what the target has of 1; 1 without.

        Returns:
            Both.
        """
        ...


@fieldwise_init
struct PointwiseJob[Loss: PointwiseLoss](Copyable, Movable):
    """Predictions by addresses and sizes, and where results go.

    Everything is in one dtype, the elements side by side.

    Parameters:
        Loss: The loss of an element.
    """

    var rule: Self.Loss
    """The loss of an element."""
    var preds: Int
    """The predictions."""
    var target: Int
    """What they should be."""
    var size: Int
    """How many elements there are."""
    var weight: Int
    """A factor for each element; 0 for none."""
    var positive: Int
    """The weight of targets of 1 for each column; 0 for none."""
    var columns: Int
    """The length of a row."""
    var scale: Float64
    """The factor of the gradient."""
    var gradient: Int
    """Where the gradient goes; 0 for nowhere."""
    var losses: Int
    """Where the losses go; 0 for nowhere."""
    var totals: Array[Float64, PARTS]
    """The sum of the losses of each part."""

    def part_size(self) -> Int:
        """Counts the elements of a part.

        Returns:
            The number; the last part may have fewer.
        """
        var share = (self.size + PARTS - 1) // PARTS
        return (share + PART_STEP - 1) // PART_STEP * PART_STEP


def sum_weights[dtype: DType](address: Int, size: Int) -> Float64:
    """Sums weights in float64.

    Parameters:
        dtype: The dtype of the weights.

    Args:
        address: The first of them.
        size: How many there are.

    Returns:
        The sum.
    """
    comptime width = simd_width_of[dtype]()
    var weights = Elements[dtype](unsafe_from_address=address)
    var total = SIMD[DType.float64, width](0)
    var whole = size // width * width
    for i in range(0, whole, width):
        total += weights.unsafe_load[width=width](i).cast[DType.float64]()
    var sum = total.reduce_add()
    for i in range(whole, size):
        sum += weights[unsafe_offset=i].cast[DType.float64]()
    return sum


def pointwise_loss[
    dtype: DType, Loss: PointwiseLoss, Runner: Executor
](mut job: PointwiseJob[Loss], executor: Runner) -> Float64:
    """Computes the losses of all elements, and their gradient.

    The sum is taken in float64 and in one order, so that the number of threads
    does not change the bits.

    Parameters:
        dtype: Float32 or float64.
        Loss: The loss of an element.
        Runner: The type of the executor.

    Args:
        job: The elements.
        executor: Who runs the parts.

    Returns:
        The sum of the losses.
    """
    if job.size == 0:
        return 0
    var part = job.part_size()
    var parts = (job.size + part - 1) // part
    executor.execute(
        parts,
        max(1, GRAIN // part),
        _run_parts[dtype, Loss],
        Pointer(to=job)
        .unsafe_bitcast[NoneType]()
        .unsafe_origin_cast[MutUntrackedOrigin](),
    )
    var total = Float64(0)
    for i in range(parts):
        total += job.totals.unsafe_get(i)
    return total


def _run_parts[
    dtype: DType, Loss: PointwiseLoss
](begin: Int64, end: Int64, address: Address) abi("C") -> None:
    var job = address.unsafe_bitcast[PointwiseJob[Loss]]()
    for part in range(Int(begin), Int(end)):
        var total = Float64(0)
        var i = part * job[].part_size()
        var last = min(i + job[].part_size(), job[].size)
        while i < last:
            # A part may begin and end within a row.
            var column = i % job[].columns
            var count = min(last - i, job[].columns - column)
            total += _run_range[dtype, Loss](job[], i, column, count)
            i += count
        job[].totals.unsafe_get(part) = total


def _run_range[
    dtype: DType, Loss: PointwiseLoss
](job: PointwiseJob[Loss], first: Int, column: Int, count: Int) -> Float64:
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    var total = SIMD[DType.float64, width](0)
    for i in range(0, count, width):
        total += _run_vector[dtype, Loss](
            job, first + i, column + i, count - i
        ).cast[DType.float64]()
    return total.reduce_add()


@always_inline
def _run_vector[
    dtype: DType, Loss: PointwiseLoss
](job: PointwiseJob[Loss], index: Int, column: Int, count: Int) -> SIMD[
    dtype, simd_width_of[dtype]()
]:
    """Computes the next losses of a row; lanes behind its end are 0."""
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    comptime compute = compute_dtype[dtype]()
    var preds = Elements[dtype](unsafe_from_address=job.preds)
    var targets = Elements[dtype](unsafe_from_address=job.target)
    var weights = Elements[dtype](unsafe_from_address=job.weight)
    var positives = Elements[dtype](unsafe_from_address=job.positive)
    var losses = Elements[dtype](unsafe_from_address=job.losses)
    var gradient = Elements[dtype](unsafe_from_address=job.gradient)
    var scale = Lanes(job.scale.cast[dtype]())
    var weight = Lanes(1)
    var positive = Lanes(1)
    if count >= width:
        if job.weight != 0:
            weight = weights.unsafe_load[width=width](index)
        if job.positive != 0:
            positive = positives.unsafe_load[width=width](column)
        var result = job.rule.evaluate[dtype, width](
            preds.unsafe_load[width=width](index),
            targets.unsafe_load[width=width](index),
            positive,
        )
        var loss = result.loss * weight
        if job.losses != 0:
            losses.unsafe_store(index, loss)
        if job.gradient != 0:
            gradient.unsafe_store(index, result.slope * (weight * scale))
        return loss
    var is_loaded = iota[DType.int32, width]().lt(Int32(count))
    if job.weight != 0:
        weight = load_part[dtype, width](weights, index, count, 0).cast[dtype]()
    if job.positive != 0:
        positive = load_part[dtype, width](positives, column, count, 0).cast[
            dtype
        ]()
    var result = job.rule.evaluate[dtype, width](
        load_part[dtype, width](preds, index, count, 0).cast[dtype](),
        load_part[dtype, width](targets, index, count, 0).cast[dtype](),
        positive,
    )
    var loss = is_loaded.select(result.loss * weight, Lanes(0))
    if job.losses != 0:
        store_part[dtype, width](losses, index, count, loss.cast[compute]())
    if job.gradient != 0:
        var slope = result.slope * (weight * scale)
        store_part[dtype, width](gradient, index, count, slope.cast[compute]())
    return loss


def evaluate[
    dtype: DType, Loss: PointwiseLoss, Runner: Executor
](
    rule: Loss,
    preds: Span[mut=False, Scalar[dtype], _],
    target: Span[mut=False, Scalar[dtype], _],
    gradient: Span[mut=True, Scalar[dtype], _],
    executor: Runner,
) raises -> LossSum:
    """Computes the sum of the elements' losses and its gradient.

    Parameters:
        dtype: Float32 or float64.
        Loss: The loss of an element.
        Runner: The type of the executor.

    Args:
        rule: The loss of an element.
        preds: The predictions.
        target: What they should be.
        gradient: Where the gradient goes, as long as the predictions; or empty.
        executor: Who runs the elements.

    Returns:
        The sum, and the number of elements.

    Raises:
        Error: If a length does not fit.
    """
    if len(target) != len(preds):
        raise Error(
            "target must be as long as preds, ",
            len(preds),
            ", got ",
            len(target),
        )
    if len(gradient) != 0 and len(gradient) != len(preds):
        raise Error(
            "gradient must be as long as preds, ",
            len(preds),
            ", or empty, got ",
            len(gradient),
        )
    var job = PointwiseJob[Loss](
        rule=rule,
        preds=Int(preds.unsafe_ptr()),
        target=Int(target.unsafe_ptr()),
        size=len(preds),
        weight=0,
        positive=0,
        columns=max(1, len(preds)),
        scale=1,
        gradient=Int(gradient.unsafe_ptr()) if len(gradient) > 0 else 0,
        losses=0,
        totals=Array[Float64, PARTS](fill=0),
    )
    return LossSum(pointwise_loss[dtype](job, executor), Float64(len(preds)))
