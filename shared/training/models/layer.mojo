"""What a layer is."""

from ..core.memory import Elements
from .block import Block


trait Layer(Deinitable, Movable):
    """A function of samples, with its gradient.

    A layer owns no memory: its parameters, their gradients, and all that it reads and writes
    belong to the network.
    """

    comptime dtype: DType
    """The dtype of samples and parameters: float32 or float64."""

    def inputs(self) -> Int:
        """Counts the features of a sample that the layer reads.

        Returns:
            The number of features.
        """
        ...

    def outputs(self) -> Int:
        """Counts the features of a sample that the layer writes.

        Returns:
            The number of features.
        """
        ...

    def kept(self, stride: Int) -> Int:
        """Counts what the forward pass keeps for the backward pass.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        return 0

    def forward(
        self,
        x: Elements[Self.dtype],
        y: Elements[Self.dtype],
        kept: Elements[Self.dtype],
        block: Block,
    ):
        """Computes the outputs of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Where to keep what the gradient needs.
            block: The samples.
        """
        ...

    def backward(
        self,
        x: Elements[Self.dtype],
        y: Elements[Self.dtype],
        kept: Elements[Self.dtype],
        dy: Elements[Self.dtype],
        dx: Elements[Self.dtype],
        needs_dx: Bool,
        block: Block,
    ):
        """Computes the gradients of the parameters, and of the inputs.

        Args:
            x: The inputs.
            y: The outputs.
            kept: What the forward pass kept.
            dy: The gradient of the outputs; it may be overwritten.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        ...
