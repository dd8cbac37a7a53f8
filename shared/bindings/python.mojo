"""The few functions of CPython's stable C API that the extension calls.

Objects are plain addresses. The host interpreter resolves the symbols when it
loads the extension.
"""

from std.ffi import external_call

from shared.training.core.memory import Words, pointer_at, words_at

comptime METH_FASTCALL = 0x80
"""Calling convention: `(self, args, count)` with an array of objects."""

comptime API_VERSION = 1013
"""`PYTHON_API_VERSION`, which has been 1013 since Python 2.5."""

comptime Method = def(Int, Words, Int) thin abi("C") -> Int
"""A function that Python can call: `(self, args, count)` to a new reference."""


def c_string(text: StaticString) -> Int:
    """Finds the address of a literal that ends in a NUL byte.

    Args:
        text: The literal.

    Returns:
        The address of its first byte.
    """
    return Int(text.unsafe_ptr())


def raise_error(exception: StaticString, message: StaticString) -> Int:
    """Sets a Python exception.

    Args:
        exception: The C name of a built-in exception's object, such as
            `TypeError`, ending in a NUL byte.
        message: The message, ending in a NUL byte.

    Returns:
        0, the result of a function that raised.
    """
    var builtins = external_call["PyEval_GetBuiltins", Int]()
    var kind = external_call["PyDict_GetItemString", Int](
        builtins, c_string(exception)
    )
    external_call["PyErr_SetString", NoneType](kind, c_string(message))
    return 0


def read_int(value: Int) -> Int:
    """Converts a Python int; check `has_error` afterwards.

    Args:
        value: The object.

    Returns:
        Its value, or -1 with an exception set.
    """
    return external_call["PyLong_AsLongLong", Int](value)


def read_number(value: Int) -> Float64:
    """Converts a Python float or int; check `has_error` afterwards.

    Args:
        value: The object.

    Returns:
        Its value, or -1 with an exception set.
    """
    return external_call["PyFloat_AsDouble", Float64](value)


@fieldwise_init
struct Arguments(ImplicitlyCopyable, Movable):
    """The arguments of a call; check `has_error` once all are read."""

    var objects: Words
    """The addresses of the objects."""

    @always_inline
    def int(self, index: Int) -> Int:
        """Reads an int or a bool.

        Args:
            index: Which argument.

        Returns:
            Its value, or -1 with an exception set.
        """
        return read_int(Int(self.objects[unsafe_offset=index]))

    @always_inline
    def number(self, index: Int) -> Float64:
        """Reads a float or an int.

        Args:
            index: Which argument.

        Returns:
            Its value, or -1 with an exception set.
        """
        return read_number(Int(self.objects[unsafe_offset=index]))


def new_int(value: Int) -> Int:
    """Makes a Python int.

    Args:
        value: Its value.

    Returns:
        A new reference.
    """
    return external_call["PyLong_FromLongLong", Int](value)


def new_number(value: Float64) -> Int:
    """Makes a Python float.

    Args:
        value: Its value.

    Returns:
        A new reference.
    """
    return external_call["PyFloat_FromDouble", Int](value)


def has_error() -> Bool:
    """Tells whether an exception is set.

    Returns:
        Whether one is.
    """
    return external_call["PyErr_Occurred", Int]() != 0


struct ReleasedGIL:
    """Lets other Python threads run while the block is active."""

    var _is_needed: Bool
    var _thread_state: Int

    def __init__(out self, when: Bool = True):
        """Makes an inactive guard.

        Args:
            when: Whether to release the GIL, which short work is not worth.
        """
        self._is_needed = when
        self._thread_state = 0

    def __enter__(mut self):
        """Releases the GIL."""
        if self._is_needed:
            self._thread_state = external_call["PyEval_SaveThread", Int]()

    def __exit__(mut self):
        """Takes the GIL back."""
        if self._is_needed:
            external_call["PyEval_RestoreThread", NoneType](self._thread_state)


struct Methods:
    """The functions of a module: rows of a CPython method table."""

    comptime CAPACITY = 64
    """Rows, with the zeros behind the last one."""

    var words: Words
    """Four words for each function: name, address, flags and docstring."""
    var count: Int
    """How many functions there are."""

    def __init__(out self):
        """Makes an empty table, which lives as long as the process."""
        self.words = allocate_words(Self.CAPACITY * 4)
        self.count = 0

    def add(mut self, name: StaticString, function: Method, doc: StaticString):
        """Adds a function.

        Args:
            name: Its name, ending in a NUL byte.
            function: What it calls.
            doc: Its docstring, ending in a NUL byte.
        """
        var target = function
        var row = self.words.unsafe_offset(self.count * 4)
        row[unsafe_offset=0] = Int64(c_string(name))
        row[unsafe_offset=1] = Pointer(to=target).unsafe_bitcast[Int64]()[]
        row[unsafe_offset=2] = METH_FASTCALL
        row[unsafe_offset=3] = Int64(c_string(doc))
        self.count += 1


def create_module(
    name: StaticString, doc: StaticString, methods: Methods
) -> Int:
    """Creates a module.

    Args:
        name: The module's name, ending in a NUL byte.
        doc: The module's docstring, ending in a NUL byte.
        methods: Its functions.

    Returns:
        A new reference.
    """
    # PyModuleDef: object head (2 words), m_init, m_index, m_copy, then name,
    # doc, size and methods. It lives as long as the process.
    var definition = allocate_words(13)
    definition[unsafe_offset=0] = 1
    definition[unsafe_offset=5] = Int64(c_string(name))
    definition[unsafe_offset=6] = Int64(c_string(doc))
    definition[unsafe_offset=7] = -1
    definition[unsafe_offset=8] = Int64(Int(methods.words))
    return external_call["PyModule_Create2", Int](
        Int(definition), Int32(API_VERSION)
    )


def allocate_words(count: Int) -> Words:
    """Allocates zeroed words that live as long as the process.

    Args:
        count: How many.

    Returns:
        The first of them.
    """
    return words_at(external_call["PyMem_RawCalloc", Int](count, 8))


def list_matches(list: Int, expected: Words) -> Bool:
    """Compares a list's items, by identity, with recorded ones.

    Args:
        list: A Python list.
        expected: The number of items, then their addresses.

    Returns:
        Whether the list still holds exactly these objects in this order.
    """
    var count = Int(expected[unsafe_offset=0])
    if external_call["PyList_Size", Int](list) != count:
        return False
    for i in range(count):
        var item = external_call["PyList_GetItem", Int](list, i)
        if item != Int(expected[unsafe_offset=1 + i]):
            return False
    return True


def dict_matches(dict: Int, expected: Words, cursor: Words) -> Bool:
    """Compares a dict's first keys and values, by identity, with recorded ones.

    Args:
        dict: A Python dict.
        expected: The number of entries, then the addresses of each one's key
            and value.
        cursor: Three words of scratch for the iteration.

    Returns:
        Whether the dict still begins with these objects in this order; it may
        hold more.
    """
    var count = Int(expected[unsafe_offset=0])
    cursor[unsafe_offset=0] = 0
    var at = Int(cursor)
    for i in range(count):
        if (
            external_call["PyDict_Next", Int32](dict, at, at + 8, at + 16) == 0
            or cursor[unsafe_offset=1] != expected[unsafe_offset=1 + 2 * i]
            or cursor[unsafe_offset=2] != expected[unsafe_offset=2 + 2 * i]
        ):
            return False
    return True
