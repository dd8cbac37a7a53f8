"""Numbers of any float dtype, read block by block as float64."""

from std.sys import size_of

from ..core import load, pointer_at

comptime BLOCK = 256
"""The numbers of a block, which stay in the fastest cache."""

comptime LANES = 8
"""Lanes of float64, whatever the CPU, so that sums have the same bits on all."""

comptime Lanes = SIMD[DType.float64, LANES]
"""Numbers in work."""

comptime Doubles = MutPointer[Float64, MutUntrackedOrigin]
"""A block in work, or other numbers in memory."""

comptime Reader = def(Int, Int, Int, Doubles) thin -> None
"""Reads numbers: `(address, stride, count, target)`, the stride in elements."""


def read_block[
    dtype: DType
](address: Int, stride: Int, count: Int, target: Doubles):
    """Reads numbers and widens them to float64.

    Parameters:
        dtype: The dtype in memory.

    Args:
        address: The address of the first number.
        stride: Elements from one number to the next.
        count: How many numbers.
        target: Where they go, with room for whole lanes.
    """
    var memory = pointer_at[Scalar[dtype]](address)
    var first = 0
    if stride == 1:
        first = count // LANES * LANES
        for i in range(0, first, LANES):
            target.unsafe_store[width=LANES](
                i, load[dtype, LANES](memory, i).cast[DType.float64]()
            )
    for i in range(first, count):
        target[unsafe_offset=i] = load[dtype, 1](memory, i * stride).cast[
            DType.float64
        ]()


@always_inline
def pad(numbers: Doubles, count: Int, value: Float64):
    """Fills the last lanes of a block.

    Args:
        numbers: The block.
        count: How many numbers it has.
        value: What comes behind them, up to a whole number of lanes.
    """
    var end = (count + LANES - 1) // LANES * LANES
    for i in range(count, end):
        numbers[unsafe_offset=i] = value


@fieldwise_init
struct Column(ImplicitlyCopyable, Movable):
    """Numbers in memory that somebody else owns."""

    var address: Int
    """The address of the first number; 0 if there are none."""
    var stride: Int
    """Elements from one number to the next."""
    var size: Int
    """Bytes of an element."""
    var reader: Reader
    """Reads the dtype."""

    @staticmethod
    def of[dtype: DType](address: Int, stride: Int = 1) -> Self:
        """Describes numbers of a dtype.

        Parameters:
            dtype: A float dtype: of 32, 64 or 16 bits, or bfloat16.

        Args:
            address: The address of the first one; 0 if there are none.
            stride: Elements from one number to the next.

        Returns:
            The column.
        """
        return Self(
            address, stride, size_of[Scalar[dtype]](), read_block[dtype]
        )

    @staticmethod
    def of[dtype: DType](numbers: Span[mut=False, Scalar[dtype], _]) -> Self:
        """Describes the numbers of a span, which must outlive the column.

        Parameters:
            dtype: A float dtype: of 32, 64 or 16 bits, or bfloat16.

        Args:
            numbers: The numbers.

        Returns:
            The column.
        """
        return Self.of[dtype](Int(numbers.unsafe_ptr()))

    @staticmethod
    def none() -> Self:
        """Describes no numbers.

        Returns:
            A column whose address is 0.
        """
        return Self.of[DType.float64](0)

    def is_none(self) -> Bool:
        """Tells whether there are no numbers.

        Returns:
            Whether the address is 0.
        """
        return self.address == 0

    def moved(self, elements: Int) -> Self:
        """Describes the column beside this one.

        Args:
            elements: How many elements of memory it is away.

        Returns:
            The column.
        """
        return Self(
            self.address + elements * self.size,
            self.stride,
            self.size,
            self.reader,
        )

    @always_inline
    def read(
        self, first: Int, count: Int, target: Doubles, default: Float64 = 0
    ):
        """Reads a block.

        Args:
            first: The index of its first number.
            count: How many numbers, at most `BLOCK`.
            target: Where they go.
            default: What goes there if there are no numbers.
        """
        if self.is_none():
            for i in range(0, count, LANES):
                target.unsafe_store[width=LANES](i, Lanes(default))
            return
        self.reader(
            self.address + first * self.stride * self.size,
            self.stride,
            count,
            target,
        )
