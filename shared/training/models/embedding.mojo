"""Embeddings."""

from std.sys import simd_width_of

from ..core.memory import Elements
from .block import Block
from .layer import Layer, ParameterLabel, ParameterSpec


@fieldwise_init
struct Embedding[scalar: DType](ImplicitlyCopyable, Layer):
    """Looks up a row of a table for each feature, which is its whole number.

    The numbers are not checked, and must be in `[0, entries)`. Dimension `d` of feature `t` is
    feature `t * dimensions + d` of the output. Inputs get no gradient.

    Parameters:
        scalar: The dtype of samples and parameters.
    """

    comptime dtype = Self.scalar
    """The dtype of samples and parameters."""

    var features: Int
    """Features of an input."""
    var entries: Int
    """Rows of the table."""
    var dimensions: Int
    """Columns of the table."""
    var padding: Int
    """The row that gets no gradient, or -1."""
    var weight: Int
    """Address of the table."""
    var weight_grad: Int
    """Address of its gradient."""

    def __init__(
        out self,
        features: Int,
        entries: Int,
        dimensions: Int,
        padding: Int = -1,
    ):
        """Makes a layer whose table is bound later.

        Args:
            features: Features of an input.
            entries: Rows of the table.
            dimensions: Columns of the table.
            padding: The row that begins at 0 and gets no gradient, or -1.
        """
        self = Self(features, entries, dimensions, padding, 0, 0)

    def parameters(self) -> Int:
        """Counts the parameter tensors.

        Returns:
            1, the table.
        """
        return 1

    def parameter(self, index: Int) -> ParameterSpec:
        """Describes the table.

        Args:
            index: 0.

        Returns:
            Its size, and how it begins.
        """
        return ParameterSpec(
            self.entries, self.dimensions, 0, deviation=1, zeros=self.padding
        )

    def label(self, index: Int) -> ParameterLabel:
        """Names the table for files.

        Args:
            index: 0.

        Returns:
            Its name, and its shape.
        """
        return ParameterLabel("weight", [self.entries, self.dimensions])

    def bind(mut self, index: Int, value: Int, grad: Int):
        """Tells the layer where the table lies.

        Args:
            index: 0.
            value: Address of its first element.
            grad: Address of that of its gradient.
        """
        self.weight, self.weight_grad = value, grad

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
        return self.features * self.dimensions

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Looks up the rows of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Not used.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        var weight = Elements[Self.scalar](unsafe_from_address=self.weight)
        # What lies beyond the last sample in its vector is finite after this, too.
        var samples = (block.samples + width - 1) // width * width
        for t in range(self.features):
            var rows = y.unsafe_offset(t * self.dimensions * block.stride)
            for s in range(samples):
                var entry = 0
                if s < block.samples:
                    entry = Int(x[unsafe_offset=t * block.stride + s])
                var row = weight.unsafe_offset(entry * self.dimensions)
                for d in range(self.dimensions):
                    rows[unsafe_offset=d * block.stride + s] = row[
                        unsafe_offset=d
                    ]

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
        """Adds the gradient of each output to the row where it was looked up.

        Args:
            x: The inputs.
            y: The outputs, not read.
            kept: Not used.
            dy: The gradient of the outputs.
            dx: Where zeros go, the gradient of the inputs.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        var grads = Elements[Self.scalar](
            unsafe_from_address=self.weight_grad + block.grad_shift
        )
        if not block.accumulates:
            for at in range(self.entries * self.dimensions):
                grads[unsafe_offset=at] = 0
        for t in range(self.features):
            var rows = dy.unsafe_offset(t * self.dimensions * block.stride)
            for s in range(block.samples):
                var entry = Int(x[unsafe_offset=t * block.stride + s])
                if entry == self.padding:
                    continue
                var row = grads.unsafe_offset(entry * self.dimensions)
                for d in range(self.dimensions):
                    row[unsafe_offset=d] += rows[
                        unsafe_offset=d * block.stride + s
                    ]
        if needs_dx:
            for t in range(self.features):
                for s in range(block.stride):
                    dx[unsafe_offset=t * block.stride + s] = 0
