"""The weighted mean of values."""

from .column import Column
from .compensated_sum import CompensatedSum
from .moments import sum_values


struct Mean(Copyable, Movable):
    """The mean `sum(w x) / sum(w)` of values x with weights w.

    Both sums are compensated, so that any split of the values gives the same
    bits. NaN is not left out, unless its weight is 0.
    """

    var total: CompensatedSum
    """The sum of weighted values."""
    var weight: CompensatedSum
    """The sum of weights."""

    def __init__(out self):
        """Starts with nothing counted."""
        self.total = CompensatedSum()
        self.weight = CompensatedSum()

    def update(mut self, value: Float64, weight: Float64 = 1) raises:
        """Counts a value.

        Args:
            value: The value.
            weight: How often it counts, at least 0.

        Raises:
            Error: If the weight is negative or NaN. Nothing is counted then.
        """
        if not weight >= 0:
            raise Error("weight must be at least 0, got ", weight)
        if weight != 0:
            self.total.add(value * weight)
            self.weight.add(weight)

    def update[
        dtype: DType
    ](mut self, values: Span[mut=False, Scalar[dtype], _]):
        """Counts values, each of them once.

        Parameters:
            dtype: A float dtype.

        Args:
            values: The values.
        """
        sum_values(
            self.total,
            self.weight,
            Column.of(values),
            len(values),
            1,
            Column.none(),
        )

    def compute(self) raises -> Float64:
        """Computes the mean.

        Returns:
            The mean over everything counted.

        Raises:
            Error: If nothing was counted.
        """
        if self.weight.high == 0:
            raise Error("nothing was counted; call update first")
        return self.total.high / self.weight.high

    def reset(mut self):
        """Forgets everything counted."""
        self = Self()

    def merge(mut self, other: Self):
        """Counts what another has counted, which is left as it is.

        Args:
            other: The other.
        """
        self.total.merge(other.total)
        self.weight.merge(other.weight)
