"""The operations of the file layer, one by one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hotloop.checkpoint import storage

# All that changes the file system; `replace_file` is made of them.
NAMES = (
    "create",
    "write",
    "begin_sync",
    "sync",
    "close",
    "make_directory",
    "sync_directory",
    "rename",
    "remove_file",
    "remove_directory",
)
_OF_DESCRIPTORS = ("write", "begin_sync", "sync", "close")


@dataclass(frozen=True)
class Operation:
    """A call of the file layer.

    Attributes:
        name: Its name in `NAMES`.
        path: The file or directory; of a rename the source.
        arguments: What the file layer is called with.
        make: Makes the call.
    """

    name: str
    path: Path
    arguments: tuple[Any, ...]
    make: Callable[[], Any]


Act = Callable[[Operation], Any]


@contextlib.contextmanager
def intercepted(act: Act) -> Iterator[None]:
    """Let a function make the operations, or something else in their place."""

    def replaced(name: str) -> Callable[..., Any]:
        function = getattr(storage, name)

        def replacement(*arguments: Any) -> Any:
            path = Path(arguments[0]) if name not in _OF_DESCRIPTORS else _path_of(arguments[0])
            if path is None:
                return function(*arguments)
            return act(Operation(name, path, arguments, lambda: function(*arguments)))

        return replacement

    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(storage, name, replaced(name))
        yield


def _path_of(fd: int) -> Path | None:
    """Return the file of a descriptor; None if it is open for reading only."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return None
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


def recorded(work: Callable[[], object]) -> list[Operation]:
    """Return the operations of some work, in their order."""
    found: list[Operation] = []

    def record(operation: Operation) -> Any:
        found.append(operation)
        return operation.make()

    with intercepted(record):
        work()
    return found


def kill_at(n: int, how: str) -> Act:
    """Return what kills this process at an operation.

    Args:
        n: The operation, from 1.
        how: "before" it, "after" it, or "half" of it, which has to be a write.
    """
    count = 0

    def act(operation: Operation) -> Any:
        nonlocal count
        count += 1
        if count != n:
            return operation.make()
        try:
            if how == "half":
                fd, data = operation.arguments
                os.write(fd, memoryview(data)[: len(data) // 2])
            elif how == "after":
                operation.make()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


class Fault:
    """Lets an operation fail, in the middle if it writes.

    Args:
        n: The operation, from 1.
        number: The number of the error.
        goes_on: Whether all that follow and need space fail too.

    Attributes:
        failed: What has failed.
    """

    _NEED_SPACE = ("create", "write", "sync", "make_directory", "sync_directory")

    def __init__(self, n: int, number: int, goes_on: bool = False) -> None:
        self.failed: list[Operation] = []
        self._left = n
        self._number = number
        self._goes_on = goes_on

    def __call__(self, operation: Operation) -> Any:
        self._left -= 1
        is_after = self._left < 0 and self._goes_on and operation.name in self._NEED_SPACE
        # What begins to sync leaves its errors to what waits, and what is there needs no space.
        is_harmless = operation.name == "begin_sync"
        if operation.name == "create" and self._number == errno.ENOSPC:
            is_harmless = os.path.lexists(operation.path)
        if not (self._left == 0 or is_after) or is_harmless:
            return operation.make()
        self.failed.append(operation)
        if operation.name == "close":
            # A descriptor is closed even if that fails.
            operation.make()
        elif operation.name == "write":
            fd, data = operation.arguments
            os.write(fd, memoryview(data)[: len(data) // 2])
        raise OSError(self._number, os.strerror(self._number), str(operation.path))
