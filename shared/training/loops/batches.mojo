"""Which samples each batch of an epoch has."""

comptime STRIDE = UInt64(0x9E37_79B9_7F4A_7C15)
"""How far two states of the generator lie apart."""


struct Batches(Movable):
    """The samples of each epoch in an order that a seed and the epoch decide."""

    var order: List[Int64]
    """The samples of the epoch, in order."""
    var batch_size: Int
    """Samples in a batch; the last one may be smaller."""
    var is_shuffled: Bool
    """Whether each epoch has an order of its own."""
    var seed: Int
    """What the orders depend on, besides the epoch."""

    def __init__(
        out self,
        samples: Int,
        batch_size: Int,
        *,
        is_shuffled: Bool = True,
        seed: Int = 0,
    ):
        """Starts with the samples in their own order.

        Args:
            samples: How many samples there are.
            batch_size: Samples in a batch.
            is_shuffled: Whether each epoch has an order of its own.
            seed: What the orders depend on, besides the epoch.
        """
        self.order = [Int64(i) for i in range(samples)]
        self.batch_size = batch_size
        self.is_shuffled = is_shuffled
        self.seed = seed

    def begin_epoch(mut self, epoch: Int):
        """Shuffles the samples (Fisher and Yates, 1938; Durstenfeld, 1964).

        Nothing but the seed and the epoch decides, so that a run that goes on
        sees what it would have seen: the numbers are those of SplitMix64 (Steele,
        Lea and Flood, 2014).

        Args:
            epoch: The epoch, counted from 0.
        """
        if not self.is_shuffled:
            return
        var samples = len(self.order)
        for i in range(samples):
            self.order[i] = Int64(i)
        var state = _mixed(_mixed(UInt64(self.seed) + STRIDE) + UInt64(epoch))
        for i in range(samples - 1, 0, -1):
            state += STRIDE
            # Numbers are uniform but for some 1e-19 times the samples.
            var j = Int(_mixed(state) % UInt64(i + 1))
            var kept = self.order[i]
            self.order[i] = self.order[j]
            self.order[j] = kept

    def count(self) -> Int:
        """Counts the batches.

        Returns:
            The number of batches of an epoch.
        """
        return (len(self.order) + self.batch_size - 1) // self.batch_size

    def batch(self, index: Int) -> Span[Int64, origin_of(self.order)]:
        """Views a batch.

        Args:
            index: Which one.

        Returns:
            Its samples.
        """
        var first = index * self.batch_size
        var last = min(first + self.batch_size, len(self.order))
        return Span(self.order)[first:last]


def _mixed(state: UInt64) -> UInt64:
    var bits = (state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D0_49BB_1331_11EB
    return bits ^ (bits >> 31)
