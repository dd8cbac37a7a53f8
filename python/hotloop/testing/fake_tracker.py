"""A tracker that writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hotloop.errors import unknown_name

__all__ = ["FakeTracker"]

_METHODS = ("start", "log", "artifact", "finish")


class FakeTracker:
    """Records what a tracker is told.

    Args:
        failing: The methods that raise a RuntimeError, once their call is recorded: any of
            "start", "log", "artifact" and "finish".

    Attributes:
        calls: The name of each method that was called, with its arguments.

    Raises:
        ValueError: If a tracker has no such method.
    """

    def __init__(self, failing: Iterable[str] = ()) -> None:
        self._failing = tuple(failing)
        for name in self._failing:
            if name not in _METHODS:
                raise ValueError(unknown_name("method", name, _METHODS))
        self.calls: list[tuple[Any, ...]] = []

    @property
    def logged(self) -> list[tuple[dict[str, float], int]]:
        """The values of each `log`, and its step."""
        return [(call[1], call[2]) for call in self.calls if call[0] == "log"]

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Record the begin of a run."""
        self._record("start", dict(config), run_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values."""
        self._record("log", dict(values), step)

    def artifact(self, path: str | Path) -> None:
        """Record a file."""
        self._record("artifact", path)

    def finish(self, status: str) -> None:
        """Record the end of a run."""
        self._record("finish", status)

    def _record(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] in self._failing:
            raise RuntimeError(f"the tracker was told to fail in {call[0]}")
