"""Sums that keep what rounding loses, by Knuth's two-sum.

Such a sum holds some 106 bits, so that the order in which numbers are added does
not change its value, unless they cancel to below 2^-50 of their size.
"""

from std.utils.numerics import isfinite


@fieldwise_init
struct CompensatedSum(ImplicitlyCopyable, Movable):
    """A sum in two numbers; the first one is the sum, rounded."""

    var high: Float64
    """The sum."""
    var low: Float64
    """What the rounding of `high` lost; 0 if the sum is not finite."""

    def __init__(out self):
        """Starts at 0."""
        self.high = 0
        self.low = 0

    @always_inline
    def add(mut self, value: Float64):
        """Adds a number.

        Args:
            value: The number.
        """
        var sum = self.high + value
        var part = sum - self.high
        self.low += (self.high - (sum - part)) + (value - part)
        self.high = sum
        self._normalize()

    def merge(mut self, other: Self):
        """Adds another sum.

        Args:
            other: The sum.
        """
        self.low += other.low
        self.add(other.high)

    @always_inline
    def _normalize(mut self):
        # An infinite sum has an error of NaN.
        if not isfinite(self.high):
            self.low = 0
            return
        var sum = self.high + self.low
        self.low -= sum - self.high
        self.high = sum


struct LaneSums[width: Int](ImplicitlyCopyable, Movable):
    """A compensated sum in each lane.

    Parameters:
        width: How many lanes.
    """

    comptime Lanes = SIMD[DType.float64, Self.width]
    """Numbers side by side."""

    var high: Self.Lanes
    """The sums."""
    var low: Self.Lanes
    """What was lost."""

    def __init__(out self):
        """Starts at 0."""
        self.high = 0
        self.low = 0

    @always_inline
    def add(mut self, values: Self.Lanes):
        """Adds a number to each lane.

        Args:
            values: The numbers.
        """
        var sum = self.high + values
        var part = sum - self.high
        self.low += (self.high - (sum - part)) + (values - part)
        self.high = sum

    def add_to(self, mut total: CompensatedSum):
        """Adds all lanes to a sum.

        Args:
            total: The sum.
        """
        for lane in range(Self.width):
            if isfinite(self.high[lane]):
                total.low += self.low[lane]
            total.add(self.high[lane])
