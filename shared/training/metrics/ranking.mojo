"""Scores in order, by a radix sort of keys that carry the label.

A key is the bits of a score without the sign, so that it has room for one bit
that tells whether the score's label is the positive one. Negative scores have
keys of their own range, with the bits inverted: both ranges ascend.
"""

from std.memory import bitcast, unsafe_memset_zero, unsafe_stack_allocation
from std.sys import size_of

from ..core import Words, pointer_at
from .scores import BLOCK, Blocks

comptime DIGIT_BITS = 11
"""Bits that a pass of the sort looks at."""

comptime _BUCKETS = 1 << DIGIT_BITS


struct RankingWord:
    """What `rank_scores` tells of the keys."""

    comptime POSITIVES = 0
    """How many scores have the positive label."""
    comptime BELOW = 1
    """The address of the keys of scores below 0."""
    comptime BELOW_COUNT = 2
    """How many scores are below 0."""
    comptime ABOVE = 3
    """The address of the keys of the other scores."""
    comptime ABOVE_COUNT = 4
    """How many other scores there are."""
    comptime END = 5
    """Number of words."""


def key_dtype[dtype: DType]() -> DType:
    """Names the dtype of a score's key.

    Parameters:
        dtype: The dtype of the score: float32 or float64.

    Returns:
        The unsigned integers of its size.
    """
    comptime if dtype == DType.float64:
        return DType.uint64
    else:
        return DType.uint32


def rank_scores[
    dtype: DType
](
    scores: Blocks,
    labels: Blocks,
    count: Int,
    positive: Int,
    ignore: Int,
    keys: Int,
    ranking: Words,
):
    """Sorts scores with their labels.

    Parameters:
        dtype: The dtype of the keys' scores: float32 or float64.

    Args:
        scores: Scores that are not NaN.
        labels: Their labels.
        count: How many there are, below 2^32.
        positive: The positive label.
        ignore: The label of scores to leave out.
        keys: The address of memory for `2 * count` keys.
        ranking: What to tell, `RankingWord`.
    """
    comptime key = key_dtype[dtype]()
    comptime SIGN = Scalar[key](1) << Scalar[key](8 * size_of[dtype]() - 1)
    var block = unsafe_stack_allocation[BLOCK, Scalar[dtype], alignment=64]()
    var names = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var memory = pointer_at[Scalar[key]](keys)
    # Scores below 0 fill the memory from its end.
    var above = 0
    var below = count
    var positives = 0
    for start in range(0, count, BLOCK):
        var here = min(BLOCK, count - start)
        scores.read(start, here, block.unsafe_bitcast[NoneType]())
        labels.read(start, here, names.unsafe_bitcast[NoneType]())
        for i in range(here):
            var label = Int(names[unsafe_offset=i])
            if label == ignore:
                continue
            var bits = bitcast[key, 1](block[unsafe_offset=i])
            var is_positive = label == positive
            var magnitude = bits & ~SIGN
            # There is one 0.
            var is_below = bits > SIGN
            var inverted = magnitude ^ ~SIGN
            var ordered = inverted if is_below else magnitude
            below -= Int(is_below)
            memory[unsafe_offset=below if is_below else above] = (
                ordered << 1
            ) | Scalar[key](Int(is_positive))
            above += Int(not is_below)
            positives += Int(is_positive)
    var spare = memory.unsafe_offset(count)
    ranking[unsafe_offset=RankingWord.POSITIVES] = Int64(positives)
    ranking[unsafe_offset=RankingWord.BELOW] = Int64(
        _sort[key](
            memory.unsafe_offset(below),
            spare.unsafe_offset(below),
            count - below,
        )
    )
    ranking[unsafe_offset=RankingWord.BELOW_COUNT] = Int64(count - below)
    ranking[unsafe_offset=RankingWord.ABOVE] = Int64(
        _sort[key](memory, spare, above)
    )
    ranking[unsafe_offset=RankingWord.ABOVE_COUNT] = Int64(above)


def _sort[
    key: DType
](
    keys: MutPointer[Scalar[key], MutUntrackedOrigin],
    spare: MutPointer[Scalar[key], MutUntrackedOrigin],
    count: Int,
) -> Int:
    # The lowest bit is the label, whose order does not matter.
    comptime PASSES = (8 * size_of[key]() - 2) // DIGIT_BITS + 1
    if count == 0:
        return Int(keys)
    var counts = unsafe_stack_allocation[
        PASSES * _BUCKETS, UInt32, alignment=64
    ]()
    unsafe_memset_zero(counts, PASSES * _BUCKETS)
    for i in range(count):
        var value = keys[unsafe_offset=i]
        comptime for p in range(PASSES):
            counts[unsafe_offset=p * _BUCKETS + _digit[p](value)] += 1
    var source = keys
    var target = spare
    comptime for p in range(PASSES):
        var ends = counts.unsafe_offset(p * _BUCKETS)
        # Where all have the same digit there is nothing to do.
        if Int(ends[unsafe_offset=_digit[p](source[])]) != count:
            var total = UInt32(0)
            for bucket in range(_BUCKETS):
                var size = ends[unsafe_offset=bucket]
                ends[unsafe_offset=bucket] = total
                total += size
            for i in range(count):
                var value = source[unsafe_offset=i]
                var bucket = _digit[p](value)
                var at = ends[unsafe_offset=bucket]
                target[unsafe_offset=Int(at)] = value
                ends[unsafe_offset=bucket] = at + 1
            swap(source, target)
    return Int(source)


@always_inline
def _digit[key: DType, //, index: Int](value: Scalar[key]) -> Int:
    return Int((value >> Scalar[key](1 + index * DIGIT_BITS)) & (_BUCKETS - 1))


def area_under_roc[dtype: DType](ranking: Words) -> Float64:
    """Counts the pairs of a positive and a negative score in the right order.

    That is the area under the ROC curve (Hanley and McNeil, 1982, "The meaning
    and use of the area under a receiver operating characteristic curve"). A
    pair of equal scores counts half. The count is exact.

    Parameters:
        dtype: The dtype of the keys' scores.

    Args:
        ranking: What `rank_scores` told, of fewer than 2^32 scores.

    Returns:
        Their fraction of all pairs, or NaN if there is none.
    """
    comptime key = key_dtype[dtype]()
    var below = Int(ranking[unsafe_offset=RankingWord.BELOW_COUNT])
    var above = Int(ranking[unsafe_offset=RankingWord.ABOVE_COUNT])
    var positives = Int(ranking[unsafe_offset=RankingWord.POSITIVES])
    var negatives = below + above - positives
    # A negative score has a pair in order with each positive that is above it,
    # and with each that is not below it: the sum counts each pair twice and
    # pairs of equals once.
    var pairs = 0
    var positives_seen = 0
    var negatives_seen = 0
    comptime for part in range(2):
        comptime word = RankingWord.BELOW if part == 0 else RankingWord.ABOVE
        var keys = pointer_at[Scalar[key]](Int(ranking[unsafe_offset=word]))
        # Of the scores below the present one.
        var positives_below = positives_seen
        var negatives_below = negatives_seen
        var last = ~Scalar[key](0)
        for i in range(below if part == 0 else above):
            var value = keys[unsafe_offset=i]
            var is_new = (value ^ last) > 1
            last = value
            positives_below = positives_seen if is_new else positives_below
            negatives_below = negatives_seen if is_new else negatives_below
            var label = Int(value & 1)
            pairs += (
                negatives_below if label == 1 else positives - positives_below
            )
            positives_seen += label
            negatives_seen += 1 - label
    return Float64(pairs) / (2 * Float64(positives) * Float64(negatives))


@always_inline
def _descend[
    dtype: DType, Body: def(Scalar[dtype], Int, Int) -> None
](ranking: Words, mut body: Body):
    # Calls the body at each distinct score, from the highest one down, with
    # the positives and the negatives that are at least as high.
    comptime key = key_dtype[dtype]()
    comptime MAGNITUDE = ~Scalar[key](0) >> 1
    var positives = 0
    var seen = 0
    comptime for part in range(2):
        comptime word = RankingWord.ABOVE if part == 0 else RankingWord.BELOW
        var keys = pointer_at[Scalar[key]](Int(ranking[unsafe_offset=word]))
        for i in reversed(range(Int(ranking[unsafe_offset=word + 1]))):
            var value = keys[unsafe_offset=i]
            positives += Int(value & 1)
            seen += 1
            if i > 0 and (keys[unsafe_offset=i - 1] ^ value) <= 1:
                continue
            var bits = value >> 1
            comptime if part == 1:
                bits = ~bits
            body(bitcast[dtype, 1](bits), positives, seen - positives)


def average_precision[dtype: DType](ranking: Words) -> Float64:
    """Sums the precision at each score, weighted by the gain in recall.

    Parameters:
        dtype: The dtype of the keys' scores.

    Args:
        ranking: What `rank_scores` told.

    Returns:
        The sum, or 0 if no score is positive.
    """
    var total = Float64(ranking[unsafe_offset=RankingWord.POSITIVES])
    var area = Float64(0)
    var part = Float64(0)
    var terms = 0
    var last = 0

    def add(score: Scalar[dtype], positives: Int, negatives: Int) {mut}:
        if positives == last:
            return
        part += Float64(positives - last) * (
            Float64(positives) / Float64(positives + negatives)
        )
        last = positives
        # Sums of sums, for the rounding of long ones.
        terms += 1
        if terms % 1024 == 0:
            area += part
            part = 0

    _descend[dtype](ranking, add)
    return (area + part) / total if total > 0 else 0


def count_at_thresholds[
    dtype: DType
](ranking: Words, thresholds: Int, positives: Words, negatives: Words) -> Int:
    """Counts the scores at and above each distinct one, from the highest down.

    Parameters:
        dtype: The dtype of the keys' scores.

    Args:
        ranking: What `rank_scores` told.
        thresholds: Where to write the distinct scores.
        positives: Where to write how many positives are at least as high.
        negatives: Where to write how many negatives are.

    Returns:
        How many distinct scores there are.
    """
    var scores = pointer_at[Scalar[dtype]](thresholds)
    var count = 0

    def write(score: Scalar[dtype], above: Int, others: Int) {mut count, imm}:
        scores[unsafe_offset=count] = score
        positives[unsafe_offset=count] = Int64(above)
        negatives[unsafe_offset=count] = Int64(others)
        count += 1

    _descend[dtype](ranking, write)
    return count
