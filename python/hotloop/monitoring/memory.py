"""The memory that this process uses."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

__all__ = ["memory_use"]

_STATM = Path("/proc/self/statm")


def memory_use(device: torch.device | str | None = None) -> dict[str, float]:
    """Return the memory of this process, in bytes.

    Args:
        device: A device to ask as well; only of CUDA there is anything to say.

    Returns:
        "rss", the resident memory: the present one on Linux, from `/proc/self/statm`, and
        elsewhere the largest one since the process began, from `getrusage`. For a CUDA device
        also "cuda_allocated", "cuda_reserved" and "cuda_max_allocated", as torch's caching
        allocator counts them.
    """
    use = {"rss": float(_resident())}
    if device is not None and torch.device(device).type == "cuda":
        use["cuda_allocated"] = float(torch.cuda.memory_allocated(device))
        use["cuda_reserved"] = float(torch.cuda.memory_reserved(device))
        use["cuda_max_allocated"] = float(torch.cuda.max_memory_allocated(device))
    return use


def _resident() -> int:
    try:
        pages = int(_STATM.read_text().split()[1])
    except FileNotFoundError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, others kibibytes.
        return largest if sys.platform == "darwin" else largest * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
