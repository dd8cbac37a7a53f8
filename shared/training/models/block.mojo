"""The samples that go through a network together."""

from std.sys import simd_width_of

from ..core.memory import Elements


@fieldwise_init
struct Block(ImplicitlyCopyable, Movable):
    """Some samples of a batch, whose features are rows of one length.

    Feature `f` of sample `s` is element `f * stride + s`. Rows hold whole vectors; what lies
    beyond the last sample is finite, and has a gradient of 0.
    """

    var samples: Int
    """How many samples there are, at least 1."""
    var stride: Int
    """Elements of a row, a multiple of the lanes of a vector."""
    var first: Int
    """The place of the first sample in its batch."""
    var step: Int
    """How many batches came before, which random masks depend on."""
    var is_training: Bool
    """Whether dropout drops, and batch statistics are taken."""
    var accumulates: Bool
    """Whether gradients of parameters are added to what is there."""
    var grad_shift: Int
    """Bytes from the gradients that a layer knows to those of this thread."""
    var seed: Int
    """Where the random numbers begin."""


def add_rows[
    dtype: DType
](
    sum: Elements[dtype],
    left: Elements[dtype],
    right: Elements[dtype],
    features: Int,
    block: Block,
):
    """Adds the features of a block.

    Parameters:
        dtype: Float32 or float64.

    Args:
        sum: Where the sums go; it may be one of the others.
        left: What is added.
        right: What it is added to.
        features: How many rows there are.
        block: The samples.
    """
    comptime width = simd_width_of[dtype]()
    for f in range(features):
        var row = f * block.stride
        for at in range(row, row + block.samples, width):
            sum.unsafe_store[width=width](
                at,
                left.unsafe_load[width=width](at)
                + right.unsafe_load[width=width](at),
            )
