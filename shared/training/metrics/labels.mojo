"""Labels and scores of samples, read block by block as int64 codes."""

from std.math import inf

from ..core import compute_dtype, load, pointer_at
from ..core.rows import scan_row

comptime BLOCK = 1024
"""Samples whose codes are held at once."""

comptime WIDTH = 8
"""Lanes of a vector of codes."""

comptime NONE = -1
"""No code: a sample that does not count, or nothing that was predicted."""

comptime Codes = MutPointer[Int64, MutUntrackedOrigin]
"""The codes of a block."""

comptime ReadBlock = def(Int, Int, Int, Reading, Codes, Codes) thin -> Int
"""Reads a block: `(address, start, count, reading, target, codes)` to the index
in the block of the first value that is not allowed, or -1."""

comptime ScanBlock = def(Int, Int, Int, Int, Codes, Codes, Codes) thin -> Int
"""Reads rows of scores: `(address, stride, count, classes, target, predicted,
ranks)` to the first row with NaN, or -1."""


struct Place:
    """Where a value was found that is not allowed."""

    comptime TARGET = 0
    """In the target."""
    comptime PREDS = 1
    """In the predictions."""
    comptime WEIGHT = 2
    """In the weights."""
    comptime END = 3
    """How many places there are."""


@fieldwise_init
struct Reading(ImplicitlyCopyable, Movable):
    """What values are compared with."""

    var classes: Int
    """Classes are allowed in [0, classes)."""
    var ignore_index: Int
    """The class that does not count, which may be any."""
    var has_ignored: Bool
    """Whether there is one."""
    var top_k: Int
    """How many of the highest scores count as predicted, for ranks."""
    var threshold: Float64
    """A score above it predicts 1; a number of the scores' dtype."""
    var low: Float64
    """The lowest score that is allowed."""
    var high: Float64
    """The highest score that is allowed."""


trait Reader:
    """Reads values as codes."""

    @staticmethod
    def read[
        width: Int
    ](
        address: Int,
        index: Int,
        reading: Reading,
        target: SIMD[DType.int64, width],
        mut codes: SIMD[DType.int64, width],
    ) -> SIMD[DType.bool, width]:
        """Reads some values.

        Parameters:
            width: How many.

        Args:
            address: The address of all values.
            index: The index of the first.
            reading: What they are compared with.
            target: The codes of the target, for predictions.
            codes: Gets the codes.

        Returns:
            Which values are not allowed.
        """
        ...


struct TargetClasses[dtype: DType](Reader):
    """Reads the classes of samples: -1 where they are ignored.

    Parameters:
        dtype: An integer dtype.
    """

    @staticmethod
    @always_inline
    def read[
        width: Int
    ](
        address: Int,
        index: Int,
        reading: Reading,
        target: SIMD[DType.int64, width],
        mut codes: SIMD[DType.int64, width],
    ) -> SIMD[DType.bool, width]:
        """Reads some classes.

        Parameters:
            width: How many.

        Args:
            address: The address of all classes.
            index: The index of the first.
            reading: What they are compared with.
            target: Not used.
            codes: Gets the codes.

        Returns:
            Which are neither in [0, classes) nor ignored.
        """
        var classes = _integers[Self.dtype, width](address, index)
        var known = _is_class(classes, reading)
        var ignored = classes.eq(
            SIMD[DType.int64, width](reading.ignore_index)
        ) & SIMD[DType.bool, width](fill=reading.has_ignored)
        codes = (known & ~ignored).select(classes, -1)
        return ~(known | ignored)


struct PredictedClasses[dtype: DType](Reader):
    """Reads the predicted classes of samples that are not ignored.

    Parameters:
        dtype: An integer dtype.
    """

    @staticmethod
    @always_inline
    def read[
        width: Int
    ](
        address: Int,
        index: Int,
        reading: Reading,
        target: SIMD[DType.int64, width],
        mut codes: SIMD[DType.int64, width],
    ) -> SIMD[DType.bool, width]:
        """Reads some classes.

        Parameters:
            width: How many.

        Args:
            address: The address of all classes.
            index: The index of the first.
            reading: What they are compared with.
            target: The codes of the target.
            codes: Gets the codes.

        Returns:
            Which are not in [0, classes), of samples that are not ignored.
        """
        codes = _integers[Self.dtype, width](address, index)
        return ~_is_class(codes, reading) & target.ge(0)


struct Ranks(Reader):
    """Reads int32 ranks of the target: its code within the top k, else -1."""

    @staticmethod
    @always_inline
    def read[
        width: Int
    ](
        address: Int,
        index: Int,
        reading: Reading,
        target: SIMD[DType.int64, width],
        mut codes: SIMD[DType.int64, width],
    ) -> SIMD[DType.bool, width]:
        """Reads some ranks.

        Parameters:
            width: How many.

        Args:
            address: The address of all ranks.
            index: The index of the first.
            reading: What they are compared with.
            target: The codes of the target.
            codes: Gets the codes.

        Returns:
            Which are not in [0, classes), of samples that are not ignored.
        """
        var ranks = _integers[DType.int32, width](address, index)
        var top_k = SIMD[DType.int64, width](reading.top_k)
        codes = ranks.lt(top_k).select(target, NONE)
        return ~_is_class(ranks, reading) & target.ge(0)


struct Scores[dtype: DType](Reader):
    """Reads scores of the label 1: 1 above the threshold, else 0.

    Parameters:
        dtype: A float dtype.
    """

    @staticmethod
    @always_inline
    def read[
        width: Int
    ](
        address: Int,
        index: Int,
        reading: Reading,
        target: SIMD[DType.int64, width],
        mut codes: SIMD[DType.int64, width],
    ) -> SIMD[DType.bool, width]:
        """Reads some scores.

        Parameters:
            width: How many.

        Args:
            address: The address of all scores.
            index: The index of the first.
            reading: What they are compared with.
            target: The codes of the target.
            codes: Gets the codes.

        Returns:
            Which are not in [low, high], of samples that are not ignored.
        """
        comptime compute = compute_dtype[Self.dtype]()
        comptime Lanes = SIMD[compute, width]
        var scores = load[Self.dtype, width](
            pointer_at[Scalar[Self.dtype]](address), index
        )
        codes = scores.gt(Lanes(reading.threshold.cast[compute]())).select(
            SIMD[DType.int64, width](1), 0
        )
        # False for NaN.
        var allowed = scores.ge(Lanes(reading.low.cast[compute]())) & scores.le(
            Lanes(reading.high.cast[compute]())
        )
        return ~allowed & target.ge(0)


def read_block[
    Kind: Reader
](
    address: Int,
    start: Int,
    count: Int,
    reading: Reading,
    target: Codes,
    codes: Codes,
) -> Int:
    """Reads a block of values as codes.

    Parameters:
        Kind: How they are read.

    Args:
        address: The address of all values.
        start: The index of the block's first.
        count: How many.
        reading: What they are compared with.
        target: The codes of the target, for predictions.
        codes: Gets the codes.

    Returns:
        The index in the block of the first value that is not allowed, or -1.
    """
    var vectors = count // WIDTH * WIDTH
    for i in range(0, vectors, WIDTH):
        var read = SIMD[DType.int64, WIDTH](0)
        var bad = Kind.read[WIDTH](
            address,
            start + i,
            reading,
            target.unsafe_load[width=WIDTH](i),
            read,
        )
        codes.unsafe_store(i, read)
        if bad.reduce_or():
            for lane in range(WIDTH):
                if bad[lane]:
                    return i + lane
    for i in range(vectors, count):
        var read = SIMD[DType.int64, 1](0)
        var bad = Kind.read[1](
            address, start + i, reading, target.unsafe_load[width=1](i), read
        )
        codes.unsafe_store(i, read)
        if bad:
            return i
    return -1


def scan_scores[
    dtype: DType
](
    address: Int,
    stride: Int,
    count: Int,
    classes: Int,
    target: Codes,
    predicted: Codes,
    ranks: Codes,
) -> Int:
    """Reads rows of scores; of equal scores the first one is the highest.

    Parameters:
        dtype: A float dtype.

    Args:
        address: The address of the first row.
        stride: Elements from row to row; those of a row lie side by side.
        count: How many rows, at most `BLOCK`.
        classes: Scores of a row.
        target: The codes of the target.
        predicted: Gets the class with the highest score.
        ranks: Gets the number of classes before the target's.

    Returns:
        The first row with a score that is NaN, or -1.
    """
    var scores = pointer_at[Scalar[dtype]](address)
    for i in range(count):
        var actual = Int(target[unsafe_offset=i])
        if actual < 0:
            continue
        var row = scan_row[dtype](
            scores.unsafe_offset(i * stride), classes, actual
        )
        if row.has_nan:
            return i
        predicted[unsafe_offset=i] = Int64(row.predicted)
        ranks[unsafe_offset=i] = Int64(row.rank)
    return -1


def first_bad_weight(weights: Int, count: Int) -> Int:
    """Finds a weight that is negative or not finite.

    Args:
        weights: The address of float64 weights.
        count: How many there are.

    Returns:
        The index of the first, or -1.
    """
    var values = pointer_at[Float64](weights)
    for i in range(count):
        var weight = values[unsafe_offset=i]
        # False for NaN.
        if not (weight >= 0 and weight < inf[DType.float64]()):
            return i
    return -1


@always_inline
def _integers[
    dtype: DType, width: Int
](address: Int, index: Int) -> SIMD[DType.int64, width]:
    return (
        pointer_at[Scalar[dtype]](address)
        .unsafe_load[width=width](index)
        .cast[DType.int64]()
    )


@always_inline
def _is_class[
    width: Int
](values: SIMD[DType.int64, width], reading: Reading) -> SIMD[
    DType.bool, width
]:
    # Without a sign, negative numbers are too high.
    return values.cast[DType.uint64]().lt(
        SIMD[DType.uint64, width](UInt64(reading.classes))
    )
