"""libtorch's functions that the kernels call, looked up by name at run time.

The kernels link to nothing. They get torch's thread pool and its tensor accessors as
addresses in an array of int64 words, the `RuntimeWord` of `shared/bindings/torch.mojo`.

Most belong to libtorch's stable C ABI. `TensorImpl::grad`, `impl::bump_version` and the
`TensorImpl` of no tensor go by their C++ names, so `Runtime` tries them once on tensors whose
gradient and version it knows. If anything is missing or wrong, `accessors` is false and
plans are rebuilt at each step through Python's own tensor methods.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

__all__ = ["Runtime"]

_PARALLEL_FOR = "torch_parallel_for"
_ACCESSORS = (
    "torch_get_const_data_ptr",
    "aoti_torch_get_numel",
    "aoti_torch_is_contiguous",
    "aoti_torch_get_dtype",
    "aoti_torch_get_device_type",
    "aoti_torch_get_layout",
    "aoti_torch_new_tensor_handle",
    "aoti_torch_delete_tensor_object",
    "_ZNK3c1010TensorImpl4gradEv",
    "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",
)
_CONSTANTS = ("aoti_torch_device_type_cpu", "aoti_torch_layout_strided")
_UNDEFINED = "_ZN3c1019UndefinedTensorImpl10_singletonE"
_SCRATCH_WORDS = 3
_DTYPES = {
    torch.float32: "aoti_torch_dtype_float32",
    torch.float64: "aoti_torch_dtype_float64",
    torch.bfloat16: "aoti_torch_dtype_bfloat16",
    torch.uint8: "aoti_torch_dtype_uint8",
}


class Runtime:
    """The addresses of libtorch's functions in this process.

    Args:
        kernels: The extension module.

    Attributes:
        words: int64 array, `RuntimeWord` in Mojo; it must outlive every step.
        parallel_for: Address of `torch_parallel_for`, torch's thread pool.
        accessors: Whether the kernels may read tensors through libtorch.
        reason: Why `accessors` is false, or "".

    Raises:
        AttributeError: If libtorch has no `torch_parallel_for` (torch < 2.10).
    """

    WORDS = 1 + len(_ACCESSORS) + len(_CONSTANTS) + 1 + _SCRATCH_WORDS

    def __init__(self, kernels: Any) -> None:
        # Symbols of a shared object's dependencies are found through its handle,
        # wherever the distribution put libtorch.
        self._library = ctypes.CDLL(torch._C.__file__)
        self.words = np.zeros(self.WORDS, np.int64)
        self.parallel_for = self._address(_PARALLEL_FOR)
        self.words[0] = self.parallel_for
        self.accessors = False
        self.reason = ""
        try:
            undefined = ctypes.addressof(ctypes.c_char.in_dll(self._library, _UNDEFINED))
            addresses = [self._address(name) for name in (_PARALLEL_FOR, *_ACCESSORS)]
            constants = [self._constant(name) for name in _CONSTANTS]
            self.words[:-_SCRATCH_WORDS] = [*addresses, *constants, undefined]
            self._dtype_numbers = {dtype: self._constant(name) for dtype, name in _DTYPES.items()}
            self._delete = self._library.aoti_torch_delete_tensor_object
            self._delete.argtypes = [ctypes.c_void_p]
            self._probe(kernels)
            self.accessors = True
        except (AttributeError, ImportError, RuntimeError, ValueError) as error:
            self.reason = f"torch {torch.__version__} answers otherwise: {error}"
            self._dtype_numbers = dict.fromkeys(_DTYPES, 0)

    def dtype_number(self, dtype: torch.dtype) -> int:
        """Return libtorch's number of `dtype`."""
        return self._dtype_numbers[dtype]

    def new_handle(self, tensor: torch.Tensor) -> int:
        """Return a new `AtenTensorHandle` that shares in owning `tensor`."""
        from torch._C import _aoti

        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        capsule = _aoti.unsafe_alloc_void_ptr_from_tensor(tensor)
        return int(get_pointer(capsule, None))

    def delete_handles(self, handles: Iterable[int]) -> None:
        """Give back what `new_handle` returned."""
        for handle in handles:
            self._delete(handle)

    def _address(self, name: str) -> int:
        address = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value
        return int(address or 0)

    def _constant(self, name: str) -> int:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int32
        return int(function())

    def _probe(self, kernels: Any) -> None:
        for grad in (None, torch.zeros(3)):
            tensor = torch.zeros(3)
            tensor.grad = grad
            version = tensor._version
            handle = self.new_handle(tensor)
            address = kernels.probe(self.words.ctypes.data, handle)
            self.delete_handles([handle])
            if address != (0 if grad is None else grad.data_ptr()):
                raise RuntimeError("TensorImpl::grad returned another tensor")
            if tensor._version != version + 1:
                raise RuntimeError("bump_version did not count")
