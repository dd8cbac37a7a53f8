"""Batch normalization."""

from std.math import iota, sqrt
from std.sys import simd_width_of
from std.utils.numerics import isfinite

from ..core.memory import Elements, words_at
from .block import Block
from .layer import Layer, ParameterLabel, ParameterSpec


@fieldwise_init
struct BatchNorm[scalar: DType](ImplicitlyCopyable, Layer):
    """`y = (x - mean) / sqrt(variance + eps) * weight + bias` over each channel of a batch.

    S. Ioffe, C. Szegedy, "Batch normalization", 2015, arXiv:1502.03167. A channel is as many
    features, one after the other, as it has positions. The mean and the variance are those of a
    block in training, which then has to be the whole batch; otherwise they are the running ones, if
    there are any. Sums are float64.

    Parameters:
        scalar: The dtype of samples, parameters and running statistics.
    """

    comptime dtype = Self.scalar
    """The dtype of samples and parameters."""

    var channels: Int
    """Channels of an input."""
    var positions: Int
    """Features of a channel."""
    var eps: Float64
    """What is added to the variance."""
    var momentum: Float64
    """The weight of a new batch in the running statistics; negative for a mean of all batches."""
    var weight: Int
    """Address of the weight, or 0."""
    var bias: Int
    """Address of the bias, or 0."""
    var weight_grad: Int
    """Address of the weight's gradient."""
    var bias_grad: Int
    """Address of the bias's gradient."""
    var mean: Int
    """Address of the running means, or 0."""
    var variance: Int
    """Address of the running variances, or 0."""
    var batches: Int
    """Address of the int64 number of batches that were seen, or 0."""

    def __init__(
        out self,
        channels: Int,
        positions: Int = 1,
        *,
        eps: Float64 = 1e-5,
        momentum: Float64 = 0.1,
    ):
        """Makes a layer whose parameters and running statistics are bound later.

        Args:
            channels: Channels of an input.
            positions: Features of a channel.
            eps: What is added to the variance.
            momentum: The weight of a new batch in the running statistics, in [0, 1].
        """
        self = Self(channels, positions, eps, momentum, 0, 0, 0, 0, 0, 0, 0)

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
        return ParameterSpec(1, self.channels, -1.0 if index == 0 else 0.0)

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

    def buffers(self) -> Int:
        """Counts the running statistics.

        Returns:
            2, the means and the variances.
        """
        return 2

    def buffer(self, index: Int) -> ParameterSpec:
        """Describes running statistics.

        Args:
            index: 0 for the means, which begin at 0, 1 for the variances, which begin at 1.

        Returns:
            Their number, and how they begin.
        """
        return ParameterSpec(1, self.channels, 0.0 if index == 0 else -1.0)

    def buffer_label(self, index: Int) -> ParameterLabel:
        """Names running statistics for files.

        Args:
            index: 0 for the means, 1 for the variances.

        Returns:
            Their name, and their shape.
        """
        return ParameterLabel(
            "running_mean" if index == 0 else "running_var", [self.channels]
        )

    def bind_buffer(mut self, index: Int, value: Int):
        """Tells the layer where running statistics lie.

        Args:
            index: 0 for the means, 1 for the variances.
            value: Address of the first.
        """
        if index == 0:
            self.mean = value
        else:
            self.variance = value

    def inputs(self) -> Int:
        """Counts the features of an input.

        Returns:
            The number of features.
        """
        return self.channels * self.positions

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            The number of features.
        """
        return self.channels * self.positions

    def kept(self, stride: Int) -> Int:
        """Counts the normalized inputs, and a factor for each channel.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        return self.inputs() * stride + self.channels

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Normalizes the channels of a block, and writes running statistics in training.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Where the normalized inputs go, and `1 / sqrt(variance + eps)` of each channel.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        var weight = Elements[Self.scalar](unsafe_from_address=self.weight)
        var bias = Elements[Self.scalar](unsafe_from_address=self.bias)
        var means = Elements[Self.scalar](unsafe_from_address=self.mean)
        var variances = Elements[Self.scalar](unsafe_from_address=self.variance)
        var momentum = self._count_batch(block)
        var size = self.positions * block.stride
        for c in range(self.channels):
            var rows = x.unsafe_offset(c * size)
            var mean: Float64
            var variance: Float64
            if block.is_training or self.mean == 0:
                mean, variance = self._moments(rows, block)
                # A batch that is not finite is not trained on, and leaves no trace.
                if momentum >= 0 and isfinite(mean) and isfinite(variance):
                    var count = Float64(self.positions * block.samples)
                    _move(means, c, mean, momentum)
                    _move(
                        variances,
                        c,
                        variance * count / max(count - 1, 1),
                        momentum,
                    )
            else:
                mean = means[unsafe_offset=c].cast[DType.float64]()
                variance = variances[unsafe_offset=c].cast[DType.float64]()
            var scale = 1 / sqrt(variance + self.eps)
            kept[unsafe_offset=self.channels * size + c] = scale.cast[
                Self.scalar
            ]()
            var factor = Lanes(1)
            var shift = Lanes(0)
            if self.weight != 0:
                factor = Lanes(weight[unsafe_offset=c])
            if self.bias != 0:
                shift = Lanes(bias[unsafe_offset=c])
            for p in range(self.positions):
                for s in range(0, block.samples, width):
                    var at = p * block.stride + s
                    var wide = rows.unsafe_load[width=width](at).cast[
                        DType.float64
                    ]()
                    var normal = _only[width](
                        ((wide - mean) * scale).cast[Self.scalar](),
                        block.samples - s,
                    )
                    kept.unsafe_store[width=width](c * size + at, normal)
                    y.unsafe_store[width=width](
                        c * size + at, normal * factor + shift
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
        """Computes the gradients of the parameters and of the inputs.

        With the normalized inputs `n`, `dx = (dy - mean(dy) - n * mean(dy * n)) * weight /
        sqrt(variance + eps)`.

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
        comptime Wide = SIMD[DType.float64, width]
        var weight = Elements[Self.scalar](unsafe_from_address=self.weight)
        var size = self.positions * block.stride
        var share = 1 / Float64(self.positions * block.samples)
        for c in range(self.channels):
            var grads = dy.unsafe_offset(c * size)
            var normals = kept.unsafe_offset(c * size)
            # Beyond the last sample the gradient is 0.
            var sums = Wide(0)
            var products = Wide(0)
            for p in range(self.positions):
                for s in range(0, block.samples, width):
                    var at = p * block.stride + s
                    var grad = grads.unsafe_load[width=width](at).cast[
                        DType.float64
                    ]()
                    var normal = normals.unsafe_load[width=width](at)
                    sums += grad
                    products = grad.fma(normal.cast[DType.float64](), products)
            var sum = sums.reduce_add()
            var product = products.reduce_add()
            if self.weight != 0:
                _write[Self.scalar](self.weight_grad, c, product, block)
            if self.bias != 0:
                _write[Self.scalar](self.bias_grad, c, sum, block)
            if not needs_dx:
                continue
            var scale = kept[unsafe_offset=self.channels * size + c]
            if self.weight != 0:
                scale *= weight[unsafe_offset=c]
            var mean = Lanes((sum * share).cast[Self.scalar]())
            var slope = Lanes((product * share).cast[Self.scalar]())
            for p in range(self.positions):
                for s in range(0, block.samples, width):
                    var at = p * block.stride + s
                    var grad = grads.unsafe_load[width=width](at)
                    var normal = normals.unsafe_load[width=width](at)
                    dx.unsafe_store[width=width](
                        c * size + at,
                        _only[width](
                            (grad - mean - normal * slope) * scale,
                            block.samples - s,
                        ),
                    )

    def _moments(
        self, rows: Elements[Self.scalar], block: Block
    ) -> Tuple[Float64, Float64]:
        # The mean, and the mean square of the distances from it.
        comptime width = simd_width_of[Self.scalar]()
        comptime Wide = SIMD[DType.float64, width]
        var share = 1 / Float64(self.positions * block.samples)
        var sum = Wide(0)
        for p in range(self.positions):
            for s in range(0, block.samples, width):
                var lanes = rows.unsafe_load[width=width](p * block.stride + s)
                sum += _only[width](
                    lanes.cast[DType.float64](), block.samples - s
                )
        var mean = sum.reduce_add() * share
        var squares = Wide(0)
        for p in range(self.positions):
            for s in range(0, block.samples, width):
                var lanes = rows.unsafe_load[width=width](p * block.stride + s)
                var distance = _only[width](
                    lanes.cast[DType.float64]() - mean, block.samples - s
                )
                squares = distance.fma(distance, squares)
        return (mean, squares.reduce_add() * share)

    def _count_batch(self, block: Block) -> Float64:
        # The weight of this batch in the running statistics; negative if there are none.
        if not block.is_training or self.mean == 0:
            return -1
        var count = Float64(1)
        if self.batches != 0:
            var batches = words_at(self.batches)
            batches[] += 1
            count = Float64(batches[])
        return self.momentum if self.momentum >= 0 else 1 / count


@always_inline
def _only[
    dtype: DType, //, width: Int
](lanes: SIMD[dtype, width], count: Int) -> SIMD[dtype, width]:
    # The first lanes; the others become 0.
    return (
        iota[DType.int32, width]()
        .lt(Int32(min(count, width)))
        .select(lanes, SIMD[dtype, width](0))
    )


@always_inline
def _move[
    dtype: DType
](numbers: Elements[dtype], index: Int, new: Float64, share: Float64):
    var old = numbers[unsafe_offset=index].cast[DType.float64]()
    numbers[unsafe_offset=index] = (share * new + (1 - share) * old).cast[
        dtype
    ]()


@always_inline
def _write[
    dtype: DType
](address: Int, index: Int, value: Float64, block: Block):
    var grads = Elements[dtype](unsafe_from_address=address + block.grad_shift)
    var start = grads[unsafe_offset=index] if block.accumulates else 0
    grads[unsafe_offset=index] = start + value.cast[dtype]()
