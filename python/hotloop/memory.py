"""Memory of large tensors."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

__all__ = ["empty_like", "full_like", "use_huge_pages"]

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


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor like `tensor` that is not filled, in huge pages where it spans them.

    The first touch of a page costs as much as writing it, and that of a huge page as much as of
    some small ones. Loops over more memory than the caches hold are bound by it, and address
    translation is part of that.

    Args:
        tensor: A contiguous CPU tensor.
        dtype: The dtype of the new tensor; None for that of `tensor`.
    """
    new = torch.empty_like(tensor, dtype=dtype)
    if new.nbytes >= _HUGE_PAGE:
        # Before the first touch, which chooses the pages.
        use_huge_pages(new, is_filled=False)
    return new


def full_like(tensor: Tensor, value: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor like `empty_like` does, filled with a value."""
    return empty_like(tensor, dtype).fill_(value)
