"""A queue between a run and its tracker."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hotloop.argument import check_count
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.tracker import Tracker, check_status

__all__ = ["Outbox"]

_logger = logging.getLogger("hotloop")

_Call: TypeAlias = "Callable[[], None]"
#: Calls, each with whether it is the last one of its run.
_Queue: TypeAlias = "queue.Queue[tuple[_Call, bool]]"


class Outbox:
    """A tracker that shields a run from another one, which may fail, block or be slow.

    Calls go into a queue, and one daemon thread makes them in order. `log` and `artifact` do
    not wait and do not raise: if the queue is full, the call is dropped and counted. What the
    wrapped tracker raises is counted, and the first exception is logged as a warning of the
    logger "hotloop". That holds for its errors of use too: a step that goes backwards, which
    `JsonlTracker.log` refuses, is one more failure here, and so is a `start` with the file of
    another run.

    `start` makes the thread and `finish` ends it; call `finish` in a `finally`, because what is
    in the queue when the interpreter exits is lost. The methods are called in one thread.

    Args:
        tracker: The tracker that is called.
        capacity: The most calls that wait, at least 1.

    Attributes:
        dropped: Calls of the run that were never made.
        failed: Calls of the run that raised.

    Raises:
        ValueError: If `capacity` is not a positive int.
    """

    def __init__(self, tracker: Tracker, capacity: int = 1000) -> None:
        check_count("capacity", capacity)
        self._tracker = tracker
        self._capacity = capacity
        self._queue: _Queue | None = None
        self._thread: threading.Thread | None = None
        self.dropped = 0
        self.failed = 0

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Begin a run: start the thread, and the tracker in it.

        If the tracker has not returned from a call of the run before, a warning is logged and
        every call of this run is dropped.

        Args:
            config: The configuration of the run, of which the tracker gets a copy by `redact`.
            run_id: The name by which a run is found again when it is resumed.

        Raises:
            RuntimeError: If the last run was not finished.
        """
        if self._queue is not None:
            raise RuntimeError("Outbox is already started; call finish first")
        self.dropped = 0
        self.failed = 0
        if self._thread is not None and self._thread.is_alive():
            _logger.warning(
                "%s still hangs in a call of the run before; every call of this run is dropped",
                self._name(),
            )
            return
        copied = redact(config)
        self._queue = queue.Queue(self._capacity)
        self._thread = threading.Thread(
            target=self._work, args=(self._queue,), name=f"Outbox {self._name()}", daemon=True
        )
        self._thread.start()
        self._post(lambda: self._tracker.start(copied, run_id))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Post values; before `start` and after `finish` they are dropped.

        Args:
            values: The values by name, which are copied.
            step: Their step.
        """
        copied = dict(values)
        self._post(lambda: self._tracker.log(copied, step))

    def artifact(self, path: str | Path) -> None:
        """Post a file that the run wrote.

        Args:
            path: The file, which has to stay until the tracker has read it.
        """
        self._post(lambda: self._tracker.artifact(path))

    def finish(self, status: str, timeout: float = 10.0) -> None:
        """Let the tracker make the calls that wait, end the run and join the thread.

        If that takes longer, the calls that still wait are dropped. The thread then ends by
        itself, after the tracker's `finish`, once the call in which the tracker hangs returns.
        Drops and failures are reported in one warning. Without a `start` nothing happens.

        Args:
            status: One of `STATUSES`.
            timeout: The most seconds to wait, in [0, `threading.TIMEOUT_MAX`].

        Raises:
            ValueError: If the status is none of them, or `timeout` is out of its range.
        """
        check_status(status)
        if not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise ValueError(
                f"timeout must be in [0, {threading.TIMEOUT_MAX:.0f}] seconds, got {timeout!r}"
            )
        if self._queue is None or self._thread is None:
            return
        deadline = time.monotonic() + timeout
        box, self._queue = self._queue, None
        last = (lambda: self._tracker.finish(status), True)
        with contextlib.suppress(queue.Full):
            box.put(last, timeout=timeout)
            self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                while True:
                    _, is_last = box.get_nowait()
                    self.dropped += not is_last
            box.put(last)
        if self.dropped or self.failed:
            _logger.warning(
                "%s: %d calls were dropped, %d failed", self._name(), self.dropped, self.failed
            )

    def _post(self, call: _Call) -> None:
        if self._queue is None:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait((call, False))
        except queue.Full:
            self.dropped += 1

    def _work(self, box: _Queue) -> None:
        is_last = False
        while not is_last:
            call, is_last = box.get()
            try:
                call()
            # Also a SystemExit, after which nothing would empty the queue.
            except BaseException as error:
                self.failed += 1
                if self.failed == 1:
                    _logger.warning(
                        "%s failed, which does not stop the run; later failures are counted",
                        self._name(),
                        exc_info=error,
                    )

    def _name(self) -> str:
        return type(self._tracker).__name__
