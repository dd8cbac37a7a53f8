"""Mean, variance and range of values."""

from .column import Column
from .moments import ValueMoments, measure_values


struct RunningMoments(Copyable, Movable):
    """Mean, variance, least, greatest and number of values, in one pass.

    The variance is `sum((x - mean)^2) / n` of n values x. What is not finite is
    counted apart, and is in nothing else.
    """

    var state: ValueMoments
    """What was counted."""

    def __init__(out self):
        """Starts with nothing counted."""
        self.state = ValueMoments()

    def update[
        dtype: DType
    ](mut self, values: Span[mut=False, Scalar[dtype], _]):
        """Counts values.

        Parameters:
            dtype: A float dtype.

        Args:
            values: The values.
        """
        measure_values(
            self.state, Column.of(values), Column.none(), len(values)
        )

    def compute(self) raises -> ValueMoments:
        """Returns what is known of the values.

        Returns:
            Mean, range and counts; its `variance` computes the variance.

        Raises:
            Error: If no finite value was counted.
        """
        if self.state.count == 0:
            raise Error("no finite value was counted; call update first")
        return self.state

    def reset(mut self):
        """Forgets everything counted."""
        self = Self()

    def merge(mut self, other: Self):
        """Counts what another has counted, which is left as it is.

        Args:
            other: The other.
        """
        self.state.merge(other.state)
