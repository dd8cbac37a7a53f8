"""A loss as a sum and the count that its mean divides by."""


@fieldwise_init
struct LossSum(ImplicitlyCopyable, Movable):
    """What a loss returns whose mean does not divide by the number of samples."""

    var total: Float64
    """The sum over the items that count."""
    var count: Float64
    """How many items count, or the sum of their weights, at least 0."""

    def mean(self) -> Float64:
        """Divides the total by the count.

        Returns:
            The mean; 0 if the count is 0.
        """
        return 0 if self.count == 0 else self.total / self.count
