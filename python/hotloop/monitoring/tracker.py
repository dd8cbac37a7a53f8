"""What a run asks of a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["STATUSES", "Tracker", "check_status"]

#: How a run may end: after its last step, by a `Stop`, by an exception, by the user.
STATUSES = ("finished", "stopped", "failed", "interrupted")


class Tracker(Protocol):
    """Writes the values of a run somewhere: `start`, any number of `log`s, `finish`.

    A tracker may raise and may block; `Outbox` shields a run from both. Every tracker passes
    the configuration through `redact`.
    """

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Begin a run, or go on with one.

        Args:
            config: The configuration of the run.
            run_id: The name by which a run is found again when it is resumed; None if it never
                will be.
        """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write values.

        Args:
            values: The values by name.
            step: The number of applied optimizer updates, not below the last one.
        """

    def artifact(self, path: str | Path) -> None:
        """Record a file that the run wrote.

        Args:
            path: The file.
        """

    def finish(self, status: str) -> None:
        """End the run.

        Args:
            status: One of `STATUSES`.
        """


def check_status(status: str) -> None:
    """Raise ValueError if a status is none of `STATUSES`."""
    if status not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(map(repr, STATUSES))}, got {status!r}")
