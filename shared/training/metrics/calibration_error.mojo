"""How often predictions of some confidence are right."""

from std.math import sqrt
from std.memory import unsafe_stack_allocation
from std.sys import simd_width_of

from ..core import Words, pointer_at, words_at
from .class_counts import check_length
from .scores import (
    BLOCK,
    ScoreBatch,
    checked_batch,
    read_block,
    uniform_thresholds,
)


def count_confidences(
    batch: ScoreBatch, edges: Int, bins: Int, counts: Words, sums: Int
):
    """Adds each row's confidence to its bin, and whether the row is right.

    The confidence of a row of several scores is the highest one, and the row is
    right if the first class that has it is the label. The confidence of one
    score is the score itself, and it is right where the label is 1.

    Args:
        batch: Scores in [0, 1], read as float64, and labels.
        edges: The address of the lower edges of the bins, float32, in order and
            from 0 to 1: bin `i` holds what is at least edge `i` and below the
            next, compared in float32.
        bins: How many bins there are.
        counts: How many rows each bin has; behind them how many are right.
        sums: The address of the sum of confidences of each bin, float64.
    """
    var scores = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var labels = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var limits = pointer_at[Float32](edges)
    var totals = pointer_at[Float64](sums)
    var classes = batch.classes
    var width = min(classes, BLOCK)
    var height = BLOCK // width
    for row in range(0, batch.rows, height):
        var rows = min(height, batch.rows - row)
        var count = rows * width
        batch.labels.read(row, rows, labels.unsafe_bitcast[NoneType]())
        batch.scores.read(
            row * classes, count, scores.unsafe_bitcast[NoneType]()
        )
        for r in range(rows):
            var label = Int(labels[unsafe_offset=r])
            if label == batch.ignore:
                continue
            var winner = _first_highest(scores.unsafe_offset(r * width), width)
            var best = scores[unsafe_offset=r * width + winner]
            # What does not fit into the block, of the only row in it.
            for column in range(width, classes, BLOCK):
                var columns = min(BLOCK, classes - column)
                batch.scores.read(
                    row * classes + column,
                    columns,
                    scores.unsafe_bitcast[NoneType](),
                )
                var other = _first_highest(scores, columns)
                if scores[unsafe_offset=other] > best:
                    best = scores[unsafe_offset=other]
                    winner = column + other
            var is_right = label == winner if batch.has_classes else label == 1
            var confidence = best.cast[DType.float32]()
            var bin = min(Int(confidence * Float32(bins - 1)), bins - 1)
            # The product is rounded, and so are the edges.
            while (
                bin + 1 < bins and limits[unsafe_offset=bin + 1] <= confidence
            ):
                bin += 1
            while limits[unsafe_offset=bin] > confidence:
                bin -= 1
            counts[unsafe_offset=bin] += 1
            counts[unsafe_offset=bins + bin] += Int64(Int(is_right))
            totals[unsafe_offset=bin] += best


@always_inline
def _first_highest(numbers: MutPointer[Float64, _], count: Int) -> Int:
    comptime W = simd_width_of[DType.float64]()
    var highest = numbers[]
    var i = 0
    if count >= W:
        var lanes = numbers.unsafe_load[width=W](0)
        i = W
        while i + W <= count:
            lanes = max(lanes, numbers.unsafe_load[width=W](i))
            i += W
        highest = lanes.reduce_max()
    while i < count:
        highest = max(highest, numbers[unsafe_offset=i])
        i += 1
    i = 0
    while i + 1 < count and numbers[unsafe_offset=i] != highest:
        i += 1
    return i


struct CalibrationError(Copyable, Movable):
    """The distance between confidence and accuracy over bins of confidence.

    With the mean confidence c, the accuracy a and the share w of the rows of
    each bin: "l1" is the sum of `w |a - c|`, "l2" the root of the sum of
    `w (a - c)^2`, and "max" the largest `|a - c|`.
    """

    var classes: Int
    """Probabilities of a row."""
    var norm: String
    """"l1", "l2" or "max"."""
    var ignore_index: Optional[Int]
    """The label of rows that do not count."""
    var edges: List[Float32]
    """The lower edges of the bins; the last bin is that of 1."""
    var counts: List[Int64]
    """The rows of each bin, and behind them how many are right."""
    var confidences: List[Float64]
    """The sum of confidences of each bin."""

    def __init__(
        out self,
        classes: Int = 1,
        *,
        bins: Int = 15,
        norm: String = "l1",
        ignore_index: Optional[Int] = None,
    ) raises:
        """Starts with nothing counted.

        Args:
            classes: Probabilities of a row, or 1 for that of label 1 alone.
            bins: How many bins there are below 1, at least 1.
            norm: "l1", "l2" or "max".
            ignore_index: The label of rows that do not count.

        Raises:
            Error: If a number or the norm is not allowed.
        """
        if classes < 1:
            raise Error("classes must be at least 1, got ", classes)
        if bins < 1:
            raise Error("bins must be at least 1, got ", bins)
        if norm != "l1" and norm != "l2" and norm != "max":
            raise Error("norm must be l1, l2 or max, got ", norm)
        self.classes = classes
        self.norm = norm
        self.ignore_index = ignore_index
        self.edges = uniform_thresholds(bins + 1)
        self.counts = List[Int64](length=2 * (bins + 1), fill=0)
        self.confidences = List[Float64](length=bins + 1, fill=0)

    def update[
        dtype: DType, target_dtype: DType
    ](
        mut self,
        probabilities: Span[Scalar[dtype], _],
        target: Span[Scalar[target_dtype], _],
    ) raises:
        """Counts rows.

        Parameters:
            dtype: A float dtype.
            target_dtype: An integer dtype.

        Args:
            probabilities: The probabilities, row by row.
            target: The label of each row.

        Raises:
            Error: If lengths do not fit, a label names no class, or a
                probability is not in [0, 1]. Nothing is counted then.
        """
        var batch = checked_batch(
            probabilities, target, self.classes, self.ignore_index, 0, 1
        )
        batch.scores.widen = read_block[dtype, DType.float64]
        count_confidences(
            batch,
            Int(self.edges.unsafe_ptr()),
            len(self.edges),
            words_at(Int(self.counts.unsafe_ptr())),
            Int(self.confidences.unsafe_ptr()),
        )

    def compute(self) raises -> Float64:
        """Computes the distance.

        Returns:
            The distance over all bins that have rows.

        Raises:
            Error: If nothing was counted.
        """
        var bins = len(self.edges)
        var rows = 0
        for b in range(bins):
            rows += Int(self.counts[b])
        if rows == 0:
            raise Error("nothing was counted; call update first")
        var sum = Float64(0)
        var largest = Float64(0)
        for b in range(bins):
            var count = Float64(self.counts[b])
            if count == 0:
                continue
            var right = Float64(self.counts[bins + b])
            var gap = abs(right - self.confidences[b]) / count
            largest = max(largest, gap)
            sum += (gap if self.norm == "l1" else gap * gap) * count
        if self.norm == "max":
            return largest
        sum /= Float64(rows)
        return sum if self.norm == "l1" else sqrt(sum)

    def reset(mut self):
        """Forgets everything counted."""
        for i in range(len(self.counts)):
            self.counts[i] = 0
        for i in range(len(self.confidences)):
            self.confidences[i] = 0

    def merge(mut self, other: Self) raises:
        """Counts what another has counted, which is left as it is.

        Args:
            other: One of as many classes and bins.

        Raises:
            Error: If it has others.
        """
        check_length("other.classes", other.classes, self.classes)
        check_length("other.edges", len(other.edges), len(self.edges))
        for i in range(len(self.counts)):
            self.counts[i] += other.counts[i]
        for i in range(len(self.confidences)):
            self.confidences[i] += other.confidences[i]
