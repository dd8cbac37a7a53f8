"""Windows that slide over images."""

from ..core.memory import Elements


@fieldwise_init
struct Window(ImplicitlyCopyable, Movable):
    """The places that a window takes on an image.

    Pixel `(i, j)` of channel `c` is feature `(c * height + i) * width + j` of a sample.
    """

    var channels: Int
    """Channels of an image."""
    var height: Int
    """Rows of pixels."""
    var width: Int
    """Pixels of a row."""
    var out_height: Int
    """Places of the window from top to bottom."""
    var out_width: Int
    """Places of the window from left to right."""
    var kernel_height: Int
    """Rows of the window."""
    var kernel_width: Int
    """Columns of the window."""
    var stride_height: Int
    """Rows from a place to the one below."""
    var stride_width: Int
    """Columns from a place to the next."""
    var padding_height: Int
    """Rows by which the first place begins above the image."""
    var padding_width: Int
    """Columns by which the first place begins left of the image."""

    def __init__(
        out self,
        channels: Int,
        height: Int,
        width: Int,
        *,
        kernel: Int,
        stride: Int = 1,
        padding: Int = 0,
    ):
        """Makes a square window.

        Args:
            channels: Channels of an image.
            height: Rows of pixels.
            width: Pixels of a row.
            kernel: Rows and columns of the window.
            stride: Pixels from a place to the next.
            padding: Rows and columns around the image, where pixels are 0.
        """
        self = Self(
            channels,
            height,
            width,
            (height + 2 * padding - kernel) // stride + 1,
            (width + 2 * padding - kernel) // stride + 1,
            kernel,
            kernel,
            stride,
            stride,
            padding,
            padding,
        )

    @always_inline
    def inputs(self) -> Int:
        """Counts the pixels of all channels.

        Returns:
            The number of pixels.
        """
        return self.channels * self.height * self.width

    @always_inline
    def places(self) -> Int:
        """Counts the places of the window.

        Returns:
            The number of places.
        """
        return self.out_height * self.out_width

    @always_inline
    def taps(self) -> Int:
        """Counts the pixels that the window covers.

        Returns:
            The number of pixels.
        """
        return self.kernel_height * self.kernel_width

    @always_inline
    def row(self, i: Int, di: Int) -> Int:
        """Finds the row of pixels below a row of the window.

        Args:
            i: The place of the window from the top.
            di: The row of the window.

        Returns:
            The row, or a negative number outside of the image.
        """
        var row = i * self.stride_height + di - self.padding_height
        return row if row < self.height else -1

    @always_inline
    def column(self, j: Int, dj: Int) -> Int:
        """Finds the column of pixels below a column of the window.

        Args:
            j: The place of the window from the left.
            dj: The column of the window.

        Returns:
            The column, or a negative number outside of the image.
        """
        var column = j * self.stride_width + dj - self.padding_width
        return column if column < self.width else -1
