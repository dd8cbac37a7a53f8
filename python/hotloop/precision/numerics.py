"""The process-wide switches of how torch computes, for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.backends import cudnn

__all__ = ["numerics"]


@contextmanager
def numerics(*, deterministic: bool | None = None, tf32: bool | None = None) -> Iterator[None]:
    """Set torch's switches for the time of a `with` block, and put back what was there.

    `deterministic` sets `torch.use_deterministic_algorithms` and
    `torch.backends.cudnn.deterministic`; True turns `torch.backends.cudnn.benchmark` off too,
    which False leaves alone. On CUDA the environment needs
    CUBLAS_WORKSPACE_CONFIG=:4096:8 before the first matrix product, or torch raises there.

    `tf32` sets `fp32_precision` of `torch.backends.cuda.matmul` and of `torch.backends.cudnn.conv`
    and `.rnn` to "tf32" or "ieee". torch refuses to read its older flags, such as
    `torch.backends.cuda.matmul.allow_tf32`, in a block where these contradict them. A value
    that an operation had from `torch.backends.fp32_precision` is its own after the block.

    Args:
        deterministic: Whether operators whose results depend on timing are replaced, and raise
            where torch has no other; None leaves these switches alone.
        tf32: Whether float32 matrix products, convolutions and recurrent layers on CUDA round
            their inputs to the 10 bits of TensorFloat32; None leaves these switches alone.
    """
    kept_deterministic = torch.are_deterministic_algorithms_enabled()
    kept_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    kept_cudnn = (cudnn.deterministic, cudnn.benchmark)
    backends: Any = torch.backends  # some of whose members have no types
    operations = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    kept_precisions = [operation.fp32_precision for operation in operations]
    try:
        if deterministic is not None:
            torch.use_deterministic_algorithms(deterministic)
            cudnn.deterministic = deterministic
            if deterministic:
                cudnn.benchmark = False
        if tf32 is not None:
            for operation in operations:
                operation.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        if deterministic is not None:
            torch.use_deterministic_algorithms(kept_deterministic, warn_only=kept_warn_only)
            cudnn.deterministic, cudnn.benchmark = kept_cudnn
        if tf32 is not None:
            for operation, precision in zip(operations, kept_precisions):
                operation.fp32_precision = precision
