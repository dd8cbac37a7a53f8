"""Files that hold all of a state, or are not there."""

from std.ffi import c_int, external_call, get_errno
from std.time import perf_counter_ns

comptime CREATE = 0o2000301
"""Linux's flags to write a new file that other programs do not inherit."""

comptime FOLDER = 0o2200000
"""Linux's flags to open a folder."""

comptime READABLE = 0o644
"""What others may do with a file, before the user's mask."""

comptime HERE = -100
"""Linux's AT_FDCWD: paths begin at the working directory."""

comptime WRITE_MAX = 1 << 30
"""The most bytes of a call."""


struct AtomicFile(Movable):
    """A file that comes into being, or replaces another, once it is complete.

    Bytes go into a temporary file in the same folder, which is removed unless
    `commit` renames it.
    """

    var path: String
    """The file."""
    var _temporary: String
    var _descriptor: c_int

    def __init__(out self, path: String) raises:
        """Makes the temporary file.

        Args:
            path: The file.

        Raises:
            Error: If it cannot be made.
        """
        self.path = path
        self._temporary = String(
            path,
            ".",
            external_call["getpid", c_int](),
            ".",
            perf_counter_ns(),
            ".tmp",
        )
        self._descriptor = -1
        if path == "" or 0 in path.as_bytes():
            raise Error("path must be a text without zero bytes, got ", path)
        self._descriptor = _open(self._temporary, CREATE)
        if self._descriptor < 0:
            self._fail()

    def __deinit__(deinit self):
        """Removes what was not committed."""
        if self._descriptor >= 0:
            _ = external_call["close", c_int](self._descriptor)
            var name = _terminated(self._temporary)
            _ = external_call["unlink", c_int](name.unsafe_ptr())

    def write(mut self, data: Span[mut=False, UInt8, _]) raises:
        """Adds bytes.

        Args:
            data: The bytes.

        Raises:
            Error: If they cannot be written.
        """
        var at = 0
        while at < len(data):
            var count = external_call["write", Int](
                self._descriptor,
                data.unsafe_ptr().unsafe_offset(at),
                min(len(data) - at, WRITE_MAX),
            )
            if count < 0:
                self._fail()
            at += count

    def commit(mut self) raises:
        """Gives the file its name, once its bytes are on the device.

        Raises:
            Error: If that fails; what was there before is there still, unless
                only the folder could not be written to the device.
        """
        if external_call["fsync", c_int](self._descriptor) < 0:
            self._fail()
        var name = _terminated(self._temporary)
        var target = _terminated(self.path)
        if (
            external_call["rename", c_int](
                name.unsafe_ptr(), target.unsafe_ptr()
            )
            < 0
        ):
            self._fail()
        var failed = external_call["close", c_int](self._descriptor) < 0
        self._descriptor = -1
        if failed:
            self._fail()
        var slash = self.path.rfind("/")
        var folder = String(".")
        if slash >= 0:
            folder = String(self.path[byte = 0 : slash + 1])
        var descriptor = _open(folder, FOLDER)
        if descriptor < 0:
            self._fail()
        failed = external_call["fsync", c_int](descriptor) < 0
        if failed:
            # Closing may set another error.
            var reason = String(get_errno())
            _ = external_call["close", c_int](descriptor)
            raise Error("cannot write ", self.path, ": ", reason)
        _ = external_call["close", c_int](descriptor)

    def _fail(self) raises:
        raise Error("cannot write ", self.path, ": ", get_errno())


def read_file(path: String) raises -> List[UInt8]:
    """Reads a file.

    Args:
        path: The file.

    Returns:
        Its bytes.

    Raises:
        Error: If it cannot be read.
    """
    try:
        with open(path, "r") as file:
            return file.read_bytes()
    except error:
        raise Error("cannot read ", path, ": ", error)


def _terminated(text: String) -> List[UInt8]:
    var result = List[UInt8](text.as_bytes())
    result.append(0)
    return result^


def _open(path: String, flags: Int) -> c_int:
    var name = _terminated(path)
    # The standard library declares `open` in a way of its own.
    return external_call["openat", c_int](
        c_int(HERE), name.unsafe_ptr(), c_int(flags), c_int(READABLE)
    )
