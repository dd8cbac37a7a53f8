"""The directory that checkpoints are in, and changes of it that a kill does not leave half done."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotloop.checkpoint import storage
from hotloop.checkpoint.checkpoint import read_checkpoint, read_manifest, write_checkpoint
from hotloop.checkpoint.manifest import Info, Manifest
from hotloop.checkpoint.tree import encode_json
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["CheckpointDirectory", "has_files", "read_directory", "scan"]

_logger = logging.getLogger("hotloop")

#: What the name of a checkpoint is like.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DEFAULT_NAME = re.compile(r"step_\d{8,}")
_FILES = ("manifest.json", "state.json", "tensors.safetensors")
_LOCK = ".lock"
# In front of the names of directories that are being written, removed and replaced.
_SAVING, _REMOVING, _REPLACED = ".saving-", ".removing-", ".replaced-"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there, or use another directory"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable"),
}


def scan(
    directory: Path, names: Iterable[str] | None = None
) -> tuple[list[Manifest], dict[str, CheckpointError]]:
    """Return the manifests of a directory, newest first, and what is wrong with the others.

    Nothing is changed. The names in the manifests are those that the checkpoints have now.

    Args:
        directory: Where the checkpoints are.
        names: Which to look at; None for all.
    """
    if names is None:
        found_names = (name for name in sorted(os.listdir(directory)) if NAME.fullmatch(name))
        names = [name for name in found_names if _is_checkpoint(directory / name)]
    found = []
    problems = {}
    for name in names:
        path = directory / name
        try:
            _refuse_link(path)
            found.append(replace(read_manifest(path), name=name))
        except CheckpointError as error:
            # Another process may have removed it in the meantime.
            if os.path.lexists(path):
                problems[name] = error
    found.sort(key=lambda manifest: (manifest.sequence, manifest.name), reverse=True)
    return found, problems


class CheckpointDirectory:
    """The checkpoints of a directory, each of which is a directory in it.

    A checkpoint appears and disappears as a whole. All that changes the directory is done
    within `changing`. Other files and directories in it are left alone.

    Args:
        path: The directory, which is made if it is missing. What a killed process left there
            is removed if no process is at work there now.
        lock_timeout: The most seconds that `changing` waits for another process.

    Raises:
        CheckpointError: If the directory cannot be made, or is a checkpoint itself.
    """

    def __init__(self, path: Path, lock_timeout: float) -> None:
        if has_files(path):
            raise CheckpointError(f"{path} is a checkpoint; give the directory that it is in")
        self.path = path
        self._lock_timeout = lock_timeout
        _make_directories(path)
        # Where nothing can be written, checkpoints can still be read.
        with contextlib.suppress(OSError, CheckpointError), self._locked(0):
            self._clean()

    @contextlib.contextmanager
    def changing(self, what: str) -> Iterator[None]:
        """Lock the directory against other processes, and clean it first.

        Args:
            what: What is done, for the error.

        Raises:
            CheckpointError: If the lock is not free in time; or in place of an OSError, with
                the directory and what to do.
        """
        try:
            with self._locked(self._lock_timeout):
                self._clean()
                yield
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "check the directory and its device")
            raise CheckpointError(f"cannot {what} in {self.path}: {error}; {remedy}") from error

    def has(self, manifest: Manifest) -> bool:
        """Return whether a checkpoint is still there, and not another one with its name."""
        with contextlib.suppress(CheckpointError):
            return read_manifest(self.path / manifest.name).created == manifest.created
        return False

    def write(self, state: Any, info: Info) -> Manifest:
        """Write a checkpoint, which is durable when this returns.

        One with its name is replaced, and its files stay until `forget`. If this fails, all
        is as it was.

        Args:
            state: What to save.
            info: What the manifest says of it.
        """
        path, new, old = (self.path / f"{prefix}{info.name}" for prefix in ("", _SAVING, _REPLACED))
        if os.path.lexists(path) and (path.is_symlink() or not _is_checkpoint(path)):
            raise CheckpointError(f"{path} exists and is no checkpoint; choose another name")
        is_complete = False
        try:
            storage.make_directory(new)
            manifest = write_checkpoint(new, state, info)
            if os.path.lexists(path):
                storage.rename(path, old)
            is_complete = True
            storage.rename(new, path)
            storage.sync_directory(self.path)
        except BaseException:
            # What cannot be undone now is undone by the next one that cleans.
            with contextlib.suppress(OSError):
                if is_complete and not os.path.lexists(new):
                    storage.rename(path, new)
                if os.path.lexists(old):
                    storage.rename(old, path)
            with contextlib.suppress(OSError):
                _remove(new)
            raise
        return manifest

    def forget(self, name: str) -> None:
        """Remove what was replaced by the checkpoint of a name."""
        if os.path.lexists(self.path / f"{_REPLACED}{name}"):
            _remove(self.path / f"{_REPLACED}{name}")

    def remove(self, name: str) -> None:
        """Remove a checkpoint."""
        half = self.path / f"{_REMOVING}{name}"
        storage.rename(self.path / name, half)
        storage.sync_directory(self.path)
        _remove(half)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of the directory by JSON; remove it if the value is None."""
        path = self.path / name
        if value is not None:
            storage.replace_file(path, encode_json(value, indent=1) + b"\n")
        elif os.path.lexists(path):
            storage.remove_file(path)

    @contextlib.contextmanager
    def _locked(self, timeout: float) -> Iterator[None]:
        path = self.path / _LOCK
        try:
            fd = storage.create(path)
        except FileExistsError:
            # What stands in its place must not keep anybody waiting.
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{path} is not a regular file")
            self._lock(fd, timeout)
            # Who it was matters only to those who wait.
            with contextlib.suppress(OSError):
                storage.write(fd, b"%-20d\n" % os.getpid())
            try:
                yield
            finally:
                # A process that was forked meanwhile has the lock as well, until it is undone.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            # Nothing was written that matters.
            with contextlib.suppress(OSError):
                os.close(fd)

    def _lock(self, fd: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
            time.sleep(0.01)
        holder = ""
        with contextlib.suppress(OSError):
            holder = storage.read_file(self.path / _LOCK, 100).decode(errors="replace").strip()
        raise CheckpointError(
            f"{self.path} is still locked after {timeout:g} seconds, by process "
            f"{holder or 'unknown'}, which saves or removes checkpoints there; wait for it, or "
            "set a longer lock_timeout"
        )

    def _clean(self) -> None:
        """Remove what a killed process left, or put it back in its place."""
        for name in sorted(os.listdir(self.path)):
            path = self.path / name
            try:
                if name.startswith(_REPLACED):
                    place = self.path / name[len(_REPLACED) :]
                    if not os.path.lexists(place):
                        storage.rename(path, place)
                    # What replaces it must be durable before it is removed.
                    storage.sync_directory(self.path)
                if name.startswith((_REPLACED, _SAVING, _REMOVING)) and os.path.lexists(path):
                    _remove(path)
            except OSError as error:
                _logger.warning("what a killed process left in %s stays: %s", self.path, error)


def read_directory(path: Path) -> tuple[Any, Manifest]:
    """Return what `read_checkpoint` does, but of no symbolic link.

    Raises:
        CorruptCheckpointError: Also if the path is a link.
    """
    _refuse_link(path)
    return read_checkpoint(path)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise CorruptCheckpointError(
            f"{path} is a symbolic link, which is not followed; use its target instead"
        )


def has_files(path: Path) -> bool:
    """Return whether there is a file of a checkpoint in a directory."""
    return any(os.path.lexists(path / name) for name in _FILES)


def _is_checkpoint(path: Path) -> bool:
    """Return whether a directory, or a link, is a checkpoint or what is left of one."""
    if not path.is_dir() and not path.is_symlink():
        return False
    return has_files(path) or _DEFAULT_NAME.fullmatch(path.name) is not None


def _remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all that is in it."""
    if path.is_symlink() or not path.is_dir():
        storage.remove_file(path)
        return
    for name in sorted(os.listdir(path)):
        _remove(path / name)
    storage.remove_directory(path)


def _make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing."""
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    try:
        for place in reversed(missing):
            try:
                storage.make_directory(place)
            except FileExistsError:
                # Another process may have been faster.
                if not place.is_dir():
                    raise
            storage.sync_directory(place.parent)
    except OSError as error:
        raise CheckpointError(f"cannot make the directory {path}: {error}") from error
