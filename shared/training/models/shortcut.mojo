"""Both ends of a shortcut around other layers of a table."""

from std.sys import simd_width_of

from ..core.memory import Elements
from .block import Block, add_rows
from .layer import Layer


@fieldwise_init
struct ShortcutStart[scalar: DType](ImplicitlyCopyable, Layer):
    """Copies inputs to where the end of the shortcut finds them.

    Outputs are inputs, at the same address. Both ends keep at one address.

    Parameters:
        scalar: The dtype of samples.
    """

    comptime dtype = Self.scalar
    """The dtype of samples."""

    var features: Int
    """Features of an input, and of an output."""

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
        """Counts the inputs.

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
        """Keeps the inputs.

        Args:
            x: The inputs.
            y: The same.
            kept: Where they go.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        for f in range(self.features):
            var row = f * block.stride
            for at in range(row, row + block.samples, width):
                kept.unsafe_store[width=width](
                    at, x.unsafe_load[width=width](at)
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
        """Adds the gradient that came through the shortcut.

        Args:
            x: The inputs.
            y: The same.
            kept: The gradient of the end's outputs.
            dy: The gradient of what went on.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        if needs_dx:
            add_rows(dx, dy, kept, self.features, block)


@fieldwise_init
struct ShortcutEnd[scalar: DType](ImplicitlyCopyable, Layer):
    """Adds what its start kept.

    Parameters:
        scalar: The dtype of samples.
    """

    comptime dtype = Self.scalar
    """The dtype of samples."""

    var features: Int
    """Features of an input, and of an output."""

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

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Adds the inputs of the start.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: The inputs of the start.
            block: The samples.
        """
        add_rows(y, x, kept, self.features, block)

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
        """Passes the gradient on to both.

        Args:
            x: The inputs.
            y: The outputs.
            kept: Where the start finds the gradient.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        if not needs_dx:
            return
        for f in range(self.features):
            var row = f * block.stride
            for at in range(row, row + block.samples, width):
                var grad = dy.unsafe_load[width=width](at)
                kept.unsafe_store[width=width](at, grad)
                dx.unsafe_store[width=width](at, grad)
