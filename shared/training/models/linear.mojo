"""The linear layer."""

from std.math import sqrt
from std.sys import simd_width_of

from ..core.matmul import (
    Matrix,
    matmul,
    matmul_transposed,
    padded,
    spaced,
    transpose,
)
from ..core.memory import Elements
from .block import Block
from .layer import Layer, ParameterLabel, ParameterSpec

comptime NARROW = 8
"""Up to so many inputs, the weight's gradient is taken by dot products over samples: fewer
lanes would be in use with inputs in them."""


@fieldwise_init
struct Linear[scalar: DType](ImplicitlyCopyable, Layer):
    """`y = W x + b`.

    Parameters:
        scalar: The dtype of samples and parameters.
    """

    comptime dtype = Self.scalar
    """The dtype of samples and parameters."""

    var in_features: Int
    """Features of an input."""
    var out_features: Int
    """Features of an output."""
    var weight: Int
    """Address of the weight, `out_features` x `in_features`."""
    var bias: Int
    """Address of the bias, or 0."""
    var weight_grad: Int
    """Address of the weight's gradient."""
    var bias_grad: Int
    """Address of the bias's gradient; not used without one."""
    var keeps: Bool
    """Whether inputs are to be kept sample by sample; otherwise they lie there already."""

    def __init__(out self, in_features: Int, out_features: Int):
        """Makes a layer with a bias whose parameters are bound later.

        Args:
            in_features: Features of an input.
            out_features: Features of an output.
        """
        self = Self(in_features, out_features, 0, 0, 0, 0, keeps=True)

    def parameters(self) -> Int:
        """Counts the parameter tensors.

        Returns:
            2, the weight and the bias.
        """
        return 2

    def parameter(self, index: Int) -> ParameterSpec:
        """Describes a parameter tensor, as torch initializes it.

        Args:
            index: 0 for the weight, 1 for the bias.

        Returns:
            Its size, and how it begins.
        """
        var bound = 1 / sqrt(Float64(self.in_features))
        if index == 0:
            return ParameterSpec(self.out_features, self.in_features, bound)
        return ParameterSpec(1, self.out_features, bound)

    def label(self, index: Int) -> ParameterLabel:
        """Names a parameter tensor for files.

        Args:
            index: 0 for the weight, 1 for the bias.

        Returns:
            Its name, and its shape.
        """
        if index == 0:
            return ParameterLabel(
                "weight", [self.out_features, self.in_features]
            )
        return ParameterLabel("bias", [self.out_features])

    def bind(mut self, index: Int, value: Int, grad: Int):
        """Tells the layer where a parameter tensor lies.

        Args:
            index: 0 for the weight, 1 for the bias.
            value: Address of its first element.
            grad: Address of that of its gradient.
        """
        if index == 0:
            self.weight, self.weight_grad = value, grad
        else:
            self.bias, self.bias_grad = value, grad

    def inputs(self) -> Int:
        """Counts the features of an input.

        Returns:
            The number of features.
        """
        return self.in_features

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            The number of features.
        """
        return self.out_features

    def kept(self, stride: Int) -> Int:
        """Counts the elements of the inputs, sample by sample.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        if self.in_features <= NARROW:
            return 0
        return stride * spaced[Self.scalar](self.in_features)

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Computes the outputs of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Where the inputs go, sample by sample.
            block: The samples.
        """
        matmul[Self.scalar](
            Matrix(y, block.stride, 1),
            self._weight(),
            Matrix(x, block.stride, 1),
            self.out_features,
            padded[Self.scalar](block.samples),
            self.in_features,
            bias=self.bias,
        )
        if self.keeps and block.is_training and self.in_features > NARROW:
            transpose[Self.scalar](
                Matrix(kept, spaced[Self.scalar](self.in_features), 1),
                Matrix(x, block.stride, 1),
                self.in_features,
                block.samples,
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
        """Computes `dW = dY X^T`, `db`, the sum of `dY` over samples, and `dX = W^T dY`.

        Args:
            x: The inputs.
            y: The outputs, not read.
            kept: The inputs, sample by sample.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        var outputs = Matrix(dy, block.stride, 1)
        var weight_grad = Matrix(
            Elements[Self.scalar](
                unsafe_from_address=self.weight_grad + block.grad_shift
            ),
            self.in_features,
            1,
        )
        if self.in_features <= NARROW:
            matmul_transposed[Self.scalar](
                weight_grad,
                outputs,
                Matrix(x, block.stride, 1),
                self.out_features,
                self.in_features,
                block.samples,
                block.accumulates,
            )
        else:
            matmul[Self.scalar](
                weight_grad,
                outputs,
                Matrix(kept, spaced[Self.scalar](self.in_features), 1),
                self.out_features,
                self.in_features,
                block.samples,
                block.accumulates,
            )
        if self.bias != 0:
            self._add_bias_grad(dy, block)
        if needs_dx:
            matmul[Self.scalar](
                Matrix(dx, block.stride, 1),
                Matrix(self._weight().elements, 1, self.in_features),
                outputs,
                self.in_features,
                padded[Self.scalar](block.samples),
                self.out_features,
            )

    @always_inline
    def _weight(self) -> Matrix[Self.scalar]:
        return Matrix(
            Elements[Self.scalar](unsafe_from_address=self.weight),
            self.in_features,
            1,
        )

    def _add_bias_grad(self, dy: Elements[Self.scalar], block: Block):
        comptime width = simd_width_of[Self.scalar]()
        var grad = Elements[Self.scalar](
            unsafe_from_address=self.bias_grad + block.grad_shift
        )
        for f in range(self.out_features):
            # Beyond the last sample the gradient is 0.
            var sum = SIMD[Self.scalar, width](0)
            for s in range(0, block.samples, width):
                sum += dy.unsafe_load[width=width](f * block.stride + s)
            var start = grad[unsafe_offset=f] if block.accumulates else 0
            grad[unsafe_offset=f] = start + sum.reduce_add()
