"""Layer normalization."""

from std.math import sqrt
from std.sys import simd_width_of

from ..core.memory import Elements
from .block import Block
from .layer import Layer, ParameterSpec


@fieldwise_init
struct LayerNorm[scalar: DType](ImplicitlyCopyable, Layer):
    """`y = (x - mean) / sqrt(variance + eps) * weight + bias` over the features of each sample.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016, arXiv:1607.06450. Sums are
    float64.

    Parameters:
        scalar: The dtype of samples and parameters.
    """

    comptime dtype = Self.scalar
    """The dtype of samples and parameters."""

    var features: Int
    """Features of an input, and of an output."""
    var eps: Float64
    """What is added to the variance."""
    var weight: Int
    """Address of the weight, or 0."""
    var bias: Int
    """Address of the bias, or 0."""
    var weight_grad: Int
    """Address of the weight's gradient."""
    var bias_grad: Int
    """Address of the bias's gradient."""

    def __init__(out self, features: Int, eps: Float64 = 1e-5):
        """Makes a layer with a weight and a bias, which are bound later.

        Args:
            features: Features of an input.
            eps: What is added to the variance.
        """
        self = Self(features, eps, 0, 0, 0, 0)

    def parameters(self) -> Int:
        """Counts the parameter tensors.

        Returns:
            2, the weight and the bias.
        """
        return 2

    def parameter(self, index: Int) -> ParameterSpec:
        """Describes a parameter tensor.

        Args:
            index: 0 for the weight, which is 1, 1 for the bias, which is 0.

        Returns:
            Its size, and how it begins.
        """
        return ParameterSpec(1, self.features, -1.0 if index == 0 else 0.0)

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
        return self.features

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            The number of features.
        """
        return self.features

    def kept(self, stride: Int) -> Int:
        """Counts the normalized inputs, and a factor for each sample.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        return (self.features + 1) * stride

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Normalizes the samples of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Where the normalized inputs go, and `1 / sqrt(variance + eps)` of each sample.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Wide = SIMD[DType.float64, width]
        comptime Lanes = SIMD[Self.scalar, width]
        var weight = Elements[Self.scalar](unsafe_from_address=self.weight)
        var bias = Elements[Self.scalar](unsafe_from_address=self.bias)
        var share = 1 / Float64(self.features)
        for s in range(0, block.samples, width):
            var sum = Wide(0)
            for f in range(self.features):
                var at = f * block.stride + s
                sum += x.unsafe_load[width=width](at).cast[DType.float64]()
            var mean = sum * share
            var squares = Wide(0)
            for f in range(self.features):
                var at = f * block.stride + s
                var lanes = x.unsafe_load[width=width](at)
                var distance = lanes.cast[DType.float64]() - mean
                squares = distance.fma(distance, squares)
            var scale = 1 / sqrt(squares * share + self.eps)
            kept.unsafe_store[width=width](
                self.features * block.stride + s, scale.cast[Self.scalar]()
            )
            for f in range(self.features):
                var at = f * block.stride + s
                var lanes = x.unsafe_load[width=width](at)
                var distance = lanes.cast[DType.float64]() - mean
                var value = (distance * scale).cast[Self.scalar]()
                kept.unsafe_store[width=width](at, value)
                if self.weight != 0:
                    value *= Lanes(weight[unsafe_offset=f])
                if self.bias != 0:
                    value += Lanes(bias[unsafe_offset=f])
                y.unsafe_store[width=width](at, value)

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
        """Computes the gradients of the parameters and of the inputs.

        With `g = dy * weight` and the normalized inputs `n`, `dx = (g - mean(g) - n * mean(g * n))
        / sqrt(variance + eps)`.

        Args:
            x: The inputs, not read.
            y: The outputs, not read.
            kept: What the forward pass kept.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        if self.weight != 0 or self.bias != 0:
            self._add_gradients(kept, dy, block)
        if not needs_dx:
            return
        comptime Wide = SIMD[DType.float64, width]
        var weight = Elements[Self.scalar](unsafe_from_address=self.weight)
        var share = 1 / Float64(self.features)
        for s in range(0, block.samples, width):
            var sum = Wide(0)
            var product = Wide(0)
            for f in range(self.features):
                var at = f * block.stride + s
                var grad = dy.unsafe_load[width=width](at)
                if self.weight != 0:
                    grad *= Lanes(weight[unsafe_offset=f])
                var wide = grad.cast[DType.float64]()
                var normal = kept.unsafe_load[width=width](at)
                sum += wide
                product = wide.fma(normal.cast[DType.float64](), product)
            var mean = (sum * share).cast[Self.scalar]()
            var slope = (product * share).cast[Self.scalar]()
            var scale = kept.unsafe_load[width=width](
                self.features * block.stride + s
            )
            for f in range(self.features):
                var at = f * block.stride + s
                var grad = dy.unsafe_load[width=width](at)
                if self.weight != 0:
                    grad *= Lanes(weight[unsafe_offset=f])
                var normal = kept.unsafe_load[width=width](at)
                dx.unsafe_store[width=width](
                    at, (grad - mean - normal * slope) * scale
                )

    def _add_gradients(
        self,
        kept: Elements[Self.scalar],
        dy: Elements[Self.scalar],
        block: Block,
    ):
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        var weight = Elements[Self.scalar](
            unsafe_from_address=self.weight_grad + block.grad_shift
        )
        var bias = Elements[Self.scalar](
            unsafe_from_address=self.bias_grad + block.grad_shift
        )
        for f in range(self.features):
            # Beyond the last sample the gradient is 0.
            var sum = Lanes(0)
            var product = Lanes(0)
            for s in range(0, block.samples, width):
                var at = f * block.stride + s
                var grad = dy.unsafe_load[width=width](at)
                sum += grad
                product = grad.fma(kept.unsafe_load[width=width](at), product)
            if self.weight != 0:
                var start = weight[unsafe_offset=f] if block.accumulates else 0
                weight[unsafe_offset=f] = start + product.reduce_add()
            if self.bias != 0:
                var start = bias[unsafe_offset=f] if block.accumulates else 0
                bias[unsafe_offset=f] = start + sum.reduce_add()
