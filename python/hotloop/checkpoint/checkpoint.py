"""One checkpoint: a directory with a manifest, a state in JSON and a file of tensors."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import xxhash

from hotloop.checkpoint import storage
from hotloop.checkpoint.manifest import FileEntry, Info, Manifest
from hotloop.checkpoint.tensor_file import (
    read_exactly,
    read_tensors,
    verify_tensors,
    write_tensors,
)
from hotloop.checkpoint.tree import encode_json, flatten, parse_json, rebuild
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["read_checkpoint", "read_manifest", "verify_checkpoint", "write_checkpoint"]

_MANIFEST = "manifest.json"
_STATE = "state.json"
_TENSORS = "tensors.safetensors"
_MAX_SIZES = {_MANIFEST: 64 << 20, _STATE: 256 << 20}
# What the machine lacks or forbids says nothing about the checkpoint.
_NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def write_checkpoint(directory: Path, state: Any, info: Info) -> Manifest:
    """Write a checkpoint, which is on the device when this returns.

    The manifest is written last, so that a directory with a manifest is complete. The name of
    the directory itself is not made durable.

    Args:
        directory: An empty directory.
        state: What to save, as `flatten` takes it.
        info: What the manifest says of it.

    Returns:
        The manifest.

    Raises:
        CheckpointError: If the directory is not empty, or the state cannot be saved.
        OSError: If a file cannot be written.
    """
    _check_byte_order()
    if os.listdir(directory):
        raise CheckpointError(f"{directory} is not empty, so no checkpoint is written there")
    plain, tensors = flatten(state)
    files = {_STATE: _write_bytes(directory / _STATE, encode_json(plain))}
    if tensors:
        files[_TENSORS] = _write(directory / _TENSORS, lambda fd: write_tensors(fd, tensors))
    values = {item.name: getattr(info, item.name) for item in fields(Info)}
    manifest = Manifest(**values, files=files)
    _write_bytes(directory / _MANIFEST, manifest.to_bytes())
    storage.sync_directory(directory)
    return manifest


def _write_bytes(path: Path, data: bytes) -> FileEntry:
    allowed = _MAX_SIZES[path.name]
    if len(data) > allowed:
        raise CheckpointError(f"{path} would have {len(data)} bytes; at most {allowed} are allowed")
    _write(path, lambda fd: storage.write(fd, data))
    return FileEntry(len(data), xxhash.xxh3_64_hexdigest(data))


def _write(path: Path, write: Callable[[int], Any]) -> Any:
    fd = storage.create(path)
    try:
        result = write(fd)
        storage.sync(fd)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        storage.close(fd)
    return result


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a checkpoint, whose files have the sizes that it says.

    Args:
        directory: The checkpoint.

    Raises:
        CheckpointError: If there is no such directory, or it cannot be read.
        CorruptCheckpointError: If the manifest is damaged, or a file is missing, has another
            size, is no regular file or is too many.
    """
    with _open(directory) as folder:
        return folder.read_manifest()


def read_checkpoint(directory: Path) -> tuple[Any, Manifest]:
    """Return the state and the manifest of a checkpoint, every byte of which is verified.

    Args:
        directory: The checkpoint.

    Returns:
        The state, with tensors on the CPU, and the manifest.

    Raises:
        CheckpointError: If there is no such directory, it cannot be read or there is not
            enough memory.
        CorruptCheckpointError: If it is damaged; names the file and, if it is in one, the tensor.
    """
    with _open(directory) as folder:
        manifest = folder.read_manifest()
        plain = folder.read_state(manifest)
        tensors = {}
        if _TENSORS in manifest.files:
            with folder.open(_TENSORS) as (fd, where):
                tensors = read_tensors(fd, manifest.files[_TENSORS], where)
        return rebuild(plain, tensors, str(directory / _STATE)), manifest


def verify_checkpoint(directory: Path) -> Manifest:
    """Check a checkpoint as `read_checkpoint` does, without keeping its tensors.

    Args:
        directory: The checkpoint.

    Returns:
        The manifest.

    Raises:
        CheckpointError: As `read_checkpoint`.
        CorruptCheckpointError: As `read_checkpoint`.
    """
    with _open(directory) as folder:
        manifest = folder.read_manifest()
        plain = folder.read_state(manifest)
        names = {}
        if _TENSORS in manifest.files:
            names = dict.fromkeys(manifest.files[_TENSORS].tensors)
            with folder.open(_TENSORS) as (fd, where):
                verify_tensors(fd, manifest.files[_TENSORS], where)
        rebuild(plain, names, str(directory / _STATE))
        return manifest


class _Folder:
    """A checkpoint's directory that is open, so that all is read from the same one."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[tuple[int, str]]:
        where = str(self._path / name)
        with _reading(where):
            fd = storage.open_file(name, self._fd)
            try:
                yield fd, where
            finally:
                storage.close(fd)

    def read_manifest(self) -> Manifest:
        data = self._read(_MANIFEST, None)
        where = str(self._path / _MANIFEST)
        manifest = Manifest.parse(data, where)
        if not {_STATE} <= manifest.files.keys() <= {_STATE, _TENSORS}:
            raise CorruptCheckpointError(f"{where} has files {sorted(manifest.files)!r:.500}")
        if manifest.files[_STATE].tensors:
            raise CorruptCheckpointError(f"{where} has tensors of {_STATE}")
        with _reading(str(self._path)):
            names = os.listdir(self._fd)
        for name in sorted(set(names) - {_MANIFEST, *manifest.files}):
            raise CorruptCheckpointError(f"{self._path} has {name!r}, which does not belong to it")
        for name, entry in manifest.files.items():
            with self.open(name) as (fd, where):
                size = os.fstat(fd).st_size
            if size != entry.size:
                raise CorruptCheckpointError(
                    f"{where} is damaged: it has {size} bytes, not {entry.size}"
                )
        return manifest

    def read_state(self, manifest: Manifest) -> Any:
        data = self._read(_STATE, manifest.files[_STATE])
        return parse_json(data, str(self._path / _STATE))

    def _read(self, name: str, entry: FileEntry | None) -> bytes:
        with self.open(name) as (fd, where):
            size = os.fstat(fd).st_size
            if size > _MAX_SIZES[name]:
                raise CorruptCheckpointError(
                    f"{where} is damaged: it has {size} bytes, more than {_MAX_SIZES[name]}"
                )
            data = bytearray(size)
            read_exactly(fd, memoryview(data), 0, where)
        if entry is not None:
            checksum = xxhash.xxh3_64_hexdigest(data)
            if checksum != entry.checksum:
                raise CorruptCheckpointError(
                    f"{where} is damaged: it has checksum {checksum}, not {entry.checksum}"
                )
        return bytes(data)


@contextlib.contextmanager
def _open(directory: Path) -> Iterator[_Folder]:
    _check_byte_order()
    directory = Path(directory)
    if not os.path.lexists(directory):
        raise CheckpointError(f"there is no checkpoint {directory}")
    with _reading(str(directory)):
        fd = storage.open_directory(directory)
    try:
        yield _Folder(directory, fd)
    finally:
        storage.close(fd)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Name the file in the errors of the operating system."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise CorruptCheckpointError(f"{where} is missing") from error
        if error.errno in _NOT_DAMAGE:
            raise CheckpointError(f"{where} cannot be read: {error}") from error
        raise CorruptCheckpointError(f"{where} is damaged: {error}") from error


def _check_byte_order() -> None:
    if sys.byteorder != "little":
        raise CheckpointError("checkpoints are little-endian, and this machine is not")
