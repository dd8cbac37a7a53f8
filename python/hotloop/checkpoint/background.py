"""Work beside training: copies of tensors in host memory, and a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from hotloop.errors import CheckpointError

__all__ = ["BackgroundTask", "HostBuffers"]

_logger = logging.getLogger("hotloop")

#: What a buffer is made for: shape, dtype and whether the tensor is on a GPU.
_Kind: TypeAlias = "tuple[torch.Size, torch.dtype, bool]"


class HostBuffers:
    """Host memory for copies of tensors, which is used again for the next copies.

    It grows to the size of what is copied, in page-locked memory for tensors of a GPU.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, tuple[_Kind, Tensor]] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of tensors, which are valid until the next call.

        Args:
            tensors: The tensors by name.

        Raises:
            CheckpointError: If there is not enough memory.
        """
        for name in self._buffers.keys() - tensors.keys():
            del self._buffers[name]
        # A buffer that is made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        for gpu in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(gpu).synchronize()
        return copies

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        kind = (tensor.shape, tensor.dtype, tensor.is_cuda)
        found, buffer = self._buffers.get(name, (None, None))
        if buffer is None or found != kind:
            # Frees what does not fit before there is memory for another.
            del buffer
            self._buffers.pop(name, None)
            shape, dtype, is_cuda = kind
            try:
                buffer = torch.empty(shape, dtype=dtype, device="cpu", pin_memory=is_cuda)
            except (RuntimeError, MemoryError) as error:
                raise CheckpointError(
                    f"there is no host memory for a copy of tensor {name!r} of {tensor.nbytes} "
                    "bytes; save without the background"
                ) from error
            self._buffers[name] = kind, buffer
        return buffer.copy_(tensor, non_blocking=tensor.is_cuda)


class BackgroundTask:
    """Runs one function at a time in a thread; the interpreter does not exit before its end."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, what: str, function: Callable[[], object]) -> None:
        """Call a function in a thread, once the one before has ended.

        Args:
            what: What it does, for the name of the thread and for errors.
            function: The function. What it raises is logged, and raised by the next `start`
                or `wait`.

        Raises:
            CheckpointError: If the function before failed; this one is not called then.
        """
        self.wait()

        def run() -> None:
            try:
                function()
            # Also a SystemExit, of which nobody would hear.
            except BaseException as error:
                self._error = error
                # Nobody may ever wait.
                _logger.error("%s failed: %s: %s", what, type(error).__name__, error)

        thread = threading.Thread(target=run, name=what, daemon=False)
        thread.start()
        self._thread = thread

    def join(self) -> None:
        """Return when no function runs; its failure stays for `wait`.

        In a process that was forked from the one where it runs nothing is waited for.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise what `wait` raises, if the function has failed; wait for nothing."""
        if self._error is not None:
            self.wait()

    def wait(self) -> None:
        """Return when no function runs.

        Raises:
            CheckpointError: If the function failed, from what it raised.
        """
        self.join()
        error, self._error = self._error, None
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"the last save in the background failed: {reason}") from error
