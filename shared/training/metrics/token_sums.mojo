"""Sums over tokens that a language model has predicted, in one pass."""

from std.memory import unsafe_stack_allocation

from .column import BLOCK, LANES, Column, Lanes, pad
from .compensated_sum import CompensatedSum, LaneSums

comptime Ranks = MutPointer[Int32, MutUntrackedOrigin]
"""How many classes come before the target of each row; negative if ignored."""

comptime Numbers = MutPointer[Int64, MutUntrackedOrigin]
"""Targets, or the units of each class."""


@fieldwise_init
struct TokenSums(ImplicitlyCopyable, Movable):
    """What is known of tokens; Python holds it as rows of float64."""

    var nll: CompensatedSum
    """The sum of weighted negative log-likelihoods."""
    var count: CompensatedSum
    """The sum of weighted units: of ones, or of bytes."""
    var correct: CompensatedSum
    """The sum of the weights of tokens with the highest score."""

    def __init__(out self):
        """Starts with no tokens."""
        self.nll = CompensatedSum()
        self.count = CompensatedSum()
        self.correct = CompensatedSum()

    def merge(mut self, other: Self):
        """Takes further tokens in.

        Args:
            other: What is known of them.
        """
        self.nll.merge(other.nll)
        self.count.merge(other.count)
        self.correct.merge(other.correct)


@fieldwise_init
struct Units(ImplicitlyCopyable, Movable):
    """The units of tokens, such as bytes of text."""

    var of_class: Int
    """The address of the int64 units of each class; 0 if each has one."""
    var target: Int
    """The address of the int64 class of each row."""

    @always_inline
    def at(self, row: Int) -> Float64:
        """Looks the units of a row up.

        Args:
            row: A row that is not ignored.

        Returns:
            Its units.
        """
        if self.of_class == 0:
            return 1
        var target = Numbers(unsafe_from_address=self.target)
        var units = Numbers(unsafe_from_address=self.of_class)
        return Float64(units[unsafe_offset=Int(target[unsafe_offset=row])])


def sum_tokens(
    mut total: TokenSums,
    ranks: Ranks,
    nll: Column,
    weights: Column,
    units: Units,
    count: Int,
):
    """Adds rows up; those that are ignored or have no units are left out.

    Args:
        total: What is known so far.
        ranks: The rank of the target of each row.
        nll: The negative log-likelihood of each target; or none.
        weights: The weights, finite and at least 0; or none, for weights of 1.
        units: The units of each row.
        count: How many rows there are.
    """
    var x = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var w = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var u = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var c = unsafe_stack_allocation[BLOCK, Float64, alignment=64]()
    var nll_sums = LaneSums[LANES]()
    var count_sums = LaneSums[LANES]()
    var correct_sums = LaneSums[LANES]()
    for first in range(0, count, BLOCK):
        var read = min(BLOCK, count - first)
        nll.read(first, read, x)
        weights.read(first, read, w, 1)
        for i in range(read):
            var rank = ranks[unsafe_offset=first + i]
            var size = Float64(0)
            if rank >= 0:
                size = units.at(first + i)
            if size == 0:
                w[unsafe_offset=i] = 0
            u[unsafe_offset=i] = size
            c[unsafe_offset=i] = 1 if rank == 0 else 0
        pad(w, read, 0)
        pad(u, read, 0)
        pad(c, read, 0)
        pad(x, read, 0)
        for i in range(0, read, LANES):
            var factor = w.unsafe_load[width=LANES](i)
            # A likelihood that does not count may be NaN.
            var value = factor.eq(0).select(
                Lanes(0), x.unsafe_load[width=LANES](i)
            )
            nll_sums.add(factor * value)
            count_sums.add(factor * u.unsafe_load[width=LANES](i))
            correct_sums.add(factor * c.unsafe_load[width=LANES](i))
    nll_sums.add_to(total.nll)
    count_sums.add_to(total.count)
    correct_sums.add_to(total.correct)
