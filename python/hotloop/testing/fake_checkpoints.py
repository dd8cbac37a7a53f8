"""Checkpoints without files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hotloop.checkpoint import CheckpointManager, Manifest
from hotloop.errors import CheckpointError

__all__ = ["FakeCheckpoints"]


class FakeCheckpoints(CheckpointManager):
    """A checkpoint manager that keeps copies in memory, all of them.

    Args:
        failures: What the next saves raise instead; None lets one pass.

    Attributes:
        manifests: What was saved, in order.
        states: The states, in the same order.
        waits: How often somebody waited.
    """

    def __init__(self, *failures: CheckpointError | None) -> None:
        self.manifests: list[Manifest] = []
        self.states: list[dict[str, Any]] = []
        self.waits = 0
        self._failures = list(failures)

    def save(self, state: Any, **about: Any) -> Path:
        """Keep a copy of a state; `about` is as in the manager's `save`."""
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        given = {key: copy.deepcopy(value) for key, value in about.items() if value is not None}
        given.setdefault("name", f"step_{about['step']:08d}")
        manifest = Manifest(**given, sequence=len(self.manifests), files={})
        self.manifests.append(manifest)
        self.states.append(copy.deepcopy(state))
        return Path(manifest.name)

    def save_async(self, state: Any, **about: Any) -> None:
        """Keep a copy of a state at once."""
        self.save(state, **about)

    def wait(self) -> None:
        """Count the call."""
        self.waits += 1

    def check(self) -> None:
        """Do nothing: every save is complete."""

    def load(self, checkpoint: str | Path | None = None) -> tuple[Any, Manifest]:
        """Return the newest one of a name, or of all."""
        for state, manifest in zip(self.states[::-1], self.manifests[::-1]):
            if checkpoint in (None, "latest", manifest.name, Path(manifest.name)):
                return copy.deepcopy(state), manifest
        raise CheckpointError(f"there is no checkpoint {checkpoint!r}")

    def load_latest_good(self) -> tuple[Any, Manifest] | None:
        """Return the newest one."""
        return self.load() if self.states else None
