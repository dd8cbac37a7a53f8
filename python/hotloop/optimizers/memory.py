"""Memory for the state of large parameters."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

__all__ = ["full_like", "use_huge_pages"]

_HUGE_PAGE = 2 * 1024 * 1024
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)


_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1, which Python's mmap does not name.


def use_huge_pages(tensor: Tensor, *, is_filled: bool) -> None:
    """Ask the kernel to keep a tensor's memory in pages of 2 MiB.

    Its address and its values stay. It is advice: where the system has no such pages, or
    the tensor does not span one, nothing happens.

    Args:
        tensor: A contiguous CPU tensor.
        is_filled: Whether the memory has been written to, and so has pages to replace.
    """
    if _ADVICE is None:
        return
    page = _HUGE_PAGE if is_filled else mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    size = (tensor.data_ptr() + tensor.nbytes - start) // page * page
    if size < _HUGE_PAGE:
        return
    madvise = ctypes.CDLL(None).madvise
    for advice in (_ADVICE, _COLLAPSE) if is_filled else (_ADVICE,):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def full_like(param: Tensor, value: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor like `param`, in huge pages where it spans them.

    Steps on more parameters than the caches hold are bound by memory, and address
    translation is part of that.

    Args:
        param: A contiguous CPU tensor.
        value: What to fill the new tensor with.
        dtype: The dtype of the new tensor; None for that of `param`.
    """
    tensor = torch.empty_like(param, dtype=dtype)
    # Before the first touch, which chooses the pages.
    use_huge_pages(tensor, is_filled=False)
    return tensor.fill_(value)
