"""The file layer of checkpoints: all that changes or opens files and directories."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

__all__ = [
    "begin_sync",
    "close",
    "create",
    "make_directory",
    "open_directory",
    "open_file",
    "read_file",
    "remove_directory",
    "remove_file",
    "rename",
    "replace_file",
    "replacing",
    "sync",
    "sync_directory",
    "write",
]

# Linux has it, and other systems do not.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of <fcntl.h>

Buffer: TypeAlias = "bytes | bytearray | memoryview"


def create(path: Path) -> int:
    """Make a file that does not exist, and return its descriptor for writing.

    Raises:
        FileExistsError: If there is something with this name, if only a link to nowhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def write(fd: int, data: Buffer) -> None:
    """Write all of a buffer.

    Args:
        fd: Descriptor of the file.
        data: Bytes, or a contiguous memoryview of them.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def begin_sync(fd: int, start: int, size: int) -> None:
    """Begin to put a part of a file on the device, so that less is left for `sync`.

    It does not wait, and leaves errors to `sync`; a system without such a call leaves all to it.

    Args:
        fd: Descriptor of the file.
        start: Place of the first byte.
        size: Bytes.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(size), _WRITE)


def sync(fd: int) -> None:
    """Wait until the file is on the device."""
    os.fsync(fd)


def close(fd: int) -> None:
    """Close a descriptor."""
    os.close(fd)


def make_directory(path: Path) -> None:
    """Make a directory in one that exists.

    Raises:
        FileExistsError: If there is something with this name.
    """
    path.mkdir()


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the device."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Rename a file or directory; a file or an empty directory that is there is replaced."""
    os.rename(source, target)


def remove_file(path: Path) -> None:
    """Remove a file or a link."""
    path.unlink()


def remove_directory(path: Path) -> None:
    """Remove an empty directory."""
    path.rmdir()


def replace_file(path: Path, data: Buffer) -> None:
    """Give a file a new content, durably: at each instant it has the old or the new one.

    Args:
        path: The file. The new content is first written to ".saving-" and its name.
        data: The content.
    """
    new = path.with_name(f".saving-{path.name}")
    if os.path.lexists(new):
        remove_file(new)
    with replacing(path, new) as fd:
        write(fd, data)


@contextlib.contextmanager
def replacing(path: Path, new: Path) -> Iterator[int]:
    """Give a file the content that is written in a `with` block, as `replace_file` does.

    If that fails, the file stays as it was.

    Args:
        path: The file.
        new: Where the content is written to, in the same directory; nothing may be there.

    Yields:
        The descriptor to write to.
    """
    fd = None
    try:
        fd = create(new)
        try:
            yield fd
            sync(fd)
        finally:
            close(fd)
        rename(new, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        if fd is not None:
            with contextlib.suppress(OSError):
                remove_file(new)
        raise
    sync_directory(path.parent)


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        limit: The most bytes that it may have.

    Raises:
        OSError: If it is missing, larger, a link, a directory, a device or a pipe.
    """
    with open(_open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(f"it has {size} bytes, more than {limit}")
        return file.read(limit)


def open_directory(path: Path) -> int:
    """Return the descriptor of a directory, for `open_file`.

    Raises:
        OSError: If it is none, or a link.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_file(name: str, directory: int) -> int:
    """Return a descriptor for reading a regular file.

    Args:
        name: The file's name in the directory.
        directory: Descriptor of the directory.

    Raises:
        OSError: If it is missing, a link, a directory, a device or a pipe.
    """
    return _open_regular(name, directory)


def _open_regular(path: str | Path, directory: int | None = None) -> int:
    # Opening a device can do something, and opening a pipe can wait.
    _check_regular(os.stat(path, dir_fd=directory, follow_symlinks=False))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags, dir_fd=directory)
    try:
        # Something else may have taken its place in between.
        _check_regular(os.fstat(fd))
    except OSError:
        close(fd)
        raise
    return fd


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
