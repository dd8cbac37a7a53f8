"""Products and transposes against plain loops; small whole numbers make all sums exact."""

from std.testing import TestSuite, assert_equal, assert_true

from shared.training.core.matmul import (
    Matrix,
    matmul,
    matmul_transposed,
    padded,
    spaced,
    transpose,
)
from shared.training.core.memory import Elements

comptime UNTOUCHED = 77


def numbers[dtype: DType](count: Int, seed: Int) -> List[Scalar[dtype]]:
    """Whole numbers from -4 to 4, and room for a vector behind them."""
    var result = List[Scalar[dtype]](length=count + 64, fill=UNTOUCHED)
    var state = seed
    for i in range(count):
        state = (state * 1103515245 + 12345) % 2147483648
        result[i] = Scalar[dtype]((state >> 16) % 9 - 4)
    return result^


def view[
    dtype: DType
](list: List[Scalar[dtype]], row_stride: Int, column_stride: Int) -> Matrix[
    dtype
]:
    return Matrix(
        Elements[dtype](unsafe_from_address=Int(list.unsafe_ptr())),
        row_stride,
        column_stride,
    )


def check_product[
    dtype: DType
](
    rows: Int,
    columns: Int,
    depth: Int,
    *,
    is_turned: Bool = False,
    accumulates: Bool = False,
    has_bias: Bool = False,
    gap: Int = 0,
) raises:
    """Compares a product whose left factor may be stored column by column."""
    var row_stride = 1 if is_turned else depth + gap
    var column_stride = rows + gap if is_turned else 1
    var left = numbers[dtype](max(rows, depth) * (rows + depth + gap), 1)
    var right = numbers[dtype](depth * (columns + gap), 2)
    var bias = numbers[dtype](rows, 3)
    var stride = columns + gap
    var product = numbers[dtype](rows * stride, 4)
    var expected = product.copy()
    for r in range(rows):
        for c in range(columns):
            var sum = bias[r] if has_bias else 0
            if accumulates:
                sum += product[r * stride + c]
            for k in range(depth):
                sum += (
                    left[r * row_stride + k * column_stride]
                    * right[k * stride + c]
                )
            expected[r * stride + c] = sum
    matmul[dtype](
        view(product, stride, 1),
        view(left, row_stride, column_stride),
        view(right, stride, 1),
        rows,
        columns,
        depth,
        accumulates,
        Int(bias.unsafe_ptr()) if has_bias else 0,
    )
    _ = left^
    _ = right^
    _ = bias^
    # What lies between the rows, and behind them, is as it was.
    assert_true(
        product == expected,
        String(rows, " x ", columns, " x ", depth, " turned: ", is_turned),
    )


def check_products[dtype: DType]() raises:
    for rows in [1, 2, 5, 6, 7, 11, 12, 13, 25]:
        for columns in [1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 97]:
            for depth in [1, 3, 16]:
                check_product[dtype](rows, columns, depth)
                check_product[dtype](
                    rows, columns, depth, is_turned=True, has_bias=True, gap=3
                )
                check_product[dtype](
                    rows, columns, depth, accumulates=True, has_bias=True
                )


def test_products_are_those_of_plain_loops() raises:
    check_products[DType.float32]()
    check_products[DType.float64]()


def check_far[dtype: DType]() raises:
    for rows in [1, 15, 47, 48, 49, 100]:
        for depth in [63, 64, 65, 130]:
            # Columns of which each is more than 600 elements from the next are packed.
            check_product[dtype](
                rows, 17, depth, is_turned=True, has_bias=True, gap=600
            )
            check_product[dtype](
                rows,
                64,
                depth,
                is_turned=True,
                accumulates=True,
                has_bias=True,
                gap=600,
            )


def test_products_of_columns_far_apart() raises:
    check_far[DType.float32]()
    check_far[DType.float64]()


def check_dots[dtype: DType](accumulates: Bool) raises:
    for rows in [1, 3, 4, 5, 9]:
        for columns in [1, 3, 4, 5, 8]:
            for depth in [1, 7, 16, 17, 40]:
                var left = numbers[dtype](rows * depth, 1)
                var right = numbers[dtype](columns * depth, 2)
                var product = numbers[dtype](rows * columns, 3)
                var expected = product.copy()
                for r in range(rows):
                    for c in range(columns):
                        var sum: Scalar[dtype] = 0
                        if accumulates:
                            sum = product[r * columns + c]
                        for k in range(depth):
                            sum += left[r * depth + k] * right[c * depth + k]
                        expected[r * columns + c] = sum
                matmul_transposed[dtype](
                    view(product, columns, 1),
                    view(left, depth, 1),
                    view(right, depth, 1),
                    rows,
                    columns,
                    depth,
                    accumulates,
                )
                _ = left^
                _ = right^
                assert_equal(product, expected)


def test_products_by_dots_are_those_of_plain_loops() raises:
    for accumulates in [False, True]:
        check_dots[DType.float32](accumulates)
        check_dots[DType.float64](accumulates)


def check_transpose[dtype: DType](rows: Int, columns: Int) raises:
    var stride = columns + 2
    var source = numbers[dtype](rows * stride, 1)
    var width = padded[dtype](rows)
    var result = numbers[dtype](columns * width, 2)
    transpose[dtype](
        view(result, width, 1), view(source, stride, 1), rows, columns
    )
    for c in range(columns):
        for r in range(width):
            var expected: Scalar[dtype] = 0
            if r < rows:
                expected = source[r * stride + c]
            assert_equal(result[c * width + r], expected)
    assert_equal(result[columns * width], UNTOUCHED)


def test_transposes() raises:
    for rows in [1, 4, 8, 15, 16, 17, 40]:
        for columns in [1, 7, 8, 16, 17, 33]:
            check_transpose[DType.float32](rows, columns)
            check_transpose[DType.float64](rows, columns)


def test_rows_are_not_a_multiple_of_a_kibibyte_apart() raises:
    for count in range(1, 2100):
        var stride = spaced[DType.float32](count)
        assert_true(stride >= count and stride == padded[DType.float32](stride))
        assert_true(stride % 256 != 0, String(count))
        assert_true(stride - count < 32)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
