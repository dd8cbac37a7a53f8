"""Functions of single elements."""

from std.math import erf as std_erf
from std.math import tanh as std_tanh
from std.sys import simd_width_of
from std.utils.numerics import isnan

from ..core.exponential import exp
from ..core.memory import Elements
from .block import Block
from .layer import Layer


trait Activation(Deinitable, ImplicitlyCopyable, Movable):
    """A function of one number, on SIMD lanes."""

    comptime IS_OF_OUTPUT: Bool
    """Whether the derivative is computed from the function's value."""

    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        ...

    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The function's values with `IS_OF_OUTPUT`, otherwise the numbers.

        Returns:
            The derivatives.
        """
        ...


@fieldwise_init
struct Elementwise[scalar: DType, Function: Activation](
    ImplicitlyCopyable, Layer
):
    """Applies a function to each element.

    Parameters:
        scalar: The dtype of samples.
        Function: The function.
    """

    comptime dtype = Self.scalar
    """The dtype of samples."""

    var features: Int
    """Features of an input, and of an output."""
    var function: Self.Function
    """The function."""

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
        """Computes the function of a block.

        Args:
            x: The inputs.
            y: Where the outputs go.
            kept: Not used.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        for f in range(self.features):
            var row = f * block.stride
            for at in range(row, row + block.samples, width):
                y.unsafe_store[width=width](
                    at, self.function.value(x.unsafe_load[width=width](at))
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
        """Multiplies the gradient by the derivative.

        Args:
            x: The inputs.
            y: The outputs.
            kept: Not used.
            dy: The gradient of the outputs.
            dx: Where the gradient of the inputs goes.
            needs_dx: Whether it is needed.
            block: The samples.
        """
        comptime width = simd_width_of[Self.scalar]()
        if not needs_dx:
            return
        var source = x
        comptime if Self.Function.IS_OF_OUTPUT:
            source = y
        for f in range(self.features):
            var row = f * block.stride
            for at in range(row, row + block.samples, width):
                var factor = self.function.derivative(
                    source.unsafe_load[width=width](at)
                )
                dx.unsafe_store[width=width](
                    at, dy.unsafe_load[width=width](at) * factor
                )


@fieldwise_init
struct ReLU(Activation):
    """`max(x, 0)`, NaN where x is NaN."""

    comptime IS_OF_OUTPUT = True
    """Computed from the value."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        return x.le(0).select(SIMD[dtype, width](0), x)

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative, 0 at 0.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The function's values.

        Returns:
            The derivatives.
        """
        return x.le(0).select(SIMD[dtype, width](0), SIMD[dtype, width](1))


@fieldwise_init
struct LeakyReLU(Activation):
    """`x` above 0, `slope * x` elsewhere."""

    comptime IS_OF_OUTPUT = False
    """Computed from the number."""

    var slope: Float64
    """The factor of what is not above 0."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        return x.gt(0).select(x, x * self.slope.cast[dtype]())

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative, the slope at 0.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The derivatives.
        """
        return x.gt(0).select(
            SIMD[dtype, width](1),
            SIMD[dtype, width](self.slope.cast[dtype]()),
        )


@fieldwise_init
struct Tanh(Activation):
    """The hyperbolic tangent."""

    comptime IS_OF_OUTPUT = True
    """Computed from the value."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        return _tanh(x)

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative, `1 - y * y`.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The function's values.

        Returns:
            The derivatives.
        """
        return 1 - x * x


@fieldwise_init
struct Sigmoid(Activation):
    """`1 / (1 + exp(-x))`."""

    comptime IS_OF_OUTPUT = True
    """Computed from the value."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        return 1 / (1 + exp(-x))

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative, `y * (1 - y)`.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The function's values.

        Returns:
            The derivatives.
        """
        return x * (1 - x)


@fieldwise_init
struct SiLU(Activation):
    """`x * sigmoid(x)` (Elfwing et al., 2017, arXiv:1702.03118)."""

    comptime IS_OF_OUTPUT = False
    """Computed from the number."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        return x / (1 + exp(-x))

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative, `s * (1 + x * (1 - s))` with `s = sigmoid(x)`.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The derivatives.
        """
        var s = 1 / (1 + exp(-x))
        return s * (1 + x * (1 - s))


@fieldwise_init
struct GELU(Activation):
    """`x * Phi(x)` with the normal distribution (arXiv:1606.08415)."""

    comptime IS_OF_OUTPUT = False
    """Computed from the number."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the function.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        comptime half_root = Scalar[dtype](0.70710678118654752440)
        return x * 0.5 * (1 + _erf(x * half_root))

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative, `Phi(x) + x * phi(x)`.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The derivatives.
        """
        comptime half_root = Scalar[dtype](0.70710678118654752440)
        comptime density = Scalar[dtype](0.39894228040143267794)
        return 0.5 * (1 + _erf(x * half_root)) + x * density * exp(
            x * x * Scalar[dtype](-0.5)
        )


@fieldwise_init
struct TanhGELU(Activation):
    """GELU with a hyperbolic tangent for the distribution (arXiv:1606.08415)."""

    comptime IS_OF_OUTPUT = False
    """Computed from the number."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The values.
        """
        return 0.5 * x * (1 + _inner(x))

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The numbers.

        Returns:
            The derivatives.
        """
        comptime root = Scalar[dtype](0.79788456080286535588)
        comptime cube = Scalar[dtype](3 * 0.044715)
        var t = _inner(x)
        var slope = (1 - t * t) * root * (1 + cube * x * x)
        return 0.5 * (1 + t) + 0.5 * x * slope


@always_inline
def _inner[
    dtype: DType, width: Int
](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    comptime root = Scalar[dtype](0.79788456080286535588)
    comptime cube = Scalar[dtype](0.044715)
    return _tanh(root * (x + cube * x * x * x))


@always_inline
def _tanh[
    dtype: DType, width: Int
](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    # The library's functions want to know at this place that the dtype is a float, and its
    # tanh clamps what is not a number to 1.
    var value: SIMD[dtype, width]
    comptime if dtype == DType.float32:
        value = std_tanh(x.cast[DType.float32]()).cast[dtype]()
    else:
        value = std_tanh(x.cast[DType.float64]()).cast[dtype]()
    return isnan(x).select(x, value)


@always_inline
def _erf[dtype: DType, width: Int](x: SIMD[dtype, width]) -> SIMD[dtype, width]:
    comptime if dtype == DType.float32:
        return std_erf(x.cast[DType.float32]()).cast[dtype]()
    else:
        return std_erf(x.cast[DType.float64]()).cast[dtype]()
