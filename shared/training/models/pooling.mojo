"""Pooling of images."""

from std.sys import simd_width_of
from std.utils.numerics import isnan

from ..core.memory import Elements
from .block import Block
from .layer import Layer
from .window import Window


@fieldwise_init
struct MaxPool2d[scalar: DType](ImplicitlyCopyable, Layer):
    """The largest pixel below a window, in each channel; NaN if one is NaN.

    Pixels outside of the image do not count. The first of the largest takes the gradient, or the
    last NaN.

    Parameters:
        scalar: The dtype of samples.
    """

    comptime dtype = Self.scalar
    """The dtype of samples."""

    var window: Window
    """The window; its padding is at most half of it."""

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
        return self.window.channels * self.window.places()

    def kept(self, stride: Int) -> Int:
        """Counts the places of the largest pixels.

        Args:
            stride: The most samples of a block, rounded up to whole vectors.

        Returns:
            The number of elements.
        """
        return self.outputs() * stride

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Finds the largest pixels of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Where the number of the largest pixel in its window goes.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        var window = self.window
        var output = 0
        for c in range(window.channels):
            for i in range(window.out_height):
                for j in range(window.out_width):
                    for s in range(0, block.samples, width):
                        var largest = Lanes(0)
                        var tap = Lanes(-1)
                        for di in range(window.kernel_height):
                            var row = window.row(i, di)
                            if row < 0:
                                continue
                            row += c * window.height
                            for dj in range(window.kernel_width):
                                var column = window.column(j, dj)
                                if column < 0:
                                    continue
                                var at = row * window.width + column
                                var lanes = x.unsafe_load[width=width](
                                    at * block.stride + s
                                )
                                var is_new = (
                                    tap.lt(0) | lanes.gt(largest) | isnan(lanes)
                                )
                                largest = is_new.select(lanes, largest)
                                tap = is_new.select(
                                    Lanes(
                                        Scalar[Self.scalar](
                                            di * window.kernel_width + dj
                                        )
                                    ),
                                    tap,
                                )
                        var at = output * block.stride + s
                        y.unsafe_store[width=width](at, largest)
                        kept.unsafe_store[width=width](at, tap)
                    output += 1

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
        """Adds the gradient of each output to the largest pixel.

        Args:
            x: The inputs, not read.
            y: The outputs, not read.
            kept: The numbers of the largest pixels in their windows.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        if not needs_dx:
            return
        var window = self.window
        _clear[Self.scalar](dx, window, block)
        var output = 0
        for c in range(window.channels):
            for i in range(window.out_height):
                for j in range(window.out_width):
                    for di in range(window.kernel_height):
                        var row = window.row(i, di)
                        if row < 0:
                            continue
                        row += c * window.height
                        for dj in range(window.kernel_width):
                            var column = window.column(j, dj)
                            if column < 0:
                                continue
                            var number = Lanes(
                                Scalar[Self.scalar](
                                    di * window.kernel_width + dj
                                )
                            )
                            var place = row * window.width + column
                            for s in range(0, block.samples, width):
                                var from_ = output * block.stride + s
                                var to = place * block.stride + s
                                var grad = (
                                    kept.unsafe_load[width=width](from_)
                                    .eq(number)
                                    .select(
                                        dy.unsafe_load[width=width](from_),
                                        Lanes(0),
                                    )
                                )
                                dx.unsafe_store[width=width](
                                    to, dx.unsafe_load[width=width](to) + grad
                                )
                    output += 1


@fieldwise_init
struct AvgPool2d[scalar: DType](ImplicitlyCopyable, Layer):
    """The mean of the pixels below a window, in each channel.

    Parameters:
        scalar: The dtype of samples.
    """

    comptime dtype = Self.scalar
    """The dtype of samples."""

    var window: Window
    """The window."""
    var counts_padding: Bool
    """Whether pixels outside of the image count as zeros."""

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
        return self.window.channels * self.window.places()

    def forward(
        self,
        x: Elements[Self.scalar],
        y: Elements[Self.scalar],
        kept: Elements[Self.scalar],
        block: Block,
    ):
        """Computes the means of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Not used.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        var window = self.window
        var output = 0
        for c in range(window.channels):
            for i in range(window.out_height):
                for j in range(window.out_width):
                    var count = Lanes(self._count(i, j))
                    for s in range(0, block.samples, width):
                        var sum = Lanes(0)
                        for di in range(window.kernel_height):
                            var row = window.row(i, di)
                            if row < 0:
                                continue
                            row += c * window.height
                            for dj in range(window.kernel_width):
                                var column = window.column(j, dj)
                                if column < 0:
                                    continue
                                var at = row * window.width + column
                                sum += x.unsafe_load[width=width](
                                    at * block.stride + s
                                )
                        y.unsafe_store[width=width](
                            output * block.stride + s, sum / count
                        )
                    output += 1

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
        """Shares the gradient of each output among its pixels.

        Args:
            x: The inputs, not read.
            y: The outputs, not read.
            kept: Not used.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        comptime Lanes = SIMD[Self.scalar, width]
        if not needs_dx:
            return
        var window = self.window
        _clear[Self.scalar](dx, window, block)
        var output = 0
        for c in range(window.channels):
            for i in range(window.out_height):
                for j in range(window.out_width):
                    var count = Lanes(self._count(i, j))
                    for di in range(window.kernel_height):
                        var row = window.row(i, di)
                        if row < 0:
                            continue
                        row += c * window.height
                        for dj in range(window.kernel_width):
                            var column = window.column(j, dj)
                            if column < 0:
                                continue
                            var place = row * window.width + column
                            for s in range(0, block.samples, width):
                                var to = place * block.stride + s
                                var grad = dy.unsafe_load[width=width](
                                    output * block.stride + s
                                )
                                dx.unsafe_store[width=width](
                                    to,
                                    dx.unsafe_load[width=width](to)
                                    + grad / count,
                                )
                    output += 1

    def _count(self, i: Int, j: Int) -> Scalar[Self.scalar]:
        # The pixels of a mean.
        if self.counts_padding:
            return Scalar[Self.scalar](self.window.taps())
        var rows = 0
        for di in range(self.window.kernel_height):
            rows += Int(self.window.row(i, di) >= 0)
        var columns = 0
        for dj in range(self.window.kernel_width):
            columns += Int(self.window.column(j, dj) >= 0)
        return Scalar[Self.scalar](rows * columns)


def _clear[dtype: DType](images: Elements[dtype], window: Window, block: Block):
    comptime width = simd_width_of[dtype]()
    for f in range(window.inputs()):
        var row = f * block.stride
        for at in range(row, row + block.samples, width):
            images.unsafe_store[width=width](at, SIMD[dtype, width](0))
