"""Scores and labels in memory, read block by block, and what is wrong with them."""

from std.memory import unsafe_stack_allocation
from std.sys import simd_width_of

from ..core import Address, compute_dtype, load, pointer_at
from .class_counts import check_length

comptime BLOCK = 256
"""Numbers that are widened at a time."""

comptime NONE_IGNORED = Int.MIN
"""The label to ignore where all of them count."""

comptime ReadBlock = def(Int, Int, Int, Int, Address) thin -> None
"""Widens numbers: address, stride, first index, how many, where to."""


def read_block[
    dtype: DType, wide: DType
](address: Int, stride: Int, start: Int, count: Int, target: Address):
    """Widens a block of numbers.

    Parameters:
        dtype: The dtype in memory.
        wide: The dtype to widen to, which represents each value of `dtype`.

    Args:
        address: The address of number 0.
        stride: The distance of neighbours, in elements.
        start: The index of the first number.
        count: How many there are.
        target: Where to write them, side by side.
    """
    comptime W = simd_width_of[wide]()
    var source = pointer_at[Scalar[dtype]](address)
    var numbers = target.unsafe_bitcast[Scalar[wide]]()
    var i = 0
    if stride == 1:
        while i + W <= count:
            numbers.unsafe_store(i, _widened[dtype, wide, W](source, start + i))
            i += W
    while i < count:
        numbers[unsafe_offset=i] = _widened[dtype, wide, 1](
            source, (start + i) * stride
        )
        i += 1


@always_inline
def _widened[
    dtype: DType, wide: DType, width: Int
](source: MutPointer[Scalar[dtype], MutUntrackedOrigin], index: Int) -> SIMD[
    wide, width
]:
    comptime if dtype.is_floating_point():
        return load[dtype, width](source, index).cast[wide]()
    else:
        return source.unsafe_load[width=width](index).cast[wide]()


@fieldwise_init
struct Blocks(ImplicitlyCopyable, Movable):
    """Numbers in memory of any dtype, which are read a block at a time."""

    var address: Int
    """The address of number 0."""
    var stride: Int
    """The distance of neighbours, in elements."""
    var widen: ReadBlock
    """Reads a block of their dtype."""

    @always_inline
    def read(self, start: Int, count: Int, target: Address):
        """Widens numbers.

        Args:
            start: The index of the first one.
            count: How many.
            target: Where to write them, side by side.
        """
        self.widen(self.address, self.stride, start, count, target)


@fieldwise_init
struct ScoreBatch(ImplicitlyCopyable, Movable):
    """Scores of rows, each for all classes, and what they should be."""

    var scores: Blocks
    """The scores, row by row."""
    var labels: Blocks
    """A class for each row, or 0 or 1 for each score."""
    var rows: Int
    """How many rows there are."""
    var classes: Int
    """Scores of a row, at least 1."""
    var has_classes: Bool
    """Whether there is a label for each row and not for each score."""
    var ignore: Int
    """The label of what does not count, or `NONE_IGNORED`."""

    def find_problem[dtype: DType](self, low: Float64, high: Float64) -> Int:
        """Looks for labels that name no class, and for bad scores of the others.

        Parameters:
            dtype: The dtype that scores are widened to.

        Args:
            low: The least score that is allowed.
            high: The highest score that is allowed; NaN never is.

        Returns:
            0 if there is none, `-1 - index` of the first bad label, or else
            `1 + index` of the first bad score.
        """
        var count = self.rows * self.classes
        var labels = self.rows if self.has_classes else count
        var classes = self.classes if self.has_classes else 2
        var bad = _first_unknown(self.labels, labels, classes, self.ignore)
        if bad >= 0:
            return -1 - bad
        var start = 0
        while start < count:
            bad = _first_outside[dtype](self.scores, start, count, low, high)
            if bad < 0 or not self._is_ignored(bad):
                return 1 + bad
            start = bad + 1
        return 0

    def _is_ignored(self, score: Int) -> Bool:
        var label = unsafe_stack_allocation[1, Int64]()
        self.labels.read(
            score // self.classes if self.has_classes else score,
            1,
            label.unsafe_bitcast[NoneType](),
        )
        return Int(label[]) == self.ignore


def _first_outside[
    dtype: DType
](scores: Blocks, first: Int, count: Int, low: Float64, high: Float64) -> Int:
    # The index of the first score from `first` on that is NaN or out of range.
    comptime W = simd_width_of[dtype]()
    var numbers = unsafe_stack_allocation[BLOCK, Scalar[dtype], alignment=64]()
    var least = Scalar[dtype](low)
    var most = Scalar[dtype](high)
    for start in range(first, count, BLOCK):
        var here = min(BLOCK, count - start)
        scores.read(start, here, numbers.unsafe_bitcast[NoneType]())
        var is_inside = SIMD[DType.bool, W](fill=True)
        var i = 0
        while i + W <= here:
            var lanes = numbers.unsafe_load[width=W](i)
            is_inside = is_inside & lanes.ge(least) & lanes.le(most)
            i += W
        if is_inside.reduce_and():
            # Only the end of the last block is left.
            while i < here and least <= numbers[unsafe_offset=i] <= most:
                i += 1
            if i == here:
                continue
        for j in range(here):
            if not least <= numbers[unsafe_offset=j] <= most:
                return start + j
    return -1


def _first_unknown(
    labels: Blocks, count: Int, classes: Int, ignore: Int
) -> Int:
    # The index of the first label that names no class, or -1.
    var numbers = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    for start in range(0, count, BLOCK):
        var here = min(BLOCK, count - start)
        labels.read(start, here, numbers.unsafe_bitcast[NoneType]())
        for i in range(here):
            var label = Int(numbers[unsafe_offset=i])
            if not 0 <= label < classes and label != ignore:
                return start + i
    return -1


def checked_batch[
    dtype: DType, target_dtype: DType
](
    scores: Span[Scalar[dtype], _],
    target: Span[Scalar[target_dtype], _],
    classes: Int,
    ignore_index: Optional[Int],
    low: Float64,
    high: Float64,
) raises -> ScoreBatch:
    """Describes scores of rows and a label for each row, if they are valid.

    Parameters:
        dtype: A float dtype.
        target_dtype: An integer dtype.

    Args:
        scores: The scores, row by row; they must outlive the batch.
        target: The class of each row, or 0 or 1 for rows of one score; it must
            outlive the batch.
        classes: Scores of a row.
        ignore_index: The label of what does not count.
        low: The least score that is allowed.
        high: The highest score that is allowed; NaN never is.

    Returns:
        The batch.

    Raises:
        Error: If lengths do not fit, a label names no class, or a score is not
            allowed.
    """
    check_length("scores", len(scores), len(target) * classes)
    var batch = ScoreBatch(
        Blocks(
            Int(scores.unsafe_ptr()),
            1,
            read_block[dtype, compute_dtype[dtype]()],
        ),
        Blocks(
            Int(target.unsafe_ptr()), 1, read_block[target_dtype, DType.int64]
        ),
        len(target),
        classes,
        classes > 1,
        ignore_index.or_else(NONE_IGNORED),
    )
    var problem = batch.find_problem[compute_dtype[dtype]()](low, high)
    if problem < 0:
        var index = -1 - problem
        raise Error(
            "target[",
            index,
            "] is ",
            target[index],
            ", must be in [0, ",
            max(classes, 2),
            ")",
        )
    if problem > 0:
        raise Error(
            "scores[",
            problem - 1,
            "] is ",
            scores[problem - 1],
            ", must be in [",
            low,
            ", ",
            high,
            "]",
        )
    return batch


def uniform_thresholds(count: Int) -> List[Float32]:
    """Divides [0, 1] into equal parts, with the numbers of torch.linspace.

    Args:
        count: How many numbers, at least 2.

    Returns:
        The numbers from 0 to 1.
    """
    # From both ends to the middle.
    var step = 1 / Float32(count - 1)
    var numbers: List[Float32] = []
    for i in range(count):
        if i < count // 2:
            numbers.append(step * Float32(i))
        else:
            numbers.append(1 - step * Float32(count - 1 - i))
    return numbers^
