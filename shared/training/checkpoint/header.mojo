"""The header of a safetensors file: JSON of a fixed form."""

comptime METADATA = "__metadata__"
"""The key of the strings that belong to no tensor."""


@fieldwise_init
struct TensorEntry(Copyable, Movable):
    """What a header says of a tensor."""

    var name: String
    """Its name."""
    var dtype: DType
    """The dtype of its elements."""
    var shape: List[Int]
    """Its lengths, none for a single element."""
    var begin: Int
    """Its first byte."""
    var end: Int
    """One past its last byte."""


struct Header(Movable):
    """The tensors and strings of a file."""

    var tensors: List[TensorEntry]
    """The tensors, in their order."""
    var metadata: Dict[String, String]
    """The strings by name."""

    def __init__(out self):
        """Starts with none."""
        self.tensors = []
        self.metadata = {}

    def __init__(out self, text: Span[mut=False, UInt8, _]) raises:
        """Reads JSON.

        Args:
            text: The JSON, in UTF-8.

        Raises:
            Error: If it is not that of a header.
        """
        self = Self()
        var reader = _Reader(text)
        var names = Dict[String, Bool]()
        reader.expect("{")
        while reader.has_next(len(names)):
            var name = reader.string()
            if name in names:
                raise Error("the header has ", repr(name), " twice")
            names[name] = True
            reader.expect(":")
            if name == METADATA:
                self.metadata = _read_metadata(reader)
            else:
                self.tensors.append(_read_entry(reader, name))
        reader.expect_end()

    def text(self) -> String:
        """Writes JSON.

        Returns:
            The JSON, padded with spaces to a multiple of 8 bytes.
        """
        var parts = List[String]()
        if len(self.metadata) > 0:
            var strings = List[String]()
            for item in self.metadata.items():
                strings.append(
                    String(_quoted(item.key), ":", _quoted(item.value))
                )
            parts.append(
                String('"', METADATA, '":{', String(",").join(strings), "}")
            )
        for tensor in self.tensors:
            parts.append(
                String(
                    _quoted(tensor.name),
                    ':{"dtype":"',
                    dtype_name(tensor.dtype),
                    '","shape":',
                    shape_text(tensor.shape),
                    ',"data_offsets":[',
                    tensor.begin,
                    ",",
                    tensor.end,
                    "]}",
                )
            )
        var result = String("{", String(",").join(parts), "}")
        return result + String(" ") * (-result.byte_length() % 8)


def dtype_name(dtype: DType) -> String:
    """Names a dtype as the format does.

    Args:
        dtype: The dtype.

    Returns:
        The name; empty if files cannot hold it.
    """
    if dtype == DType.float32:
        return "F32"
    if dtype == DType.float64:
        return "F64"
    if dtype == DType.bfloat16:
        return "BF16"
    if dtype == DType.int64:
        return "I64"
    return ""


def dtype_size(dtype: DType) -> Int:
    """Counts the bytes of an element.

    Args:
        dtype: One that files can hold.

    Returns:
        The number of bytes.
    """
    if dtype == DType.bfloat16:
        return 2
    return 4 if dtype == DType.float32 else 8


def shape_text(shape: List[Int]) -> String:
    """Writes a shape.

    Args:
        shape: The lengths.

    Returns:
        The text, such as `[2,3]`.
    """
    var lengths = List[String]()
    for length in shape:
        lengths.append(String(length))
    return String("[", String(",").join(lengths), "]")


def _dtype(name: String) raises -> DType:
    for dtype in [
        DType.float32,
        DType.float64,
        DType.bfloat16,
        DType.int64,
    ]:
        if dtype_name(dtype) == name:
            return dtype
    raise Error("dtype must be F32, F64, BF16 or I64, got ", repr(name))


def _read_metadata(mut reader: _Reader) raises -> Dict[String, String]:
    var result = Dict[String, String]()
    reader.expect("{")
    while reader.has_next(len(result)):
        var key = reader.string()
        if key in result:
            raise Error("the metadata have ", repr(key), " twice")
        reader.expect(":")
        result[key] = reader.string()
    return result^


def _read_entry(mut reader: _Reader, name: String) raises -> TensorEntry:
    var entry = TensorEntry(name, DType.float32, [], 0, 0)
    var seen = List[String]()
    reader.expect("{")
    while reader.has_next(len(seen)):
        var key = reader.string()
        if key in seen:
            raise Error("tensor ", repr(name), " has ", repr(key), " twice")
        reader.expect(":")
        if key == "dtype":
            try:
                entry.dtype = _dtype(reader.string())
            except error:
                raise Error("tensor ", repr(name), ": ", error)
        elif key == "shape":
            entry.shape = reader.numbers()
        elif key == "data_offsets":
            var offsets = reader.numbers()
            if len(offsets) != 2 or offsets[0] > offsets[1]:
                raise Error(
                    "tensor ",
                    repr(name),
                    ": data_offsets must be two numbers that do not fall",
                )
            entry.begin = offsets[0]
            entry.end = offsets[1]
        else:
            raise Error("tensor ", repr(name), " has unknown ", repr(key))
        seen.append(key)
    if len(seen) != 3:
        raise Error(
            "tensor ", repr(name), " must have dtype, shape and data_offsets"
        )
    return entry^


def _quoted(text: String) -> String:
    comptime digits = "0123456789abcdef"
    var result = List[UInt8]()
    result.append(UInt8(ord('"')))
    for byte in text.as_bytes():
        if byte == UInt8(ord('"')) or byte == UInt8(ord("\\")):
            result.append(UInt8(ord("\\")))
            result.append(byte)
        elif byte < 0x20:
            result.extend(String("\\u00").as_bytes())
            result.append(digits.as_bytes()[Int(byte >> 4)])
            result.append(digits.as_bytes()[Int(byte & 15)])
        else:
            result.append(byte)
    result.append(UInt8(ord('"')))
    return String(unsafe_from_utf8=result)


struct _Reader(Movable):
    var text: List[UInt8]
    var at: Int

    def __init__(out self, text: Span[mut=False, UInt8, _]):
        self.text = List[UInt8](text)
        self.at = 0

    def peek(self) -> Int:
        return Int(self.text[self.at]) if self.at < len(self.text) else -1

    def skip_space(mut self):
        while self.peek() in (0x20, 0x09, 0x0A, 0x0D):
            self.at += 1

    def fail(self, wanted: String) raises:
        if self.at >= len(self.text):
            raise Error("the header ends where ", wanted, " should be")
        raise Error("byte ", self.at, " of the header should be ", wanted)

    def expect(mut self, character: String) raises:
        self.skip_space()
        if self.peek() != ord(character):
            self.fail(repr(character))
        self.at += 1

    def expect_end(mut self) raises:
        self.skip_space()
        if self.at < len(self.text):
            self.fail("its end")

    def has_next(mut self, count: Int) raises -> Bool:
        """Goes to the next member of an object that has had `count` so far."""
        self.skip_space()
        if self.peek() == ord("}"):
            self.at += 1
            return False
        if count > 0:
            self.expect(",")
        return True

    def numbers(mut self) raises -> List[Int]:
        var result = List[Int]()
        self.expect("[")
        self.skip_space()
        if self.peek() == ord("]"):
            self.at += 1
            return result^
        while True:
            result.append(self.number())
            self.skip_space()
            if self.peek() == ord("]"):
                self.at += 1
                return result^
            self.expect(",")

    def number(mut self) raises -> Int:
        self.skip_space()
        var first = self.at
        var result = 0
        while ord("0") <= self.peek() <= ord("9"):
            var digit = self.peek() - ord("0")
            if result > (Int.MAX - digit) // 10:
                raise Error(
                    "byte ", first, " of the header: too large a number"
                )
            result = 10 * result + digit
            self.at += 1
        if self.at == first:
            self.fail("a whole number")
        if self.at - first > 1 and self.text[first] == UInt8(ord("0")):
            raise Error(
                "byte ", first, " of the header: a number begins with 0"
            )
        return result

    def string(mut self) raises -> String:
        self.expect('"')
        var result = List[UInt8]()
        while True:
            var byte = self.peek()
            if byte < 0x20:
                self.fail("a character of a string")
            self.at += 1
            if byte == ord('"'):
                break
            if byte == ord("\\"):
                self.escape(result)
            else:
                result.append(UInt8(byte))
        try:
            return String(from_utf8=result)
        except:
            raise Error(
                "the string before byte ", self.at, " of the header is no UTF-8"
            )

    def escape(mut self, mut result: List[UInt8]) raises:
        comptime letters = '"\\/bfnrt'
        comptime meanings = '"\\/\b\f\n\r\t'
        var letter = self.peek()
        if letter == ord("u"):
            self.at += 1
            self.code_point(result)
            return
        for i in range(letters.byte_length()):
            if Int(letters.as_bytes()[i]) == letter:
                result.append(meanings.as_bytes()[i])
                self.at += 1
                return
        self.fail("an escape of JSON")

    def code_point(mut self, mut result: List[UInt8]) raises:
        var code = self.hexadecimal()
        if 0xD800 <= code < 0xDC00:
            if self.peek() != ord("\\"):
                self.fail("the second half of a surrogate pair")
            self.at += 1
            if self.peek() != ord("u"):
                self.fail("the second half of a surrogate pair")
            self.at += 1
            var low = self.hexadecimal()
            if not 0xDC00 <= low < 0xE000:
                self.fail("behind the second half of a surrogate pair")
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        elif 0xDC00 <= code < 0xE000:
            self.fail("behind the first half of a surrogate pair")
        if code < 0x80:
            result.append(UInt8(code))
            return
        var tails = 1
        if code >= 0x800:
            tails = 2 if code < 0x10000 else 3
        var lead = (0xFF00 >> (tails + 1)) & 0xFF
        result.append(UInt8(lead | (code >> (6 * tails))))
        for i in range(tails - 1, -1, -1):
            result.append(UInt8(0x80 | ((code >> (6 * i)) & 0x3F)))

    def hexadecimal(mut self) raises -> Int:
        var result = 0
        for _ in range(4):
            var digit = self.peek()
            if ord("0") <= digit <= ord("9"):
                digit -= ord("0")
            elif ord("a") <= digit <= ord("f"):
                digit -= ord("a") - 10
            elif ord("A") <= digit <= ord("F"):
                digit -= ord("A") - 10
            else:
                self.fail("a hexadecimal digit")
            result = 16 * result + digit
            self.at += 1
        return result
