"""Areas under curves of scores: exact ones, and those at thresholds."""

from std.utils.numerics import inf

from ..core import Words, compute_dtype, words_at
from .class_counts import check_length
from .ranking import RankingWord, key_dtype, rank_scores
from .score_bins import bin_scores
from .scores import (
    NONE_IGNORED,
    Blocks,
    checked_batch,
    read_block,
    uniform_thresholds,
)


trait CurveValue:
    """A value of the curve of scores against labels of 0 and 1."""

    @staticmethod
    def of_ranking[dtype: DType](ranking: Words) -> Float64:
        """Computes the value of scores in order.

        Parameters:
            dtype: The dtype of the scores, float32 or float64.

        Args:
            ranking: What `rank_scores` told.

        Returns:
            The value.
        """
        ...

    @staticmethod
    def of_bins(
        negatives: Span[Int64, _], positives: Span[Int64, _]
    ) -> Float64:
        """Computes the value of scores that were counted between thresholds.

        Args:
            negatives: The counts below all thresholds, and from each threshold
                to the next.
            positives: Those of positives.

        Returns:
            The value.
        """
        ...


struct RankedMetric[Value: CurveValue, dtype: DType = DType.float32](
    Copyable, Movable
):
    """The value of scores of label 1 that are kept, with each as a threshold.

    A score takes its size and one byte for its label, and `compute` takes twice
    the size of all scores on top.

    Parameters:
        Value: What is computed.
        dtype: The dtype of the scores: float32, float64, bfloat16 or float16.
    """

    comptime _wide = compute_dtype[Self.dtype]()

    var scores: List[Scalar[Self.dtype]]
    """The scores."""
    var labels: List[UInt8]
    """Their labels."""

    def __init__(out self):
        """Starts with nothing counted."""
        self.scores = []
        self.labels = []

    def update[
        target_dtype: DType
    ](
        mut self,
        scores: Span[Scalar[Self.dtype], _],
        target: Span[Scalar[target_dtype], _],
    ) raises:
        """Keeps scores and labels.

        Parameters:
            target_dtype: An integer dtype.

        Args:
            scores: Scores.
            target: The label of each, 0 or 1.

        Raises:
            Error: If lengths differ, a label is another, or a score is NaN.
                Nothing is counted then.
        """
        comptime infinity = inf[DType.float64]()
        _ = checked_batch(scores, target, 1, None, -infinity, infinity)
        for i in range(len(target)):
            self.scores.append(scores[i])
            self.labels.append(target[i].cast[DType.uint8]())

    def compute(self) raises -> Float64:
        """Computes the value.

        Returns:
            The value of everything kept.

        Raises:
            Error: If nothing was counted.
        """
        var count = len(self.scores)
        if count == 0:
            raise Error("nothing was counted; call update first")
        var keys = List[Scalar[key_dtype[Self._wide]()]](
            length=2 * count, fill=0
        )
        var words = List[Int64](length=RankingWord.END, fill=0)
        var ranking = words_at(Int(words.unsafe_ptr()))
        rank_scores[Self._wide](
            Blocks(
                Int(self.scores.unsafe_ptr()),
                1,
                read_block[Self.dtype, Self._wide],
            ),
            Blocks(
                Int(self.labels.unsafe_ptr()),
                1,
                read_block[DType.uint8, DType.int64],
            ),
            count,
            1,
            NONE_IGNORED,
            Int(keys.unsafe_ptr()),
            ranking,
        )
        var value = Self.Value.of_ranking[Self._wide](ranking)
        _ = keys^
        _ = words^
        return value

    def reset(mut self):
        """Forgets everything counted."""
        self.scores.clear()
        self.labels.clear()

    def merge(mut self, other: Self):
        """Keeps what another has kept, which is left as it is.

        Args:
            other: The other.
        """
        self.scores.extend(Span(other.scores))
        self.labels.extend(Span(other.labels))


struct BinnedMetric[Value: CurveValue](Copyable, Movable):
    """The value of scores that are counted between thresholds.

    Parameters:
        Value: What is computed.
    """

    var classes: Int
    """Scores of a row."""
    var ignore_index: Optional[Int]
    """The label of rows that do not count."""
    var thresholds: List[Float32]
    """The thresholds in ascending order, and infinity."""
    var is_uniform: Bool
    """Whether they divide [0, 1] into equal parts."""
    var counts: List[Int64]
    """For each class the negatives and then the positives of each bin."""

    def __init__(
        out self,
        thresholds: Int,
        classes: Int = 1,
        *,
        ignore_index: Optional[Int] = None,
    ) raises:
        """Starts with nothing counted, for probabilities.

        Args:
            thresholds: How many thresholds there are from 0 to 1; 2 to 65536.
            classes: Scores of a row, or 1 for that of label 1 alone.
            ignore_index: The label of rows that do not count.

        Raises:
            Error: If a number is not allowed.
        """
        if thresholds < 2 or thresholds > 65536:
            raise Error("thresholds must be in [2, 65536], got ", thresholds)
        var edges = uniform_thresholds(thresholds)
        self = Self(edges, classes, ignore_index=ignore_index)
        self.is_uniform = True

    def __init__(
        out self,
        thresholds: List[Float32],
        classes: Int = 1,
        *,
        ignore_index: Optional[Int] = None,
    ) raises:
        """Starts with nothing counted, for scores of any range.

        Args:
            thresholds: The thresholds in ascending order.
            classes: Scores of a row, or 1 for that of label 1 alone.
            ignore_index: The label of rows that do not count.

        Raises:
            Error: If there is no threshold or no class, or thresholds are in
                another order.
        """
        if classes < 1:
            raise Error("classes must be at least 1, got ", classes)
        if len(thresholds) == 0:
            raise Error("thresholds must hold a number, got none")
        for i in range(1, len(thresholds)):
            if not thresholds[i - 1] <= thresholds[i]:
                raise Error(
                    "thresholds must ascend, got ",
                    thresholds[i - 1],
                    " before ",
                    thresholds[i],
                )
        self.classes = classes
        self.ignore_index = ignore_index
        self.thresholds = thresholds.copy()
        self.thresholds.append(inf[DType.float32]())
        self.is_uniform = False
        self.counts = List[Int64](
            length=classes * 2 * len(self.thresholds), fill=0
        )

    def update[
        target_dtype: DType
    ](
        mut self,
        scores: Span[Float32, _],
        target: Span[Scalar[target_dtype], _],
    ) raises:
        """Counts scores.

        Parameters:
            target_dtype: An integer dtype.

        Args:
            scores: Scores, row by row.
            target: The class of each row, or 0 or 1 for rows of one score.

        Raises:
            Error: If lengths do not fit, a label names no class, or a score is
                NaN or, where thresholds are uniform, out of [0, 1]. Nothing is
                counted then.
        """
        comptime infinity = inf[DType.float64]()
        var batch = checked_batch(
            scores,
            target,
            self.classes,
            self.ignore_index,
            0 if self.is_uniform else -infinity,
            1 if self.is_uniform else infinity,
        )
        var size = len(self.thresholds) - 1
        var edges = Int(self.thresholds.unsafe_ptr())
        var counts = words_at(Int(self.counts.unsafe_ptr()))
        if self.is_uniform:
            bin_scores[DType.float32, True](batch, edges, size, counts)
        else:
            bin_scores[DType.float32, False](batch, edges, size, counts)

    def value(self, index: Int = 0) -> Float64:
        """Computes the value of one class against the rest.

        Args:
            index: The class.

        Returns:
            The value.
        """
        var bins = len(self.thresholds)
        var counts = Span(self.counts)
        var first = 2 * index * bins
        return Self.Value.of_bins(
            counts[first : first + bins],
            counts[first + bins : first + 2 * bins],
        )

    def compute(self) raises -> Float64:
        """Computes the mean of the values of all classes.

        Returns:
            The mean.

        Raises:
            Error: If nothing was counted.
        """
        var total = Int64(0)
        for count in self.counts:
            total += count
        if total == 0:
            raise Error("nothing was counted; call update first")
        var sum = Float64(0)
        for index in range(self.classes):
            sum += self.value(index)
        return sum / Float64(self.classes)

    def reset(mut self):
        """Forgets everything counted."""
        for i in range(len(self.counts)):
            self.counts[i] = 0

    def merge(mut self, other: Self) raises:
        """Counts what another has counted, which is left as it is.

        Args:
            other: One of the same thresholds and of as many classes.

        Raises:
            Error: If it has others.
        """
        check_length("other.classes", other.classes, self.classes)
        if other.thresholds != self.thresholds:
            raise Error("other must have the same thresholds")
        for i in range(len(self.counts)):
            self.counts[i] += other.counts[i]
