"""Signals that ask a run to end, and when it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Signals"]


class Signals:
    """Notes the signals that ask for an end, until the run gets to a point where it can save.

    During a `with` block the first signal is noted, and the handler of before is called if it
    is the program's own. A second one gets its default action at once: SIGINT raises
    KeyboardInterrupt, and the others end the process. Handlers can be set in the main thread
    only; in another one nothing is noted.

    Args:
        numbers: The signals.

    Attributes:
        received: The first signal that came; None before it.
        is_repeated: Whether another one has come, which ends the process at once.
    """

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self.received: int | None = None
        self.is_repeated = False
        self._numbers = tuple(numbers)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Set the handlers."""
        self.received, self.is_repeated = None, False
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the handlers of before back."""
        if isinstance(error, SystemExit):
            # Loaders whose workers are dead may outlive this block.
            self._before.pop(signal.SIGCHLD, None)
        for number, handler in self._before.items():
            # A handler that Python did not set cannot be set by it either.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def check(self) -> None:
        """Raise what ends the run, if a signal was noted.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: After another signal; the status is 128 plus its number.
        """
        if self.received is not None:
            raise self.ending()

    def ending(self) -> BaseException:
        """Return what ends the run after the signal that was noted."""
        assert self.received is not None
        if self.received == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(128 + self.received)

    def watch(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return batches before each of which `check` is called.

        If they cannot be loaded after a signal, that is what ends the run: the signal may have
        ended the worker processes too.
        """
        return self._watched(batches) if self._before else batches

    def _watched(self, batches: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(batches)
        self.hold_workers()
        while True:
            self.check()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                if self.received is None:
                    raise
                raise self.ending() from error
            yield batch

    def hold_workers(self) -> None:
        """Keep torch from raising anywhere in the program when a worker process has died.

        The loader itself raises when a batch of that worker is missing, where the state of the
        run is whole.
        """
        if not self._before or signal.SIGCHLD in self._before:
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", None) == "torch.utils.data._utils.signal_handling":
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        is_own = callable(before) and before is not signal.default_int_handler
        if self.received is not None:
            self.is_repeated = True
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
            signal.raise_signal(number)
            return
        self.received = number
        if is_own:
            before(number, frame)
