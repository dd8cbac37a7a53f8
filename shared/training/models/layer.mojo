"""What a layer is."""

from ..core.memory import Elements
from .block import Block


@fieldwise_init
struct ParameterSpec(ImplicitlyCopyable, Movable):
    """What a parameter tensor is before training."""

    var rows: Int
    """Rows of a matrix; 1 of a vector."""
    var columns: Int
    """Columns of a matrix, or elements of a vector."""
    var bound: Float64
    """The elements are uniform in [-bound, bound]; negative for the constant `-bound`."""

    def size(self) -> Int:
        """Counts the elements.

        Returns:
            The number of elements.
        """
        return self.rows * self.columns


trait Layer(Deinitable, Movable):
    """A function of samples, with its gradient: a part of a model, or a whole one.

    A layer owns no memory: its parameters, their gradients, and all that it reads and writes
    belong to the network.
    """

    comptime dtype: DType
    """The dtype of samples and parameters: float32 or float64."""

    def parameters(self) -> Int:
        """Counts the parameter tensors.

        Returns:
            The number of tensors.
        """
        return 0

    def parameter(self, index: Int) -> ParameterSpec:
        """Describes a parameter tensor.

        Args:
            index: Which one.

        Returns:
            Its size, and how it begins.
        """
        return ParameterSpec(0, 0, 0)

    def bind(mut self, index: Int, value: Int, grad: Int):
        """Tells the layer where a parameter tensor lies.

        Args:
            index: Which one.
            value: Address of its first element.
            grad: Address of that of its gradient.
        """
        pass

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
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        ...
