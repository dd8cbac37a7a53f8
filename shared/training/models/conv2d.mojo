"""Convolutions of images."""

from std.math import sqrt
from std.sys import simd_width_of, size_of

from ..core.memory import Elements
from .block import Block
from .layer import Layer, ParameterLabel, ParameterSpec
from .window import Window


@fieldwise_init
struct Conv2d[scalar: DType](ImplicitlyCopyable, Layer):
    """The products of windows of an image with a weight: a cross-correlation.

    `y[o, i, j] = bias[o] + sum over c, di, dj of weight[o, c, di, dj] * x[c, i * stride + di -
    padding, j * stride + dj - padding]`, where pixels outside of the image are 0.

    Parameters:
        scalar: The dtype of samples and parameters.
    """

    comptime dtype = Self.scalar
    """The dtype of samples and parameters."""

    var window: Window
    """The window."""
    var out_channels: Int
    """Channels of an output."""
    var weight: Int
    """Address of the weight."""
    var bias: Int
    """Address of the bias, or 0."""
    var weight_grad: Int
    """Address of the weight's gradient."""
    var bias_grad: Int
    """Address of the bias's gradient."""

    def __init__(out self, window: Window, out_channels: Int):
        """Makes a layer with a bias whose parameters are bound later.

        Args:
            window: The window.
            out_channels: Channels of an output.
        """
        self = Self(window, out_channels, 0, 0, 0, 0)

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
        var columns = self.window.channels * self.window.taps()
        var bound = 1 / sqrt(Float64(columns))
        if index == 0:
            return ParameterSpec(self.out_channels, columns, bound)
        return ParameterSpec(1, self.out_channels, bound)

    def label(self, index: Int) -> ParameterLabel:
        """Names a parameter tensor for files.

        Args:
            index: 0 for the weight, 1 for the bias.

        Returns:
            Its name, and its shape.
        """
        if index == 0:
            return ParameterLabel(
                "weight",
                [
                    self.out_channels,
                    self.window.channels,
                    self.window.kernel_height,
                    self.window.kernel_width,
                ],
            )
        return ParameterLabel("bias", [self.out_channels])

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
        return self.window.inputs()

    def outputs(self) -> Int:
        """Counts the features of an output.

        Returns:
            The number of features.
        """
        return self.out_channels * self.window.places()

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
            kept: Not used.
            block: The samples.
        """
        var window = self.window
        _convolve[Self.scalar](
            _Convolution[Self.scalar](
                target=y,
                source=x,
                weight=Elements[Self.scalar](unsafe_from_address=self.weight),
                bias=self.bias,
                channels=self.out_channels,
                depth=window.channels,
                channel_step=window.channels * window.taps(),
                depth_step=window.taps(),
                kernel_height=window.kernel_height,
                kernel_width=window.kernel_width,
                rows=_Axis(
                    window.out_height,
                    window.height,
                    window.stride_height,
                    1,
                    -window.padding_height,
                    1,
                ),
                columns=_Axis(
                    window.out_width,
                    window.width,
                    window.stride_width,
                    1,
                    -window.padding_width,
                    1,
                ),
            ),
            block,
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

        Args:
            x: The inputs.
            y: The outputs, not read.
            kept: Not used.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        var window = self.window
        _correlate[Self.scalar](
            Elements[Self.scalar](
                unsafe_from_address=self.weight_grad + block.grad_shift
            ),
            x,
            dy,
            window,
            self.out_channels,
            block,
        )
        if self.bias != 0:
            self._add_bias_grad(dy, block)
        if not needs_dx:
            return
        _convolve[Self.scalar](
            _Convolution[Self.scalar](
                target=dx,
                source=dy,
                weight=Elements[Self.scalar](unsafe_from_address=self.weight),
                bias=0,
                channels=window.channels,
                depth=self.out_channels,
                channel_step=window.taps(),
                depth_step=window.channels * window.taps(),
                kernel_height=window.kernel_height,
                kernel_width=window.kernel_width,
                rows=_Axis(
                    window.height,
                    window.out_height,
                    1,
                    -1,
                    window.padding_height,
                    window.stride_height,
                ),
                columns=_Axis(
                    window.width,
                    window.out_width,
                    1,
                    -1,
                    window.padding_width,
                    window.stride_width,
                ),
            ),
            block,
        )

    def _add_bias_grad(self, dy: Elements[Self.scalar], block: Block):
        comptime width = simd_width_of[Self.scalar]()
        var grad = Elements[Self.scalar](
            unsafe_from_address=self.bias_grad + block.grad_shift
        )
        var places = self.window.places()
        for o in range(self.out_channels):
            # Beyond the last sample the gradient is 0.
            var sum = SIMD[Self.scalar, width](0)
            for place in range(places):
                var row = (o * places + place) * block.stride
                var part = SIMD[Self.scalar, width](0)
                for s in range(0, block.samples, width):
                    part += dy.unsafe_load[width=width](row + s)
                sum += part
            var start = grad[unsafe_offset=o] if block.accumulates else 0
            grad[unsafe_offset=o] = start + sum.reduce_add()


@fieldwise_init
struct _Axis(ImplicitlyCopyable, Movable):
    """Which place of the source a tap reads, `(at * step + tap * sign + shift) / divisor`."""

    var size: Int
    var limit: Int
    var step: Int
    var sign: Int
    var shift: Int
    var divisor: Int

    @always_inline
    def place(self, at: Int, tap: Int) -> Int:
        # Negative for none.
        var place = at * self.step + tap * self.sign + self.shift
        if self.divisor > 1:
            if place < 0 or place % self.divisor != 0:
                return -1
            place //= self.divisor
        return place if place < self.limit else -1


@fieldwise_init
struct _Convolution[dtype: DType](ImplicitlyCopyable, Movable):
    """A convolution, or the gradient of its inputs, which is one of the same kind."""

    var target: Elements[Self.dtype]
    var source: Elements[Self.dtype]
    var weight: Elements[Self.dtype]
    var bias: Int
    var channels: Int
    var depth: Int
    var channel_step: Int
    var depth_step: Int
    var kernel_height: Int
    var kernel_width: Int
    var rows: _Axis
    var columns: _Axis


@no_inline
def _convolve[dtype: DType](job: _Convolution[dtype], block: Block):
    comptime width = simd_width_of[dtype]()
    for i in range(job.rows.size):
        for j in range(job.columns.size):
            var s = 0
            while s + width < block.samples:
                _convolve_channels[dtype, 2](job, i, j, s, block)
                s += 2 * width
            if s < block.samples:
                _convolve_channels[dtype, 1](job, i, j, s, block)


@always_inline
def _convolve_channels[
    dtype: DType, vectors: Int
](job: _Convolution[dtype], i: Int, j: Int, s: Int, block: Block):
    # Sums, columns and one factor fill 19 of 32 registers, or 11 of 16.
    comptime is_wide = simd_width_of[dtype]() * size_of[dtype]() == 64
    comptime tallest = 8 if is_wide else 4
    comptime heights = [8, 4, 2, 1]
    var channel = 0
    comptime for index in range(4):
        comptime height = heights[index]
        comptime if height <= tallest:
            while channel + height <= job.channels:
                _convolve_tile[dtype, height, vectors](
                    job, channel, i, j, s, block
                )
                channel += height


@always_inline
def _convolve_tile[
    dtype: DType, height: Int, vectors: Int
](
    job: _Convolution[dtype],
    channel: Int,
    i: Int,
    j: Int,
    s: Int,
    block: Block,
):
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    var sums = Array[Lanes, height * vectors](fill=0)
    var image = job.rows.limit * job.columns.limit * block.stride
    var weights = job.weight.unsafe_offset(channel * job.channel_step)
    for di in range(job.kernel_height):
        var row = job.rows.place(i, di)
        if row < 0:
            continue
        for dj in range(job.kernel_width):
            var column = job.columns.place(j, dj)
            if column < 0:
                continue
            var x = job.source.unsafe_offset(
                (row * job.columns.limit + column) * block.stride + s
            )
            var w = weights.unsafe_offset(di * job.kernel_width + dj)
            for _ in range(job.depth):
                var lanes = Array[Lanes, vectors](fill=0)
                comptime for v in range(vectors):
                    lanes[v] = x.unsafe_load[width=width](v * width)
                comptime for r in range(height):
                    var factor = Lanes(w[unsafe_offset=r * job.channel_step])
                    comptime for v in range(vectors):
                        comptime at = r * vectors + v
                        sums[at] = factor.fma(lanes[v], sums[at])
                x = x.unsafe_offset(image)
                w = w.unsafe_offset(job.depth_step)
    comptime for r in range(height):
        var start = Lanes(0)
        if job.bias != 0:
            var numbers = Elements[dtype](unsafe_from_address=job.bias)
            start = Lanes(numbers[unsafe_offset=channel + r])
        var row = ((channel + r) * job.rows.size + i) * job.columns.size + j
        comptime for v in range(vectors):
            job.target.unsafe_store[width=width](
                row * block.stride + s + v * width,
                sums[r * vectors + v] + start,
            )


@no_inline
def _correlate[
    dtype: DType
](
    grad: Elements[dtype],
    x: Elements[dtype],
    dy: Elements[dtype],
    window: Window,
    channels: Int,
    block: Block,
):
    # The gradient of a weight: the products of its windows with that of the outputs.
    comptime is_wide = simd_width_of[dtype]() * size_of[dtype]() == 64
    comptime breadth = 4 if is_wide else 2
    for di in range(window.kernel_height):
        for dj in range(window.kernel_width):
            var o = 0
            while o + 4 <= channels:
                _correlate_inputs[dtype, 4, breadth](
                    grad, x, dy, window, o, di, dj, block
                )
                o += 4
            while o < channels:
                _correlate_inputs[dtype, 1, breadth](
                    grad, x, dy, window, o, di, dj, block
                )
                o += 1


@always_inline
def _correlate_inputs[
    dtype: DType, height: Int, breadth: Int
](
    grad: Elements[dtype],
    x: Elements[dtype],
    dy: Elements[dtype],
    window: Window,
    o: Int,
    di: Int,
    dj: Int,
    block: Block,
):
    var c = 0
    while c + breadth <= window.channels:
        _correlate_tile[dtype, height, breadth](
            grad, x, dy, window, o, c, di, dj, block
        )
        c += breadth
    while c < window.channels:
        _correlate_tile[dtype, height, 1](
            grad, x, dy, window, o, c, di, dj, block
        )
        c += 1


@always_inline
def _correlate_tile[
    dtype: DType, height: Int, breadth: Int
](
    grad: Elements[dtype],
    x: Elements[dtype],
    dy: Elements[dtype],
    window: Window,
    o: Int,
    c: Int,
    di: Int,
    dj: Int,
    block: Block,
):
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    var sums = Array[Lanes, height * breadth](fill=0)
    var places = window.places() * block.stride
    var image = window.height * window.width * block.stride
    for i in range(window.out_height):
        var row = window.row(i, di)
        if row < 0:
            continue
        for j in range(window.out_width):
            var column = window.column(j, dj)
            if column < 0:
                continue
            var place = i * window.out_width + j
            var left = dy.unsafe_offset(o * places + place * block.stride)
            var right = x.unsafe_offset(
                c * image + (row * window.width + column) * block.stride
            )
            # Beyond the last sample the gradient is 0.
            for s in range(0, block.samples, width):
                var lanes = Array[Lanes, breadth](fill=0)
                comptime for q in range(breadth):
                    lanes[q] = right.unsafe_load[width=width](q * image + s)
                comptime for r in range(height):
                    var factor = left.unsafe_load[width=width](r * places + s)
                    comptime for q in range(breadth):
                        comptime at = r * breadth + q
                        sums[at] = factor.fma(lanes[q], sums[at])
    comptime for r in range(height):
        comptime for q in range(breadth):
            var at = (
                ((o + r) * window.channels + c + q) * window.taps()
                + di * window.kernel_width
                + dj
            )
            var start = grad[unsafe_offset=at] if block.accumulates else 0
            grad[unsafe_offset=at] = start + sums[r * breadth + q].reduce_add()
