"""Runs processes under strace, which tells their system calls and ends them at any of these."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.faults import processes

#: What changes files and directories; a "?" allows that the kernel has no such call.
_CHANGING = (
    *("open", "openat", "openat2", "creat", "close"),
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("truncate", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "sync_file_range", "syncfs"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("link", "linkat", "symlink", "symlinkat"),
)
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


@dataclass(frozen=True)
class Call:
    """A system call.

    Attributes:
        name: Its name.
        index: Which of the calls of this name and thread it is, from 1.
        text: Its arguments, with the paths of descriptors.
    """

    name: str
    index: int
    text: str

    @property
    def paths(self) -> list[Path]:
        """The files it is about."""
        return [Path(path) for path in re.findall(r'[<"](/[^>"]*)[>"]', self.text)]


def traced(
    work: Callable[[], object],
    log: Path,
    inject: str | None = None,
    prepare: Callable[[], object] = int,
) -> int:
    """Do some work in a fork of this process, under strace.

    Args:
        work: The work.
        log: Where strace writes to.
        inject: What strace does, such as "fsync:signal=SIGKILL:when=3".
        prepare: What is done before strace comes.

    Returns:
        The status of the fork.

    Raises:
        PermissionError: If strace may not trace.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        try:
            prepare()
            _let_others_trace()
            os.write(sender, b"x")
            _wait_for_tracer()
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(sender)
    try:
        assert os.read(receiver, 1) == b"x"
    finally:
        os.close(receiver)
    filters = ["-e", "trace=" + ",".join(f"?{name}" for name in _CHANGING)]
    if inject is not None:
        filters += ["-e", f"inject={inject}"]
    strace = subprocess.run(
        ["strace", "-f", "-y", "-s", "0", *filters, "-o", log, "-p", str(child)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "attached" not in strace.stderr:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if "attached" not in strace.stderr:
        raise PermissionError(strace.stderr.strip())
    return status


def _let_others_trace() -> None:
    # Yama allows it else to the parents of a process only.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)


def _wait_for_tracer() -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    deadline = time.monotonic() + 20
    while b"TracerPid:\t0\n" in os.pread(fd, 4096, 0):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody traces this process")
        time.sleep(0.001)
    # It is attached, but may not have stopped this process yet.
    time.sleep(0.005)


def calls_of(log: Path, directory: Path) -> list[Call]:
    """Return the calls that change files in a directory, in their order."""
    counts: Counter[tuple[str, str]] = Counter()
    written = set()
    found = []
    for line in log.read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, text = match.groups()
        counts[thread, name] += 1
        call = Call(name, counts[thread, name], text)
        is_open = name.startswith(("open", "creat"))
        if is_open and not re.search("O_CREAT|O_WRONLY|O_RDWR|O_TRUNC", text):
            continue
        if not any(path.is_relative_to(directory) for path in call.paths):
            continue
        if is_open:
            written.add(call.paths[-1])
        elif name == "close" and call.paths[0] not in written:
            continue
        found.append(call)
    return found


@functools.cache
def why_not() -> str | None:
    """Return why nothing can be traced here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        processes.call(traced, os.getpid, Path(os.devnull))
    except (PermissionError, subprocess.SubprocessError) as error:
        return f"strace may not trace here: {error}"
    return None


@pytest.fixture
def strace() -> None:
    """Skip a test where nothing can be traced."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
