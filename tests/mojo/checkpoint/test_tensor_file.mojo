"""Files of the safetensors format: what is written comes back, what is damaged is refused."""

from std.os import listdir
from std.testing import TestSuite, assert_equal, assert_raises, assert_true

from shared.training.checkpoint import AtomicFile, TensorFile, read_file
from shared.training.checkpoint.header import Header

from folder import Folder


def file_of(header: String, data: Int, length: Int = -1) -> List[UInt8]:
    """The bytes of a file with a header, and so many bytes of data."""
    var size = header.byte_length() if length < 0 else length
    var result = List[UInt8]()
    for i in range(8):
        result.append(UInt8((size >> (8 * i)) & 0xFF))
    result.extend(header.as_bytes())
    for i in range(data):
        result.append(UInt8(i))
    return result^


def said_of(content: List[UInt8]) raises -> String:
    """What reading these bytes is refused with, behind the path; empty if it is not."""
    with Folder() as folder:
        var path = folder + "/some.safetensors"
        with open(path, "w") as file:
            file.write_bytes(content)
        try:
            _ = TensorFile.load(path)
        except error:
            var said = String(error)
            var start = String("cannot read ", path, ": ")
            assert_true(said.startswith(start), said)
            return String(said.removeprefix(start))
    return ""


def some_file() raises -> TensorFile:
    var file = TensorFile()
    file.put[DType.bfloat16]("b", [BFloat16(1), BFloat16(-2.5)], [2, 1])
    file.put[DType.float32]("a.weight", [Float32(0.1), 2, 3, 4, 5, 6], [2, 3])
    file.put[DType.float64]("empty", List[Float64](), [3, 0])
    file.put[DType.float64]("scalar", [Float64(0.1)], [])
    file.put[DType.int64]("i", [Int64.MIN, Int64.MAX, 3], [3])
    file.header.metadata['a "key"'] = "line\n\ttab \\ \x01 äöü 🦆"
    return file^


def test_what_is_saved_is_loaded() raises:
    with Folder() as folder:
        var path = folder + "/a.safetensors"
        some_file().save(path)
        assert_equal(len(listdir(folder)), 1)
        var file = TensorFile.load(path)
        assert_equal(len(file.header.tensors), 5)
        assert_equal(
            file.get[DType.float32]("a.weight", [2, 3]),
            [Float32(0.1), 2, 3, 4, 5, 6],
        )
        assert_equal(
            file.get[DType.bfloat16]("b", [2, 1]), [BFloat16(1), BFloat16(-2.5)]
        )
        assert_equal(len(file.get[DType.float64]("empty", [3, 0])), 0)
        assert_equal(file.get[DType.float64]("scalar", []), [Float64(0.1)])
        assert_equal(file.get[DType.int64]("i", [3]), [Int64.MIN, Int64.MAX, 3])
        assert_equal(file.string('a "key"'), "line\n\ttab \\ \x01 äöü 🦆")
        assert_true(file.has("b"))
        assert_true(not file.has("c"))
        # Replacing it leaves nothing else in the folder.
        TensorFile().save(path)
        assert_equal(len(listdir(folder)), 1)
        assert_equal(len(TensorFile.load(path).header.tensors), 0)


def test_each_tensor_is_aligned() raises:
    with Folder() as folder:
        var path = folder + "/a.safetensors"
        some_file().save(path)
        var file = TensorFile.load(path)
        var start = Int(read_file(path)[0]) + (Int(read_file(path)[1]) << 8)
        assert_equal(start % 8, 0)
        var sizes: List[Int] = [8, 8, 8, 4, 2]
        for i in range(5):
            assert_equal(file.header.tensors[i].begin % sizes[i], 0)


def test_a_file_cut_off_anywhere_is_refused() raises:
    with Folder() as folder:
        var path = folder + "/a.safetensors"
        some_file().save(path)
        var content = read_file(path)
        assert_equal(said_of(content), "")
        for length in range(len(content)):
            var part = List[UInt8](Span(content)[:length])
            assert_true(said_of(part) != "", String(length))
        content.append(0)
        assert_true("gap or overlap" in said_of(content))


def test_a_flipped_byte_of_a_header_never_crashes() raises:
    with Folder() as folder:
        var path = folder + "/a.safetensors"
        some_file().save(path)
        var content = read_file(path)
        var refused = 0
        for at in range(len(content) - 60):
            for bit in range(0, 8, 3):
                var damaged = content.copy()
                damaged[at] ^= UInt8(1 << bit)
                refused += Int(said_of(damaged) != "")
        assert_true(refused > len(content))


def test_what_is_wrong_is_said() raises:
    def entry(
        dtype: String, shape: String, begin: String, end: String
    ) -> String:
        return String(
            '"t":{"dtype":"',
            dtype,
            '","shape":',
            shape,
            ',"data_offsets":[',
            begin,
            ",",
            end,
            "]}",
        )

    var good = entry("F32", "[2]", "0", "8")
    assert_equal(said_of(file_of("{" + good + "}", 8)), "")
    assert_equal(said_of(file_of("{ }  ", 0)), "")
    var cases: List[Tuple[String, Int, String]] = [
        (String(""), 0, String("its header does not begin with {")),
        (String(" {}"), 0, String("its header does not begin with {")),
        (String("[]"), 0, String("its header does not begin with {")),
        (String("{"), 0, String("the header ends where '\"' should be")),
        (String("{}}"), 0, String("byte 2 of the header should be its end")),
        (String("{") + good + ",}", 8, String("should be '\"'")),
        (String("{") + good + "," + good + "}", 8, String("has 't' twice")),
        (
            String("{") + entry("F16", "[4]", "0", "8") + "}",
            8,
            String(
                "tensor 't': dtype must be F32, F64, BF16 or I64, got 'F16'"
            ),
        ),
        (
            String("{") + entry("F32", "[3]", "0", "8") + "}",
            8,
            String("tensor 't' of F32 [3] has 8 bytes"),
        ),
        (
            String("{")
            + entry("F32", "[2,9223372036854775807]", "0", "8")
            + "}",
            8,
            String("tensor 't' of F32 [2,9223372036854775807] has 8 bytes"),
        ),
        (
            String("{") + entry("F32", "[9223372036854775808]", "0", "8") + "}",
            8,
            String("too large a number"),
        ),
        (
            String("{") + entry("F32", "[-2]", "0", "8") + "}",
            8,
            String("should be a whole number"),
        ),
        (
            String("{") + entry("F32", "[2.0]", "0", "8") + "}",
            8,
            String("should be ','"),
        ),
        (
            String("{") + entry("F32", "[02]", "0", "8") + "}",
            8,
            String("a number begins with 0"),
        ),
        (
            String("{") + entry("F32", "[2]", "8", "0") + "}",
            8,
            String("data_offsets must be two numbers that do not fall"),
        ),
        (
            String("{") + entry("F32", "[2]", "0", "16") + "}",
            8,
            String("tensor 't' ends at byte 16 of 8"),
        ),
        (
            String("{") + entry("F32", "[2]", "4", "12") + "}",
            12,
            String("gap or overlap behind byte 0 of 12"),
        ),
        (String("{") + good + "}", 12, String("gap or overlap behind byte 8")),
        (
            String("{") + good + "," + good.replace('"t"', '"u"') + "}",
            8,
            String("two tensors begin at byte 0"),
        ),
        (
            String("{")
            + good
            + ","
            + entry("F32", "[1]", "4", "8").replace('"t"', '"u"')
            + "}",
            8,
            String("gap or overlap behind byte 8 of 8"),
        ),
        (
            String('{"t":{"dtype":"F32","shape":[2]}}'),
            8,
            String("tensor 't' must have dtype, shape and data_offsets"),
        ),
        (
            String('{"t":{"dtype":"F32","dtype":"F32"}}'),
            8,
            String("tensor 't' has 'dtype' twice"),
        ),
        (
            String('{"t":{"stride":[1]}}'),
            8,
            String("tensor 't' has unknown 'stride'"),
        ),
        (
            String('{"__metadata__":{"a":1}}'),
            0,
            String("should be '\"'"),
        ),
        (
            String('{"__metadata__":{"a":"","a":""}}'),
            0,
            String("the metadata have 'a' twice"),
        ),
        (
            String('{"__metadata__":{"a":"\\x"}}'),
            0,
            String("should be an escape of JSON"),
        ),
        (
            String('{"__metadata__":{"a":"\\ud800b"}}'),
            0,
            String("should be the second half of a surrogate pair"),
        ),
        (
            String('{"__metadata__":{"a":"\n"}}'),
            0,
            String("should be a character of a string"),
        ),
        (String("{") * 100_000, 0, String("should be '\"'")),
    ]
    for i in range(len(cases)):
        ref case_ = cases[i]
        var said = said_of(file_of(case_[0], case_[1]))
        assert_true(case_[2] in said, String(i, ": ", said))


def test_lengths_of_headers_are_checked() raises:
    for length in [3, 1000, 1 << 40, Int.MAX]:
        assert_true(
            "its header should have" in said_of(file_of("{}", 0, length))
        )
    var content = file_of("{}", 0)
    content[7] = 0xFF
    assert_equal(said_of(content), "the length of its header is out of range")
    assert_equal(
        said_of([1, 2, 3]), "it has 3 bytes, too few for a header's length"
    )
    assert_true("cannot read nowhere/x: " in said_by_loading("nowhere/x"))


def said_by_loading(path: String) -> String:
    try:
        _ = TensorFile.load(path)
    except error:
        return String(error)
    return ""


def test_strings_are_not_utf_8() raises:
    var content = file_of('{"__metadata__":{"a":"?"}}', 0)
    for i in range(len(content)):
        if content[i] == UInt8(ord("?")):
            content[i] = 0xFF
    assert_true("is no UTF-8" in said_of(content))


def test_escapes_are_read() raises:
    var text = (
        '{"__metadata__":{"a":"\\u0041\\u00e4\\u20ac\\ud83e\\udd86\\n\\/"}}'
    )
    var header = Header(text.as_bytes())
    assert_equal(header.metadata["a"], "Aä€🦆\n/")


def test_wrong_tensors_are_refused() raises:
    var file = some_file()
    with assert_raises(contains="name must not be taken, got 'b'"):
        file.put[DType.float32]("b", [Float32(1)], [1])
    with assert_raises(contains="name must not be taken, got '__metadata__'"):
        file.put[DType.float32]("__metadata__", [Float32(1)], [1])
    with assert_raises(contains="shape of 'c' must have 2 elements, got [3]"):
        file.put[DType.float32]("c", [Float32(1), 2], [3])
    with assert_raises(contains="tensor 'i' must be F32 [3], got I64 [3]"):
        _ = file.get[DType.float32]("i", [3])
    with assert_raises(contains="tensor 'i' must be I64 [1,3], got I64 [3]"):
        _ = file.get[DType.int64]("i", [1, 3])
    with assert_raises(contains="there is no tensor 'x'"):
        _ = file.get[DType.int64]("x", [3])
    with assert_raises(contains="the metadata have no 'x'"):
        _ = file.string("x")


def test_a_file_that_is_not_committed_leaves_the_other() raises:
    with Folder() as folder:
        var path = folder + "/a"
        with open(path, "w") as file:
            file.write("before")
        var file = AtomicFile(path)
        file.write(String("after").as_bytes())
        assert_equal(len(listdir(folder)), 2)
        _ = file^
        assert_equal(listdir(folder), ["a"])
        assert_equal(String(from_utf8=read_file(path)), "before")
    with assert_raises(contains="cannot write nowhere/a: "):
        _ = AtomicFile("nowhere/a")
    with assert_raises(contains="path must be a text without zero bytes"):
        _ = AtomicFile("")


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
