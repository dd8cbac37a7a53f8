"""Dropout."""

from std.math import iota
from std.sys import simd_width_of

from ..core.memory import Elements
from ..core.philox import philox
from .block import Block
from .layer import Layer


@fieldwise_init
struct Dropout[scalar: DType](ImplicitlyCopyable, Layer):
    """Sets features to 0 with probability `p` in training, and divides the others by `1 - p`.

    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 15, 2014. What is set to 0 is a function of the seed, the step, the place of the sample in
    its batch, the feature and the stream: no matter which thread computes it.

    Parameters:
        scalar: The dtype of samples.
    """

    comptime dtype = Self.scalar
    """The dtype of samples."""

    var features: Int
    """Features of an input, and of an output."""
    var p: Float64
    """The probability, in [0, 1)."""
    var stream: Int
    """Tells the dropouts of a model from each other."""

    def inputs(self) -> Int:
        """Counts the features of an input.

        Returns:
            The number of features.
        """
        return self.features

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            The number of features.
        """
        return self.features

    def kept(self, stride: Int) -> Int:
        """Counts the factors.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        return self.features * stride

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Drops features in training, and copies them otherwise.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Where the factors go, 0 or `1 / (1 - p)`.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        comptime Counters = SIMD[DType.uint32, width]
        if not block.is_training:
            for f in range(self.features):
                for s in range(0, block.samples, width):
                    var at = f * block.stride + s
                    y.unsafe_store[width=width](
                        at, x.unsafe_load[width=width](at)
                    )
            return
        var scale = Lanes((1 / (1 - self.p)).cast[Self.scalar]())
        var threshold = UInt32(min(Int(self.p * 4294967296.0), 4294967295))
        for f in range(0, self.features, 4):
            for s in range(0, block.samples, width):
                var words = philox[width](
                    Counters(UInt32(block.step & 0xFFFFFFFF)),
                    iota[DType.uint32, width]() + UInt32(block.first + s),
                    Counters(UInt32(f // 4)),
                    Counters(UInt32(self.stream)),
                    UInt64(block.seed),
                )
                comptime for k in range(4):
                    if f + k < self.features:
                        var at = (f + k) * block.stride + s
                        var factor = (
                            words[k].ge(threshold).select(scale, Lanes(0))
                        )
                        kept.unsafe_store[width=width](at, factor)
                        y.unsafe_store[width=width](
                            at, x.unsafe_load[width=width](at) * factor
                        )

    def backward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        dy: Elements[Self.scalar],
        dx: Elements[Self.scalar],
        needs_dx: Bool,
        block: Block,
    ):
        """Multiplies the gradient by the factors.

        Args:
            x: The inputs, not read.
            y: The outputs, not read.
            kept: The factors.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        if not needs_dx:
            return
        for f in range(self.features):
            for s in range(0, block.samples, width):
                var at = f * block.stride + s
                dx.unsafe_store[width=width](
                    at,
                    dy.unsafe_load[width=width](at)
                    * kept.unsafe_load[width=width](at),
                )
