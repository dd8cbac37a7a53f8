"""Which process of a distributed run prints and writes files."""

from __future__ import annotations

import os

from torch import distributed

__all__ = ["is_first_rank"]


def is_first_rank() -> bool:
    """Return whether this process is rank 0, as it is where there are no others.

    The rank is that of torch's process group; before there is one, that which a launcher such
    as torchrun puts into the environment.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"
