"""Layers one after the other, and around a shortcut."""

from ..core.matmul import padded
from ..core.memory import Elements
from .block import Block, add_rows
from .layer import Layer, ParameterLabel, ParameterSpec


struct Sequential[*Layers: Layer](Layer):
    """Layers of which each reads what the one before it wrote.

    Parameters:
        Layers: The types of the layers, all of one dtype.
    """

    comptime dtype = Self.Layers[0].dtype
    """The dtype of samples and parameters."""
    comptime COUNT = len(Self.Layers)
    """The number of layers."""

    var layers: Tuple[*Self.Layers]
    """The layers."""

    def __init__(out self, var layers: Tuple[*Self.Layers]):
        """Takes layers.

        Args:
            layers: The layers; each reads as many features as the one before writes.
        """
        self.layers = layers^

    def parameters(self) -> Int:
        """Counts the parameter tensors.

        Returns:
            Those of all layers.
        """
        var count = 0
        comptime for i in range(Self.COUNT):
            count += self.layers[i].parameters()
        return count

    def parameter(self, index: Int) -> ParameterSpec:
        """Describes a parameter tensor.

        Args:
            index: Which one, counted through the layers.

        Returns:
            Its size, and how it begins.
        """
        var rest = index
        comptime for i in range(Self.COUNT):
            var count = self.layers[i].parameters()
            if 0 <= rest < count:
                return self.layers[i].parameter(rest)
            rest -= count
        return ParameterSpec(0, 0, 0)

    def label(self, index: Int) -> ParameterLabel:
        """Names a parameter tensor for files: `0.weight`, `0.bias`, `2.weight`.

        Args:
            index: Which one, counted through the layers.

        Returns:
            Its name behind the number of its layer, and its shape.
        """
        var rest = index
        comptime for i in range(Self.COUNT):
            var count = self.layers[i].parameters()
            if 0 <= rest < count:
                var label = self.layers[i].label(rest)
                label.name = String(i, ".", label.name)
                return label^
            rest -= count
        return ParameterLabel("", [])

    def bind(mut self, index: Int, value: Int, grad: Int):
        """Tells the layer whose it is where a parameter tensor lies.

        Args:
            index: Which one, counted through the layers.
            value: Address of its first element.
            grad: Address of that of its gradient.
        """
        var rest = index
        comptime for i in range(Self.COUNT):
            var count = self.layers[i].parameters()
            if 0 <= rest < count:
                self.layers[i].bind(rest, value, grad)
            rest -= count

    def buffers(self) -> Int:
        """Counts the tensors that the layers write.

        Returns:
            Those of all layers.
        """
        var count = 0
        comptime for i in range(Self.COUNT):
            count += self.layers[i].buffers()
        return count

    def buffer(self, index: Int) -> ParameterSpec:
        """Describes a tensor that a layer writes.

        Args:
            index: Which one, counted through the layers.

        Returns:
            Its size, and how it begins.
        """
        var rest = index
        comptime for i in range(Self.COUNT):
            var count = self.layers[i].buffers()
            if 0 <= rest < count:
                return self.layers[i].buffer(rest)
            rest -= count
        return ParameterSpec(0, 0, 0)

    def buffer_label(self, index: Int) -> ParameterLabel:
        """Names a tensor that a layer writes for files: `1.running_mean`.

        Args:
            index: Which one, counted through the layers.

        Returns:
            Its name behind the number of its layer, and its shape.
        """
        var rest = index
        comptime for i in range(Self.COUNT):
            var count = self.layers[i].buffers()
            if 0 <= rest < count:
                var label = self.layers[i].buffer_label(rest)
                label.name = String(i, ".", label.name)
                return label^
            rest -= count
        return ParameterLabel("", [])

    def bind_buffer(mut self, index: Int, value: Int):
        """Tells the layer whose it is where a tensor lies.

        Args:
            index: Which one, counted through the layers.
            value: Address of its first element.
        """
        var rest = index
        comptime for i in range(Self.COUNT):
            var count = self.layers[i].buffers()
            if 0 <= rest < count:
                self.layers[i].bind_buffer(rest, value)
            rest -= count

    def inputs(self) -> Int:
        """Counts the features of an input.

        Returns:
            Those of the first layer.
        """
        return self.layers[0].inputs()

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            Those of the last layer.
        """
        return self.layers[Self.COUNT - 1].outputs()

    def kept(self, stride: Int) -> Int:
        """Counts what lies between the layers, what they keep, and two gradients.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        var count = 2 * self._widest() * stride
        comptime for i in range(Self.COUNT):
            comptime if i < Self.COUNT - 1:
                count += self.layers[i].outputs() * stride
            count += padded[Self.dtype](self.layers[i].kept(stride))
        return count

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
            kept: Where all that lies between goes.
            block: The samples.
        """
        var at = 2 * self._widest() * block.stride
        var source = x
        comptime for i in range(Self.COUNT):
            comptime assert Self.Layers[i].dtype == Self.dtype
            var memory = kept.unsafe_offset(at)
            at += padded[Self.dtype](self.layers[i].kept(block.stride))
            var target = y
            comptime if i < Self.COUNT - 1:
                target = kept.unsafe_offset(at)
                at += self.layers[i].outputs() * block.stride
            comptime Own = Elements[Self.Layers[i].dtype]
            self.layers[i].forward(
                rebind[Own](source),
                rebind[Own](target),
                rebind[Own](memory),
                block,
            )
            source = target

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
        """Computes the gradients of all layers.

        Args:
            x: The inputs.
            y: The outputs.
            kept: What the forward pass kept.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        var row = self._widest() * block.stride
        var starts = Array[Int, Self.COUNT + 1](fill=0)
        starts[0] = 2 * row
        comptime for i in range(Self.COUNT):
            starts[i + 1] = starts[i] + padded[Self.dtype](
                self.layers[i].kept(block.stride)
            )
            comptime if i < Self.COUNT - 1:
                starts[i + 1] += self.layers[i].outputs() * block.stride
        var grad = dy
        comptime for j in range(Self.COUNT):
            comptime i = Self.COUNT - 1 - j
            comptime Own = Elements[Self.Layers[i].dtype]
            var source = x
            comptime if i > 0:
                source = kept.unsafe_offset(
                    starts[i] - self.layers[i].inputs() * block.stride
                )
            var result = y
            comptime if i < Self.COUNT - 1:
                result = kept.unsafe_offset(
                    starts[i + 1] - self.layers[i].outputs() * block.stride
                )
            var target = dx
            comptime if i > 0:
                target = kept.unsafe_offset((i % 2) * row)
            self.layers[i].backward(
                rebind[Own](source),
                rebind[Own](result),
                rebind[Own](kept.unsafe_offset(starts[i])),
                rebind[Own](grad),
                rebind[Own](target),
                needs_dx or i > 0,
                block,
            )
            grad = target

    def _widest(self) -> Int:
        var widest = 0
        comptime for i in range(Self.COUNT):
            widest = max(widest, self.layers[i].inputs())
        return widest


struct Residual[Inner: Layer](Layer):
    """`x + f(x)` for a layer f with as many outputs as inputs (arXiv:1512.03385).

    Parameters:
        Inner: The type of the layer.
    """

    comptime dtype = Self.Inner.dtype
    """The dtype of samples and parameters."""

    var inner: Self.Inner
    """The layer."""

    def __init__(out self, var inner: Self.Inner):
        """Takes a layer.

        Args:
            inner: The layer.
        """
        self.inner = inner^

    def parameters(self) -> Int:
        """Counts the parameter tensors.

        Returns:
            Those of the layer.
        """
        return self.inner.parameters()

    def parameter(self, index: Int) -> ParameterSpec:
        """Describes a parameter tensor.

        Args:
            index: Which one.

        Returns:
            Its size, and how it begins.
        """
        return self.inner.parameter(index)

    def label(self, index: Int) -> ParameterLabel:
        """Names a parameter tensor for files.

        Args:
            index: Which one.

        Returns:
            Its name behind `inner.`, and its shape.
        """
        var label = self.inner.label(index)
        label.name = "inner." + label.name
        return label^

    def bind(mut self, index: Int, value: Int, grad: Int):
        """Tells the layer where a parameter tensor lies.

        Args:
            index: Which one.
            value: Address of its first element.
            grad: Address of that of its gradient.
        """
        self.inner.bind(index, value, grad)

    def buffers(self) -> Int:
        """Counts the tensors that the layer writes.

        Returns:
            Those of the layer.
        """
        return self.inner.buffers()

    def buffer(self, index: Int) -> ParameterSpec:
        """Describes a tensor that the layer writes.

        Args:
            index: Which one.

        Returns:
            Its size, and how it begins.
        """
        return self.inner.buffer(index)

    def buffer_label(self, index: Int) -> ParameterLabel:
        """Names a tensor that the layer writes for files.

        Args:
            index: Which one.

        Returns:
            Its name behind `inner.`, and its shape.
        """
        var label = self.inner.buffer_label(index)
        label.name = "inner." + label.name
        return label^

    def bind_buffer(mut self, index: Int, value: Int):
        """Tells the layer where a tensor that it writes lies.

        Args:
            index: Which one.
            value: Address of its first element.
        """
        self.inner.bind_buffer(index, value)

    def inputs(self) -> Int:
        """Counts the features of an input.

        Returns:
            The number of features.
        """
        return self.inner.inputs()

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            The number of features.
        """
        return self.inner.outputs()

    def kept(self, stride: Int) -> Int:
        """Counts what the layer keeps, and its outputs.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        return self.outputs() * stride + self.inner.kept(stride)

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
            kept: Where the layer's outputs go, and what it keeps.
            block: The samples.
        """
        var size = self.outputs() * block.stride
        self.inner.forward(x, kept, kept.unsafe_offset(size), block)
        add_rows(y, x, kept, self.outputs(), block)

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
        """Computes the gradients of the layer, and adds that of the shortcut.

        Args:
            x: The inputs.
            y: The outputs.
            kept: The layer's outputs, and what it kept.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        var size = self.outputs() * block.stride
        self.inner.backward(
            x, kept, kept.unsafe_offset(size), dy, dx, needs_dx, block
        )
        if needs_dx:
            add_rows(dx, dx, dy, self.inputs(), block)
