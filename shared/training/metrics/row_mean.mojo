"""Means over rows of probabilities."""

from .class_counts import check_length
from .scores import ScoreBatch, checked_batch, read_block


trait RowSum:
    """Sums over the rows of a batch."""

    @staticmethod
    def add(batch: ScoreBatch, is_wide: Bool) -> Float64:
        """Sums the rows of a batch.

        Args:
            batch: Probabilities in [0, 1], read as float64, and labels.
            is_wide: Whether they are float64 in memory, too.

        Returns:
            The sum over the rows that are not ignored.
        """
        ...


struct RowMean[Sum: RowSum](Copyable, Movable):
    """The mean over rows of how bad their probabilities are.

    Parameters:
        Sum: What is summed.
    """

    var classes: Int
    """Probabilities of a row."""
    var ignore_index: Optional[Int]
    """The label of rows that do not count."""
    var total: Float64
    """The sum over rows."""
    var rows: Int
    """How many rows were counted."""

    def __init__(
        out self, classes: Int = 1, *, ignore_index: Optional[Int] = None
    ) raises:
        """Starts with nothing counted.

        Args:
            classes: Probabilities of a row, or 1 for that of label 1 alone.
            ignore_index: The label of rows that do not count.

        Raises:
            Error: If there is no class.
        """
        if classes < 1:
            raise Error("classes must be at least 1, got ", classes)
        self.classes = classes
        self.ignore_index = ignore_index
        self.total = 0
        self.rows = 0

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
        self.total += Self.Sum.add(batch, dtype == DType.float64)
        for label in target:
            self.rows += Int(Int(label) != batch.ignore)

    def compute(self) raises -> Float64:
        """Computes the mean.

        Returns:
            The mean over all rows.

        Raises:
            Error: If nothing was counted.
        """
        if self.rows == 0:
            raise Error("nothing was counted; call update first")
        return self.total / Float64(self.rows)

    def reset(mut self):
        """Forgets everything counted."""
        self.total = 0
        self.rows = 0

    def merge(mut self, other: Self) raises:
        """Counts what another has counted, which is left as it is.

        Args:
            other: One of as many classes.

        Raises:
            Error: If it has other classes.
        """
        check_length("other.classes", other.classes, self.classes)
        self.total += other.total
        self.rows += other.rows
