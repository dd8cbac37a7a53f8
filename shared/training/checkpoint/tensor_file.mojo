"""Tensors in a file of the safetensors format."""

from std.memory import unsafe_memcpy
from std.sys import size_of

from .header import (
    METADATA,
    Header,
    TensorEntry,
    dtype_name,
    dtype_size,
    shape_text,
)
from .storage import AtomicFile, read_file

comptime HEADER_MAX = 100_000_000
"""The most bytes of a header, as in the safetensors library."""


struct TensorFile(Movable):
    """Named tensors and strings, in memory or on their way from or to a file.

    A file of the safetensors format is the length of a header in 8 bytes, the
    header, which is JSON, and the tensors without gaps, little-endian.
    """

    var header: Header
    """What there is; offsets of tensors are those in memory."""
    var _index: Dict[String, Int]
    var _data: List[UInt8]

    def __init__(out self):
        """Starts with nothing."""
        self.header = Header()
        self._index = {}
        self._data = []

    @staticmethod
    def load(path: String) raises -> Self:
        """Reads a file, of which everything is checked.

        Args:
            path: The file.

        Returns:
            Its tensors and strings.

        Raises:
            Error: If it cannot be read, or is not of the format.
        """
        var result = Self()
        result._data = read_file(path)
        try:
            result._read()
        except error:
            raise Error("cannot read ", path, ": ", error)
        return result^

    def save(self, path: String) raises:
        """Writes a file that is complete, or not there.

        Args:
            path: The file; another one of this name is replaced.

        Raises:
            Error: If it cannot be written.
        """
        # Larger elements first: then each tensor lies at a multiple of theirs.
        var order = List[Int]()
        for size in [8, 4, 2]:
            for i in range(len(self.header.tensors)):
                if dtype_size(self.header.tensors[i].dtype) == size:
                    order.append(i)
        var header = Header()
        header.metadata = self.header.metadata.copy()
        var at = 0
        for i in order:
            var entry = self.header.tensors[i].copy()
            var size = entry.end - entry.begin
            entry.begin = at
            entry.end = at + size
            at += size
            header.tensors.append(entry^)
        var text = header.text()
        if text.byte_length() > HEADER_MAX:
            raise Error(
                "cannot write ",
                path,
                ": its header would have ",
                text.byte_length(),
                " bytes, at most ",
                HEADER_MAX,
                " are allowed",
            )
        var file = AtomicFile(path)
        var length = List[UInt8]()
        for i in range(8):
            length.append(UInt8((text.byte_length() >> (8 * i)) & 0xFF))
        file.write(length)
        file.write(text.as_bytes())
        for i in order:
            ref entry = self.header.tensors[i]
            file.write(Span(self._data)[entry.begin : entry.end])
        file.commit()

    def put[
        dtype: DType
    ](
        mut self,
        name: String,
        values: Span[mut=False, Scalar[dtype], _],
        shape: List[Int],
    ) raises:
        """Adds a tensor.

        Parameters:
            dtype: Float32, float64, bfloat16 or int64.

        Args:
            name: Its name, which no other has.
            values: Its elements, row by row.
            shape: Its lengths.

        Raises:
            Error: If the shape is not that of as many elements, or the name is
                taken.
        """
        comptime assert (
            dtype_name(dtype) != ""
        ), "dtype must be float32, float64, bfloat16 or int64"
        if name in self._index or name == METADATA:
            raise Error("name must not be taken, got ", repr(name))
        if _count(shape) != len(values):
            raise Error(
                "shape of ",
                repr(name),
                " must have ",
                len(values),
                " elements, got ",
                shape_text(shape),
            )
        var begin = len(self._data)
        self._data.extend(
            Span(
                unsafe_ptr=values.unsafe_ptr().unsafe_bitcast[UInt8](),
                length=len(values) * size_of[Scalar[dtype]](),
            )
        )
        self._index[name] = len(self.header.tensors)
        self.header.tensors.append(
            TensorEntry(name, dtype, shape.copy(), begin, len(self._data))
        )

    def get[
        dtype: DType
    ](self, name: String, shape: List[Int]) raises -> List[Scalar[dtype]]:
        """Copies a tensor.

        Parameters:
            dtype: The dtype that it must have.

        Args:
            name: Its name.
            shape: The shape that it must have.

        Returns:
            Its elements, row by row.

        Raises:
            Error: If there is none, or it is of another dtype or shape.
        """
        ref entry = self.entry(name)
        if entry.dtype != dtype or entry.shape != shape:
            raise Error(
                "tensor ",
                repr(name),
                " must be ",
                dtype_name(dtype),
                " ",
                shape_text(shape),
                ", got ",
                dtype_name(entry.dtype),
                " ",
                shape_text(entry.shape),
            )
        var count = (entry.end - entry.begin) // size_of[Scalar[dtype]]()
        var result = List[Scalar[dtype]](length=count, fill=0)
        unsafe_memcpy(
            dest=result.unsafe_ptr().unsafe_bitcast[UInt8](),
            src=self._data.unsafe_ptr().unsafe_offset(entry.begin),
            count=entry.end - entry.begin,
        )
        return result^

    def has(self, name: String) -> Bool:
        """Tells whether there is a tensor.

        Args:
            name: Its name.

        Returns:
            Whether there is one of that name.
        """
        return name in self._index

    def entry(
        self, name: String
    ) raises -> ref[self.header.tensors[0]] TensorEntry:
        """Finds what is known of a tensor.

        Args:
            name: Its name.

        Returns:
            Its dtype, shape and place.

        Raises:
            Error: If there is none.
        """
        var index = self._index.get(name, -1)
        if index < 0:
            raise Error("there is no tensor ", repr(name))
        return self.header.tensors[index]

    def string(self, name: String) raises -> String:
        """Finds a string of the metadata.

        Args:
            name: Its name.

        Returns:
            The string.

        Raises:
            Error: If there is none.
        """
        if name not in self.header.metadata:
            raise Error("the metadata have no ", repr(name))
        return self.header.metadata[name]

    def _read(mut self) raises:
        var size = len(self._data)
        if size < 8:
            raise Error(
                "it has ", size, " bytes, too few for a header's length"
            )
        var length = 0
        for i in range(8):
            # A length with the highest bit would be negative.
            if i == 7 and self._data[i] > 0x7F:
                raise Error("the length of its header is out of range")
            length |= Int(self._data[i]) << (8 * i)
        if length > min(size - 8, HEADER_MAX):
            raise Error(
                "its header should have ",
                length,
                " bytes, but the file has ",
                size,
                ", and at most ",
                HEADER_MAX,
                " are allowed",
            )
        if length == 0 or self._data[8] != UInt8(ord("{")):
            raise Error("its header does not begin with {")
        self.header = Header(Span(self._data)[8 : 8 + length])
        _check_places(self.header, size - 8 - length)
        for i in range(len(self.header.tensors)):
            ref entry = self.header.tensors[i]
            self._index[entry.name] = i
            entry.begin += 8 + length
            entry.end += 8 + length


def _check_places(header: Header, size: Int) raises:
    # Tensors lie one behind the other from the first byte to the last.
    var ends = Dict[Int, Int]()
    for entry in header.tensors:
        if entry.end > size:
            raise Error(
                "tensor ",
                repr(entry.name),
                " ends at byte ",
                entry.end,
                " of ",
                size,
            )
        var bytes = entry.end - entry.begin
        var wanted = _count(entry.shape, size // dtype_size(entry.dtype))
        if wanted * dtype_size(entry.dtype) != bytes:
            raise Error(
                "tensor ",
                repr(entry.name),
                " of ",
                dtype_name(entry.dtype),
                " ",
                shape_text(entry.shape),
                " has ",
                bytes,
                " bytes",
            )
        if bytes > 0:
            if entry.begin in ends:
                raise Error(
                    "two tensors begin at byte ",
                    entry.begin,
                    ", ",
                    repr(entry.name),
                    " and another one",
                )
            ends[entry.begin] = entry.end
    var at = 0
    var tensors = 0
    while at in ends:
        at = ends.get(at, size)
        tensors += 1
    if at != size or tensors != len(ends):
        raise Error(
            "its tensors leave a gap or overlap behind byte ",
            at,
            " of ",
            size,
        )


def _count(shape: List[Int], largest: Int = Int.MAX) -> Int:
    """Multiplies lengths; -1 if one is negative, or the product above `largest`."""
    var count = 1
    for length in shape:
        if length < 0:
            return -1
        if length == 0:
            count = 0
    if count == 0:
        return 0
    for length in shape:
        if count > largest // length:
            return -1
        count *= length
    return count
