"""Saves a run when it is asked for, and finds what it goes on from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hotloop.callbacks import Callbacks, Checkpointing
from hotloop.callbacks.rank import is_first_rank
from hotloop.checkpoint import CheckpointManager, Manifest, read_checkpoint
from hotloop.config import TrainingConfig
from hotloop.errors import CheckpointError
from hotloop.loops.run import Run

__all__ = ["Saver"]

_LOGGER = logging.getLogger("hotloop")

#: Settings that may change when a run goes on: its length, and what is shown and written.
_FREE = ("epochs", "max_steps", "max_seconds", "progress", "save_every")


class Saver:
    """Saves and loads the state of a run through its `Checkpointing` callback, if it has one.

    Args:
        callbacks: The callbacks of the run.
        run: How far it is.
        config: Its settings, which are saved too.
        state: Returns the state of the run.
        load: Makes the run go on from a state.

    Attributes:
        is_wanted: Whether a checkpoint was asked for.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        run: Run,
        config: TrainingConfig,
        state: Callable[[], dict[str, Any]],
        load: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.is_wanted = False
        self._callbacks = callbacks
        self._run = run
        self._config = config
        self._state = state
        self._load = load
        #: What was saved last, or loaded.
        self._saved: Any = None

    @property
    def checkpointing(self) -> Checkpointing | None:
        """The callback that says when the run is saved."""
        return next((each for each in self._callbacks if isinstance(each, Checkpointing)), None)

    @property
    def manager(self) -> CheckpointManager:
        """Where the run is saved.

        Raises:
            ValueError: If there is nowhere.
        """
        if self.checkpointing is None:
            raise ValueError(
                "there is nowhere to save to and resume from; pass checkpoints=DIRECTORY to the "
                "Trainer, or a Checkpointing callback"
            )
        return self.checkpointing.manager

    def save(self, name: str | None, is_best: bool | None) -> Path:
        """Save now; as `Trainer.save_checkpoint`."""
        return self.manager.save(
            self._state(), **self._about(), name=name, is_best=is_best, is_pinned=bool(name)
        )

    def save_if_wanted(self, *, is_last: bool = False) -> None:
        """Save if it was asked for, and there is something new.

        Args:
            is_last: Whether the process may end afterwards, so that it has to wait.

        Raises:
            CheckpointError: If it cannot be saved, and that is not only to be a warning.
            ValueError: If there is nowhere to save.
        """
        is_wanted, self.is_wanted = self.is_wanted, False
        if not is_wanted or self._key() == self._saved or not is_first_rank():
            return
        is_async = self.checkpointing is not None and self.checkpointing.is_async and not is_last
        save = self.manager.save_async if is_async else self.manager.save
        try:
            save(self._state(), **self._about())
        except CheckpointError:
            self._warn_or_raise("the run goes on without a checkpoint")
        else:
            self._saved = self._key()

    def save_failed(self) -> None:
        """Save where a run has failed, or was ended by a signal; failures are only logged."""
        self.is_wanted = True
        try:
            self.wait()
            self.save_if_wanted(is_last=True)
        except CheckpointError:
            _LOGGER.exception("the end of the run could not be saved")

    def wait(self) -> None:
        """Let a save in the background come to its end.

        Raises:
            CheckpointError: If it failed, and that is not only to be a warning.
        """
        if self.checkpointing is None:
            return
        try:
            self.checkpointing.manager.wait()
        except CheckpointError:
            self._warn_or_raise("the last checkpoint was not saved")

    def forget(self) -> None:
        """Note that the state is no longer the one that was saved last."""
        self._saved = None

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint; as `Trainer.load_checkpoint`."""
        if isinstance(path, str) and (os.sep in path or self.checkpointing is None):
            path = Path(path)
        if self.checkpointing is None:
            self._go_on(*read_checkpoint(Path(path)))
        else:
            self._go_on(*self.manager.load(path))

    def load_newest(self) -> Manifest | None:
        """Go on from the newest good checkpoint.

        Returns:
            What it says of itself; None if there is no checkpoint.
        """
        self.wait()
        found = self.manager.load_latest_good()
        if found is None:
            return None
        self._go_on(*found)
        return found[1]

    def _go_on(self, state: Any, manifest: Manifest) -> None:
        try:
            self._load(state)
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint {manifest.name!r} is of a run with other parts: {error}"
            ) from error
        self._saved = self._key()
        _LOGGER.info(
            "the run goes on from %r, at epoch %d and step %d",
            manifest.name,
            manifest.epoch,
            manifest.step,
        )
        before = manifest.config or {}
        changed = [
            f"{name} was {before[name]!r} and is {value!r}"
            for name, value in self._config.to_dict().items()
            if name in before and name not in _FREE and before[name] != value
        ]
        if changed:
            _LOGGER.warning(
                "the run goes on from %r with other settings: %s", manifest.name, "; ".join(changed)
            )

    def _about(self) -> dict[str, Any]:
        return {
            "step": self._run.step,
            "epoch": self._run.epoch,
            "metrics": dict(self._run.metrics),
            "config": self._config.to_dict(),
        }

    def _key(self) -> Any:
        """Return what differs between two states of which both are worth saving."""
        run = self._run
        return run.epoch, run.step, run.skipped, run.batch, run.history.stop_reason

    def _warn_or_raise(self, text: str) -> None:
        if self.checkpointing is None or self.checkpointing.on_error == "raise":
            raise
        _LOGGER.warning(text, exc_info=True)
