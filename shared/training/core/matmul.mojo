"""Products and transposes of small matrices, in registers.

The three products of a linear layer are one function here, since the left factor has free
strides. With activations stored feature by feature (features x samples), `W X` and
`W^T dY` have samples in the lanes, and `dY X^T` has inputs there: no shape with few
outputs wastes lanes. Nothing is packed but the left factor of a large `W^T dY`.
"""

from std.math import iota
from std.sys import simd_width_of, size_of
from std.sys.intrinsics import masked_load, masked_store

from .memory import Elements


comptime NEAR = 32 * 1024
"""The most bytes from the first to the last column of a left factor that is read in place."""

comptime PACKED_ROWS = 48
"""Rows of a left factor that are packed together."""

comptime PACKED_COLUMNS = 64
"""Columns that are packed together, so that they and as many rows of the right factor stay in the
first cache."""


@fieldwise_init
struct Matrix[dtype: DType](ImplicitlyCopyable, Movable):
    """A view of a matrix.

    Parameters:
        dtype: The dtype of the elements.
    """

    var elements: Elements[Self.dtype]
    """The first element."""
    var row_stride: Int
    """Elements from a row to the next."""
    var column_stride: Int
    """Elements from a column to the next."""

    @always_inline
    def row(self, index: Int) -> Self:
        """Views the rows from one on.

        Args:
            index: The row.

        Returns:
            The view.
        """
        return Self(
            self.elements.unsafe_offset(index * self.row_stride),
            self.row_stride,
            self.column_stride,
        )

    @always_inline
    def column(self, index: Int) -> Self:
        """Views the columns from one on.

        Args:
            index: The column.

        Returns:
            The view.
        """
        return Self(
            self.elements.unsafe_offset(index * self.column_stride),
            self.row_stride,
            self.column_stride,
        )


def padded[dtype: DType](count: Int) -> Int:
    """Rounds a number of elements up to whole vectors.

    Parameters:
        dtype: The dtype of the elements.

    Args:
        count: The number.

    Returns:
        The least multiple of the lanes of a vector that is not below it.
    """
    comptime width = simd_width_of[dtype]()
    return (count + width - 1) // width * width


def spaced[dtype: DType](count: Int) -> Int:
    """Rounds the length of rows up to whole vectors, to one more where many rows would otherwise
    compete for few places of the first cache.

    Parameters:
        dtype: The dtype of the elements.

    Args:
        count: Elements of a row.

    Returns:
        Elements from a row to the next.
    """
    comptime width = simd_width_of[dtype]()
    var stride = padded[dtype](count)
    return stride + width if stride * size_of[dtype]() % 1024 == 0 else stride


def matmul[
    dtype: DType
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    rows: Int,
    columns: Int,
    depth: Int,
    accumulates: Bool = False,
    bias: Int = 0,
):
    """Computes `product = left @ right`, or adds that to what is there.

    Parameters:
        dtype: Float32 or float64.

    Args:
        product: `rows` x `columns`, with contiguous rows.
        left: `rows` x `depth`.
        right: `depth` x `columns`, with contiguous rows.
        rows: Rows of the product.
        columns: Columns of the product; no other is read or written.
        depth: The length of the dot products.
        accumulates: Whether the product is added to what is there.
        bias: Address of a number for each row that is added to it, or 0.
    """
    if left.column_stride == 1 or (
        left.column_stride * depth * size_of[dtype]() <= NEAR
    ):
        _multiply[dtype](
            product, left, right, rows, columns, depth, accumulates, bias
        )
        return
    # Columns far apart would compete for few places of the first cache.
    var memory = Array[Scalar[dtype], PACKED_ROWS * PACKED_COLUMNS](
        uninitialized=True
    )
    var packed = Elements[dtype](unsafe_from_address=Int(memory.unsafe_ptr()))
    for first in range(0, depth, PACKED_COLUMNS):
        var count = min(PACKED_COLUMNS, depth - first)
        for row in range(0, rows, PACKED_ROWS):
            var height = min(PACKED_ROWS, rows - row)
            _pack[dtype](packed, left.row(row).column(first), height, count)
            _multiply[dtype](
                product.row(row),
                Matrix(packed, 1, PACKED_ROWS),
                right.row(first),
                height,
                columns,
                count,
                accumulates or first > 0,
                0 if bias == 0 or first > 0 else bias + row * size_of[dtype](),
            )
    # It is in use up to here.
    _ = memory


@always_inline
def _pack[
    dtype: DType
](packed: Elements[dtype], left: Matrix[dtype], rows: Int, columns: Int):
    comptime width = simd_width_of[dtype]()
    for column in range(columns):
        var source = left.column(column)
        var target = packed.unsafe_offset(column * PACKED_ROWS)
        var row = 0
        if left.row_stride == 1:
            while row + width <= rows:
                target.unsafe_store[width=width](
                    row, source.elements.unsafe_load[width=width](row)
                )
                row += width
        while row < rows:
            target[unsafe_offset=row] = source.row(row).elements[]
            row += 1


@no_inline
def _multiply[
    dtype: DType
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    rows: Int,
    columns: Int,
    depth: Int,
    accumulates: Bool,
    bias: Int,
):
    comptime width = simd_width_of[dtype]()
    # A tile fills about 28 of 32 registers, or 14 of 16: sums, columns, one factor.
    comptime is_wide = width * size_of[dtype]() == 64
    comptime vectors = 4 if is_wide else 2
    var column = 0
    while columns - column >= vectors * width:
        _multiply_rows[dtype, 6, vectors, False](
            product.column(column),
            left,
            right.column(column),
            rows,
            depth,
            accumulates,
            bias,
            width,
        )
        column += vectors * width
    comptime if is_wide:
        if columns - column >= 2 * width:
            _multiply_rows[dtype, 12, 2, False](
                product.column(column),
                left,
                right.column(column),
                rows,
                depth,
                accumulates,
                bias,
                width,
            )
            column += 2 * width
    while column < columns:
        _multiply_rows[dtype, 12, 1, True](
            product.column(column),
            left,
            right.column(column),
            rows,
            depth,
            accumulates,
            bias,
            min(width, columns - column),
        )
        column += width


@always_inline
def _multiply_rows[
    dtype: DType, tallest: Int, vectors: Int, has_mask: Bool
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    rows: Int,
    depth: Int,
    accumulates: Bool,
    bias: Int,
    lanes: Int,
):
    var row = 0
    comptime heights = [tallest, 6, 4, 2, 1]
    comptime for index in range(5):
        comptime height = heights[index]
        comptime if index == 0 or height < tallest:
            while row + height <= rows:
                _multiply_tile[dtype, height, vectors, has_mask](
                    product.row(row),
                    left.row(row),
                    right,
                    depth,
                    accumulates,
                    0 if bias == 0 else bias + row * size_of[dtype](),
                    lanes,
                )
                row += height


@always_inline
def _multiply_tile[
    dtype: DType, height: Int, vectors: Int, has_mask: Bool
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    depth: Int,
    accumulates: Bool,
    bias: Int,
    lanes: Int,
):
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    var mask = iota[DType.int32, width]().lt(Int32(lanes))
    var sums = Array[Lanes, height * vectors](fill=0)
    var a = left.elements
    var b = right.elements
    for _ in range(depth):
        var columns = Array[Lanes, vectors](fill=0)
        comptime for v in range(vectors):
            comptime if has_mask:
                columns[v] = masked_load[width](b, mask, Lanes(0))
            else:
                columns[v] = b.unsafe_load[width=width](v * width)
        comptime for r in range(height):
            var factor = Lanes(a[unsafe_offset=r * left.row_stride])
            comptime for v in range(vectors):
                comptime at = r * vectors + v
                sums[at] = factor.fma(columns[v], sums[at])
        a = a.unsafe_offset(left.column_stride)
        b = b.unsafe_offset(right.row_stride)
    comptime for r in range(height):
        var row = product.row(r).elements
        var start = Lanes(0)
        if bias != 0:
            var numbers = Elements[dtype](unsafe_from_address=bias)
            start = Lanes(numbers[unsafe_offset=r])
        comptime for v in range(vectors):
            var place = row.unsafe_offset(v * width)
            var value = sums[r * vectors + v] + start
            comptime if has_mask:
                if accumulates:
                    value += masked_load[width](place, mask, Lanes(0))
                masked_store(value, place, mask)
            else:
                if accumulates:
                    value += place.unsafe_load[width=width](0)
                place.unsafe_store[width=width](0, value)


@no_inline
def matmul_transposed[
    dtype: DType
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    rows: Int,
    columns: Int,
    depth: Int,
    accumulates: Bool = False,
):
    """Computes `product = left @ right^T` by dot products, or adds that.

    Parameters:
        dtype: Float32 or float64.

    Args:
        product: `rows` x `columns`.
        left: `rows` x `depth`, with contiguous rows.
        right: `columns` x `depth`, with contiguous rows.
        rows: Rows of the product.
        columns: Columns of the product.
        depth: The length of the dot products.
        accumulates: Whether the product is added to what is there.
    """
    var row = 0
    while row + 4 <= rows:
        _dot_columns[dtype, 4](
            product.row(row), left.row(row), right, columns, depth, accumulates
        )
        row += 4
    while row < rows:
        _dot_columns[dtype, 1](
            product.row(row), left.row(row), right, columns, depth, accumulates
        )
        row += 1


@always_inline
def _dot_columns[
    dtype: DType, height: Int
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    columns: Int,
    depth: Int,
    accumulates: Bool,
):
    var column = 0
    while column + 4 <= columns:
        _dot_tile[dtype, height, 4](
            product.column(column), left, right.row(column), depth, accumulates
        )
        column += 4
    while column < columns:
        _dot_tile[dtype, height, 1](
            product.column(column), left, right.row(column), depth, accumulates
        )
        column += 1


@always_inline
def _dot_tile[
    dtype: DType, height: Int, breadth: Int
](
    product: Matrix[dtype],
    left: Matrix[dtype],
    right: Matrix[dtype],
    depth: Int,
    accumulates: Bool,
):
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    var sums = Array[Lanes, height * breadth](fill=0)
    var at = 0
    while at + width <= depth:
        var factors = Array[Lanes, breadth](fill=0)
        comptime for c in range(breadth):
            factors[c] = right.row(c).elements.unsafe_load[width=width](at)
        comptime for r in range(height):
            var factor = left.row(r).elements.unsafe_load[width=width](at)
            comptime for c in range(breadth):
                comptime index = r * breadth + c
                sums[index] = factor.fma(factors[c], sums[index])
        at += width
    if at < depth:
        var mask = iota[DType.int32, width]().lt(Int32(depth - at))
        comptime for r in range(height):
            var factor = masked_load[width](
                left.row(r).elements.unsafe_offset(at), mask, Lanes(0)
            )
            comptime for c in range(breadth):
                comptime index = r * breadth + c
                var other = masked_load[width](
                    right.row(c).elements.unsafe_offset(at), mask, Lanes(0)
                )
                sums[index] = factor.fma(other, sums[index])
    comptime for r in range(height):
        comptime for c in range(breadth):
            var place = product.row(r).column(c).elements
            var value = sums[r * breadth + c].reduce_add()
            place[] = place[] + value if accumulates else value


@no_inline
def transpose[
    dtype: DType
](out_: Matrix[dtype], source: Matrix[dtype], rows: Int, columns: Int):
    """Transposes a matrix.

    What the last vector of a row of the result holds beyond its columns becomes 0.

    Parameters:
        dtype: Float32 or float64.

    Args:
        out_: `columns` x `padded(rows)`, with contiguous rows.
        source: `rows` x `columns`, with contiguous rows; no other element is read.
        rows: Rows of the source.
        columns: Columns of the source.
    """
    comptime width = simd_width_of[dtype]()
    var row = 0
    while row < rows:
        var column = 0
        while column < columns:
            _transpose_tile[dtype](
                out_.row(column).column(row),
                source.row(row).column(column),
                min(width, rows - row),
                min(width, columns - column),
            )
            column += width
        row += width


@always_inline
def _transpose_tile[
    dtype: DType
](out_: Matrix[dtype], source: Matrix[dtype], rows: Int, columns: Int):
    comptime width = simd_width_of[dtype]()
    comptime Lanes = SIMD[dtype, width]
    comptime stages = 4 if width == 16 else 3 if width == 8 else 2
    var lanes = Array[Lanes, width](fill=0)
    if rows == width and columns == width:
        comptime for r in range(width):
            lanes[r] = source.row(r).elements.unsafe_load[width=width](0)
    else:
        var mask = iota[DType.int32, width]().lt(Int32(columns))
        comptime for r in range(width):
            if r < rows:
                lanes[r] = masked_load[width](
                    source.row(r).elements, mask, Lanes(0)
                )
    # Each stage interleaves the halves, which rotates the bits of an element's number.
    comptime for _ in range(stages):
        var mixed = Array[Lanes, width](fill=0)
        comptime for r in range(width // 2):
            var pair = lanes[r].interleave(lanes[r + width // 2])
            mixed[2 * r] = pair.slice[width, offset=0]()
            mixed[2 * r + 1] = pair.slice[width, offset=width]()
        lanes = mixed^
    comptime for c in range(width):
        if c < columns:
            out_.row(c).elements.unsafe_store[width=width](0, lanes[c])
