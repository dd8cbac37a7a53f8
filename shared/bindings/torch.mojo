"""libtorch's accessors, called through addresses that Python looked up.

A tensor is an `AtenTensorHandle` of libtorch's stable C ABI: the address of an
`at::Tensor`. Two functions have no stable counterpart and go by their C++ names,
`TensorImpl::grad` and `impl::bump_version`; Python probes them before use.
"""

from shared.training.core.memory import Words, pointer_at, words_at

comptime _Read = def(Int, Int) thin abi("C") -> Int32
comptime _Touch = def(Int) thin abi("C") -> Int


struct RuntimeWord:
    """Where each address and the scratch lie in the runtime's words."""

    comptime PARALLEL_FOR = 0
    """`torch_parallel_for`."""
    comptime DATA_POINTER = 1
    """`torch_get_const_data_ptr`."""
    comptime NUMEL = 2
    """`aoti_torch_get_numel`."""
    comptime CONTIGUOUS = 3
    """`aoti_torch_is_contiguous`."""
    comptime DTYPE = 4
    """`aoti_torch_get_dtype`."""
    comptime DEVICE = 5
    """`aoti_torch_get_device_type`."""
    comptime LAYOUT = 6
    """`aoti_torch_get_layout`."""
    comptime NEW_HANDLE = 7
    """`aoti_torch_new_tensor_handle`."""
    comptime DELETE_HANDLE = 8
    """`aoti_torch_delete_tensor_object`."""
    comptime GRAD = 9
    """`c10::TensorImpl::grad() const`."""
    comptime BUMP_VERSION = 10
    """`torch::autograd::impl::bump_version(const at::Tensor&)`."""
    comptime CPU = 11
    """The value of `aoti_torch_device_type_cpu`."""
    comptime STRIDED = 12
    """The value of `aoti_torch_layout_strided`."""
    comptime UNDEFINED = 13
    """Address of the `TensorImpl` that stands for no tensor."""
    comptime SCRATCH = 14
    """Three words for results and iteration."""
    comptime END = 17
    """Number of words."""


@fieldwise_init
struct Torch(ImplicitlyCopyable, Movable):
    """Reads tensors through libtorch. Every call needs the GIL."""

    var words: Words
    """The runtime's words."""

    def scratch(self) -> Words:
        """Points to scratch memory.

        Returns:
            Three words.
        """
        return self.words.unsafe_offset(RuntimeWord.SCRATCH)

    @always_inline
    def _read[result_dtype: DType](self, function: Int, handle: Int) -> Int:
        # Results go through memory of the caller: the compiler would take a
        # local whose address leaves as an integer for never written. They are
        # read as wide as libtorch writes them, since a wider read would stall.
        var result = self.scratch()
        var address = self.words[unsafe_offset=function]
        var call = Pointer(to=address).unsafe_bitcast[_Read]()[]
        if call(handle, Int(result)) != 0:
            return -1
        return Int(result.unsafe_bitcast[Scalar[result_dtype]]()[])

    def data_pointer(self, handle: Int) -> Int:
        """Reads the address of the first element.

        Args:
            handle: The tensor.

        Returns:
            The address, or -1 for a tensor without plain memory.
        """
        return self._read[DType.int64](RuntimeWord.DATA_POINTER, handle)

    def numel(self, handle: Int) -> Int:
        """Reads the number of elements.

        Args:
            handle: The tensor.

        Returns:
            The number of elements.
        """
        return self._read[DType.int64](RuntimeWord.NUMEL, handle)

    def is_contiguous(self, handle: Int) -> Bool:
        """Tells whether the elements lie side by side.

        Args:
            handle: The tensor.

        Returns:
            Whether they do.
        """
        return self._read[DType.uint8](RuntimeWord.CONTIGUOUS, handle) == 1

    def dtype(self, handle: Int) -> Int:
        """Reads the dtype.

        Args:
            handle: The tensor.

        Returns:
            libtorch's number of it.
        """
        return self._read[DType.int32](RuntimeWord.DTYPE, handle)

    def is_plain(self, handle: Int) -> Bool:
        """Tells whether a tensor is dense and on the CPU.

        Args:
            handle: The tensor.

        Returns:
            Whether it is both.
        """
        return self._read[DType.int32](RuntimeWord.LAYOUT, handle) == Int(
            self.words[unsafe_offset=RuntimeWord.STRIDED]
        ) and self._read[DType.int32](RuntimeWord.DEVICE, handle) == Int(
            self.words[unsafe_offset=RuntimeWord.CPU]
        )

    def grad(self, handle: Int) -> Int:
        """Finds the gradient of a tensor.

        Args:
            handle: The tensor.

        Returns:
            The handle of the gradient, owned by the tensor, or 0 without one.
        """
        # An `at::Tensor` is one pointer, to its `TensorImpl`.
        var address = self.words[unsafe_offset=RuntimeWord.GRAD]
        var call = Pointer(to=address).unsafe_bitcast[_Touch]()[]
        var grad = call(Int(words_at(handle)[]))
        var undefined = self.words[unsafe_offset=RuntimeWord.UNDEFINED]
        return 0 if words_at(grad)[] == undefined else grad

    def bump_version(self, handle: Int):
        """Tells autograd that a tensor was modified in place.

        Args:
            handle: The tensor.
        """
        var address = self.words[unsafe_offset=RuntimeWord.BUMP_VERSION]
        var call = Pointer(to=address).unsafe_bitcast[_Touch]()[]
        _ = call(handle)

    def hold(self, handle: Int) -> Int:
        """Takes a share in a tensor's ownership.

        Args:
            handle: The tensor.

        Returns:
            A handle to pass to `release`.
        """
        return self._read[DType.int64](RuntimeWord.NEW_HANDLE, handle)

    def release(self, handle: Int):
        """Gives a share in a tensor's ownership back.

        Args:
            handle: What `hold` returned.
        """
        var address = self.words[unsafe_offset=RuntimeWord.DELETE_HANDLE]
        var call = Pointer(to=address).unsafe_bitcast[_Touch]()[]
        _ = call(handle)
