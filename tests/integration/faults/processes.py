"""Runs functions in processes of their own, in which nothing has happened before."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

# A server that has imported everything and done nothing forks them, which takes 10 ms in place
# of the seconds of an import.
_CONTEXT = multiprocessing.get_context("forkserver")
# torch imports its compiler when it makes its first optimizer.
_CONTEXT.set_forkserver_preload(["torch._dynamo", "tests.integration.faults.program"])


def start(function: Callable[..., Any], *arguments: Any, **named: Any) -> Started:
    """Start a function in a process."""
    return Started(function, arguments, named)


def call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return what a function returns in a process."""
    return start(function, *arguments, **named).result()


def pipe() -> tuple[Connection, Connection]:
    """Return the ends of a pipe to receive from and to send to, for arguments of functions."""
    return _CONTEXT.Pipe(duplex=False)


class Started:
    """A function that runs in a process."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self._message: tuple[str, Any] | None = None
        self.process = _CONTEXT.Process(target=_work, args=(sender, function, arguments, named))
        self.process.start()
        sender.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def result(self, timeout: float = 120) -> Any:
        """Return what the function returned; AssertionError with the traceback if it failed."""
        status = self.status(timeout)
        if self._message is None:
            raise AssertionError(f"the process ended with status {status} and returned nothing")
        kind, value = self._message
        if kind == "error":
            raise AssertionError(f"the process failed:\n{value}")
        return value

    def status(self, timeout: float = 120) -> int | None:
        """Return the exit status, which is below 0 after a signal."""
        # What waits in a full pipe keeps a process from its end.
        if self._message is None and self._receiver.poll(timeout):
            with contextlib.suppress(EOFError):
                self._message = self._receiver.recv()
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"the process did not end within {timeout} seconds")
        return self.process.exitcode


def each_within(seconds: float, function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
    """Return what a function returns for each item, in one process.

    Args:
        seconds: What it may take for one; after that it gives None, and another process goes on.
        function: The function.
        items: Its arguments, one for each call.
    """
    results: list[Any] = []
    while len(results) < len(items):
        receiver, sender = pipe()
        started = start(_send_each, function, items[len(results) :], sender)
        sender.close()
        try:
            while len(results) < len(items):
                is_there = receiver.poll(seconds)
                results.append(receiver.recv() if is_there else None)
                if not is_there:
                    break
        except EOFError:
            # What it failed with, if it did.
            started.result()
            results.append(None)
        finally:
            started.process.kill()
            started.process.join()
    return results


def _send_each(function: Callable[..., Any], items: Sequence[Any], sender: Connection) -> None:
    for item in items:
        sender.send(function(item))


def _work(
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    # The workers of a loader are forks, as they are in a program of its own.
    multiprocessing.set_start_method("fork", force=True)
    try:
        result = function(*arguments, **named)
    except Exception:
        sender.send(("error", traceback.format_exc()))
    else:
        sender.send(("result", result))
