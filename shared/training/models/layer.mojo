"""What a layer is."""

from ..core.memory import Elements
from .block import Block


struct ParameterSpec(ImplicitlyCopyable, Movable):
    """What a parameter tensor, or another one, is before training."""

    var rows: Int
    """Rows of a matrix; 1 of a vector."""
    var columns: Int
    """Columns of a matrix, or elements of a vector."""
    var bound: Float64
    """The elements are uniform in [-bound, bound]; negative for the constant `-bound`."""
    var deviation: Float64
    """Above 0, the elements are normal around 0 with this standard deviation instead."""
    var zeros: Int
    """The row whose elements are 0, or -1."""

    def __init__(
        out self,
        rows: Int,
        columns: Int,
        bound: Float64,
        *,
        deviation: Float64 = 0,
        zeros: Int = -1,
    ):
        """Describes a tensor.

        Args:
            rows: Rows of a matrix; 1 of a vector.
            columns: Columns of a matrix, or elements of a vector.
            bound: The elements are uniform in [-bound, bound]; negative for the constant `-bound`.
            deviation: Above 0, the standard deviation of normal elements.
            zeros: The row whose elements are 0, or -1.
        """
        self.rows = rows
        self.columns = columns
        self.bound = bound
        self.deviation = deviation
        self.zeros = zeros

    def size(self) -> Int:
        """Counts the elements.

        Returns:
            The number of elements.
        """
        return self.rows * self.columns


@fieldwise_init
struct ParameterLabel(Copyable, Movable):
    """What a parameter tensor is called in files."""

    var name: String
    """Its name in the layer, that of torch's module."""
    var shape: List[Int]
    """Its lengths, those of torch's tensor."""


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

    def label(self, index: Int) -> ParameterLabel:
        """Names a parameter tensor for files: a first one "weight", a second one "bias".

        Args:
            index: Which one.

        Returns:
            Its name, and its shape.
        """
        var spec = self.parameter(index)
        var name = String("parameter", index)
        if index < 2:
            name = "weight" if index == 0 else "bias"
        if spec.rows == 1:
            return ParameterLabel(name, [spec.columns])
        return ParameterLabel(name, [spec.rows, spec.columns])

    def bind(mut self, index: Int, value: Int, grad: Int):
        """Tells the layer where a parameter tensor lies.

        Args:
            index: Which one.
            value: Address of its first element.
            grad: Address of that of its gradient.
        """
        pass

    def buffers(self) -> Int:
        """Counts the tensors that the layer writes in training, such as running means.

        Returns:
            The number of tensors.
        """
        return 0

    def buffer(self, index: Int) -> ParameterSpec:
        """Describes a tensor that the layer writes.

        Args:
            index: Which one.

        Returns:
            Its size, and how it begins.
        """
        return ParameterSpec(0, 0, 0)

    def buffer_label(self, index: Int) -> ParameterLabel:
        """Names a tensor that the layer writes for files.

        Args:
            index: Which one.

        Returns:
            Its name, and its shape.
        """
        return ParameterLabel(
            String("buffer", index), [self.buffer(index).size()]
        )

    def bind_buffer(mut self, index: Int, value: Int):
        """Tells the layer where a tensor that it writes lies.

        Args:
            index: Which one.
            value: Address of its first element.
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
