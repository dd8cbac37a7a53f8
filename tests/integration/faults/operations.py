"""The operations of the file layer, one by one."""

from __future__ import annotations

import contextlib
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
    """Lets an operation fail, and all that follow or those that need space.

    Args:
        n: The operation, from 1.
        number: The number of the error.
        lasts: "once", or how long the disk stays full or broken: "writing" fails what needs
            space from there on, "all" fails everything.

    Attributes:
        count: Operations so far.
        failed: Those that have failed.
    """

    _NEED_SPACE = ("create", "write", "sync", "make_directory", "sync_directory")

    def __init__(self, n: int, number: int, lasts: str = "once") -> None:
        self.count = 0
        self.failed: list[Operation] = []
        self._n = n
        self._number = number
        self._lasts = lasts

    def __call__(self, operation: Operation) -> Any:
        self.count += 1
        is_hit = self.count == self._n
        if self.count > self._n:
            is_hit = self._lasts == "all"
            is_hit |= self._lasts == "writing" and operation.name in self._NEED_SPACE
        # What begins to sync leaves its errors to what waits.
        if not is_hit or operation.name == "begin_sync":
            return operation.make()
        self.failed.append(operation)
        if operation.name == "close":
            # A descriptor is closed even if that fails.
            operation.make()
        if operation.name == "write":
            fd, data = operation.arguments
            os.write(fd, memoryview(data)[: len(data) // 2])
        raise OSError(self._number, os.strerror(self._number), str(operation.path))
