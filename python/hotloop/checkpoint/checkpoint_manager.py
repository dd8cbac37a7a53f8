"""Saves and finds checkpoints, and decides which of them stay."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotloop.argument import check_count, check_number
from hotloop.checkpoint.background import BackgroundTask, HostBuffers
from hotloop.checkpoint.checkpoint_directory import (
    NAME,
    CheckpointDirectory,
    read_directory,
    scan,
)
from hotloop.checkpoint.manifest import Info, Manifest
from hotloop.checkpoint.pins import PINNED, Pins
from hotloop.checkpoint.retention import Retention
from hotloop.checkpoint.tree import flatten, rebuild
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["CheckpointManager"]

_logger = logging.getLogger("hotloop")

_LATEST, _BEST = "latest.json", "best.json"
_RESERVED = ("latest", "best", _LATEST, _BEST, PINNED)


class CheckpointManager:
    """Saves, finds, loads and removes the checkpoints of a directory.

    Each checkpoint is a directory in it. It is written beside the others, made durable, and
    only then given its name: a kill at any instant leaves what was there, or that and the new
    one. What the manager knows comes from the manifests alone, so that it goes on where
    another one stopped. While something is written or removed, the directory is locked
    against other processes.

    The newest checkpoint is the one with the highest sequence number. The best one has the
    lowest (or highest) finite value of the metric, and of equal ones it is the newest; without
    a metric it is the newest that was saved as the best. After each save, what is neither
    among the last ones nor among the best ones, not of every so many steps and not pinned is
    removed. The newest and the best always stay. So do directories that cannot be read as a
    checkpoint, of which a warning of the logger "hotloop" tells, and everything else.

    "latest.json" and "best.json" tell people and tools which they are; the manager itself
    does not read them. The methods are called in one thread.

    Args:
        directory: The directory, which is made if it is missing.
        keep_last: How many of the newest are kept; None for all.
        keep_best: How many of the best are kept.
        metric: The metric that decides which is the best; None if `is_best` does.
        mode: "min" if a low value of the metric is good, "max" if a high one is.
        keep_every: Checkpoints whose step is a multiple of this are kept, too.
        lock_timeout: The most seconds to wait for another process that changes the directory.

    Attributes:
        directory: The directory, as an absolute path.
        blocked_seconds: Time that all saves took from the caller.
        last_blocked_seconds: Time that the last save took from the caller.
        last_seconds: Time from the call of the last save that was completed to its end.

    Raises:
        ValueError: If an argument is out of its range.
        CheckpointError: If the directory cannot be made.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int | None = 3,
        keep_best: int = 1,
        metric: str | None = None,
        mode: str = "min",
        keep_every: int | None = None,
        lock_timeout: float = 60.0,
    ) -> None:
        self._retention = Retention(keep_last, keep_best, metric, mode, keep_every)
        check_number("lock_timeout", lock_timeout, 0)
        self.directory = Path(directory).absolute()
        self.blocked_seconds = 0.0
        self.last_blocked_seconds = 0.0
        self.last_seconds = 0.0
        self._folder = CheckpointDirectory(self.directory, lock_timeout)
        self._background = BackgroundTask()
        self._buffers = HostBuffers()
        # By name and time: another checkpoint may get the name.
        self._damaged: set[tuple[str, str]] = set()
        self._warned: set[str] = set()

    def save(
        self,
        state: Any,
        *,
        step: int,
        epoch: int = 0,
        name: str | None = None,
        metrics: Mapping[str, float] | None = None,
        is_best: bool | None = None,
        is_pinned: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save a checkpoint, which is durable when this returns; one of this name is replaced.

        If it fails, what was there before is unchanged. What fails after that, such as the
        removal of old checkpoints, is logged as a warning.

        Args:
            state: What to save: dicts, lists, tuples, tensors and plain values, as
                `hotloop.checkpoint.flatten` takes them.
            step: Updates that were applied.
            epoch: Epochs that were completed.
            name: Up to 128 letters, digits, ".", "_" and "-", of which the first is a letter
                or a digit; by default "step_" and eight digits.
            metrics: Values by name.
            is_best: Whether it is the best so far; None to compare it with the others by the
                manager's metric. It is written into the manifest, and decides what `best` is
                for managers without a metric.
            is_pinned: Whether it stays until `unpin`.
            config: The configuration of the run, for the manifest.

        Returns:
            The directory of the checkpoint.

        Raises:
            ValueError: If an argument is out of its range.
            CheckpointError: If the state cannot be saved, the directory cannot be written or
                is locked, or the last save in the background failed; in this case nothing is
                saved.
        """
        start = time.perf_counter()
        try:
            self._background.wait()
            info = _make_info(name, step, epoch, metrics, is_pinned, config)
            return self._save(state, info, is_best, start)
        finally:
            self._count_blocked(start)

    def save_async(
        self,
        state: Any,
        *,
        step: int,
        epoch: int = 0,
        name: str | None = None,
        metrics: Mapping[str, float] | None = None,
        is_best: bool | None = None,
        is_pinned: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy a state, and save it as `save` does in a thread while training goes on.

        The copies are in host memory that is used again by the next call: as much as the
        state's tensors have. If a save is still going on, its end is waited for. What it
        raises is logged, and raised by the next `save`, `save_async` or `wait`. The
        interpreter does not exit before the save is complete.

        Args:
            state: As for `save`; it may change as soon as this returns.
            step: As for `save`.
            epoch: As for `save`.
            name: As for `save`.
            metrics: As for `save`.
            is_best: As for `save`.
            is_pinned: As for `save`.
            config: As for `save`.

        Raises:
            ValueError: As `save`.
            CheckpointError: If the state cannot be saved or the last save failed; in this
                case nothing is saved.
        """
        start = time.perf_counter()
        try:
            self._background.wait()
            info = _make_info(name, step, epoch, metrics, is_pinned, config)
            plain, tensors = flatten(state)
            copied = rebuild(plain, self._buffers.copy(tensors))
            self._background.start(
                f"checkpoint {info.name}", lambda: self._save(copied, info, is_best, start)
            )
        finally:
            self._count_blocked(start)

    def wait(self) -> None:
        """Return when no save goes on in the background.

        Raises:
            CheckpointError: If the last one failed, from what it raised.
        """
        self._background.wait()

    def check(self) -> None:
        """Raise what `wait` raises, if the last save in the background has failed by now."""
        self._background.check()

    def load(self, path_or_name: str | Path | None = None) -> tuple[Any, Manifest]:
        """Return the state of a checkpoint and its manifest; every byte is verified.

        Args:
            path_or_name: "latest" or None, "best", a name in the directory, or the `Path` of
                a checkpoint anywhere.

        Raises:
            ValueError: If a name is none.
            CheckpointError: If there is no such checkpoint, or it cannot be read.
            CorruptCheckpointError: If it is damaged, or a symbolic link.
        """
        self._background.join()
        return read_directory(self._locate(path_or_name))

    def load_latest_good(self) -> tuple[Any, Manifest] | None:
        """Return the state and the manifest of the newest checkpoint that is not damaged.

        Each damaged one that is passed over gives a warning of the logger "hotloop". This
        manager then neither removes it nor counts it among those that are kept.

        Returns:
            What `load` returns; None if there are no checkpoints.

        Raises:
            CheckpointError: If all are damaged, with what is wrong with each; or if one cannot
                be read for another reason, such as its permissions.
        """
        self._background.join()
        found, problems = scan(self.directory)
        for problem in problems.values():
            if not isinstance(problem, CorruptCheckpointError):
                raise problem
            _logger.warning("a damaged checkpoint is passed over: %s", problem)
        for manifest in found:
            key = (manifest.name, manifest.created)
            try:
                result = read_directory(self.directory / manifest.name)
            except CheckpointError as error:
                if not self._folder.has(manifest):
                    # Another process has removed or replaced it in the meantime.
                    return self.load_latest_good()
                if not isinstance(error, CorruptCheckpointError):
                    raise
                _logger.warning("a damaged checkpoint is passed over: %s", error)
                self._damaged.add(key)
                problems[manifest.name] = error
                continue
            self._damaged.discard(key)
            return result
        if problems:
            reasons = "; ".join(str(problem) for problem in problems.values())
            raise CheckpointError(f"no checkpoint in {self.directory} can be loaded: {reasons}")
        return None

    def checkpoints(self) -> list[Manifest]:
        """Return the manifests of the checkpoints, newest first, by the names they have now.

        Of each, the manifest and the sizes of the files were checked. Those that cannot be
        read and those that `load_latest_good` passed over are left out.
        """
        return self._usable(self._list())

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint; None if there is none."""
        manifests = self.checkpoints()
        return self.directory / manifests[0].name if manifests else None

    @property
    def best(self) -> Path | None:
        """The best checkpoint; None if there is none with a finite value of the metric."""
        manifests = self._retention.best_first(self.checkpoints())
        return self.directory / manifests[0].name if manifests else None

    def pin(self, name: str) -> None:
        """Keep the checkpoint of this name, and those that replace it, until `unpin`.

        Args:
            name: The name.

        Raises:
            CheckpointError: If there is no such checkpoint, or the list of pinned ones cannot
                be read or written.
        """
        self._set_pin(name, True)

    def unpin(self, name: str) -> None:
        """Let the checkpoint be removed when it is its turn, even if it was saved pinned.

        Args:
            name: The name.

        Raises:
            CheckpointError: As `pin`.
        """
        self._set_pin(name, False)

    def prune(self, dry_run: bool = False) -> list[Path]:
        """Remove the checkpoints that are not to be kept, as each save does.

        Args:
            dry_run: Whether to change nothing.

        Returns:
            What was removed, or would be.

        Raises:
            CheckpointError: If one cannot be removed, or the directory is locked.
        """
        self._background.join()
        with contextlib.nullcontext() if dry_run else self._folder.changing("remove checkpoints"):
            names = self._left_over(self.checkpoints())
            self._remove([] if dry_run else names)
        return [self.directory / name for name in names]

    def _count_blocked(self, start: float) -> None:
        self.last_blocked_seconds = time.perf_counter() - start
        self.blocked_seconds += self.last_blocked_seconds

    def _save(self, state: Any, info: Info, is_best: bool | None, start: float) -> Path:
        with self._folder.changing(f"save checkpoint {info.name!r}"):
            found = self._list()
            sequence = 1 + max((manifest.sequence for manifest in found), default=0)
            others = [m for m in self._usable(found) if m.name != info.name]
            if is_best is None and self._retention.metric is not None:
                is_best = self._retention.best_first([info, *others])[:1] == [info]
            info = replace(info, sequence=sequence, is_best=bool(is_best))
            manifest = self._folder.write(state, info)
            try:
                self._publish([manifest, *others])
            except OSError as error:
                _logger.warning("a checkpoint is saved, but not what follows: %s", error)
        self.last_seconds = time.perf_counter() - start
        return self.directory / info.name

    def _publish(self, manifests: list[Manifest]) -> None:
        """Do what follows a save: the pointers first, so that they name what stays."""
        newest = manifests[0]
        self._folder.write_json(_LATEST, _pointer(newest))
        best = self._retention.best_first(manifests)
        self._folder.write_json(_BEST, _pointer(best[0], self._retention.metric) if best else None)
        self._folder.forget(newest.name)
        self._remove(self._left_over(manifests))

    def _left_over(self, manifests: list[Manifest]) -> list[str]:
        try:
            pins = Pins.read(self.directory)
        except CorruptCheckpointError as error:
            _logger.warning("no checkpoint is removed: %s", error)
            return []
        kept = self._retention.kept(manifests, pins.names(manifests))
        return [manifest.name for manifest in manifests if manifest.name not in kept]

    def _remove(self, names: list[str]) -> None:
        for name in names:
            self._folder.remove(name)

    def _set_pin(self, name: str, is_pinned: bool) -> None:
        self._background.join()
        with self._folder.changing(f"{'pin' if is_pinned else 'unpin'} checkpoint {name!r}"):
            times = {manifest.name: manifest.created for manifest in self.checkpoints()}
            pins = Pins.read(self.directory)
            if name not in times and (is_pinned or name not in pins.pinned):
                raise self._missing(name)
            pins.pinned.discard(name)
            pins.unpinned.pop(name, None)
            if is_pinned:
                pins.pinned.add(name)
            elif name in times:
                pins.unpinned[name] = times[name]
            self._folder.write_json(PINNED, pins.to_plain())

    def _usable(self, manifests: list[Manifest]) -> list[Manifest]:
        return [m for m in manifests if (m.name, m.created) not in self._damaged]

    def _list(self) -> list[Manifest]:
        """Return the manifests, newest first; warn once of each that cannot be read."""
        found, problems = scan(self.directory)
        for text in map(str, problems.values()):
            if text not in self._warned:
                self._warned.add(text)
                _logger.warning("a checkpoint that cannot be read is left alone: %s", text)
        return found

    def _locate(self, name: str | Path | None) -> Path:
        if isinstance(name, Path):
            return name
        if name is None or name in ("latest", "best"):
            path = self.best if name == "best" else self.latest
            if path is None:
                raise CheckpointError(f"{self.directory} has no {name or 'latest'} checkpoint")
            return path
        if isinstance(name, str) and "/" in name:
            raise ValueError(f"{name!r} is no name of a checkpoint; pass Path({name!r}) for a path")
        _check_name(name)
        if not os.path.lexists(self.directory / name):
            raise self._missing(name)
        return self.directory / name

    def _missing(self, name: str) -> CheckpointError:
        names = ", ".join(manifest.name for manifest in self.checkpoints()[:10])
        return CheckpointError(
            f"there is no checkpoint {name!r} in {self.directory}; there are: {names or 'none'}"
        )


def _make_info(
    name: str | None,
    step: int,
    epoch: int,
    metrics: Mapping[str, float] | None,
    is_pinned: bool,
    config: Mapping[str, Any] | None,
) -> Info:
    """Check what is said of a checkpoint, and copy what the caller could change."""
    check_count("step", step, 0)
    name = f"step_{step:08d}" if name is None else name
    _check_name(name)
    return Info(
        name=name,
        step=step,
        epoch=epoch,
        metrics=dict(metrics or {}),
        is_pinned=is_pinned,
        config=rebuild(*flatten(config)),
    )


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            "name must be 1 to 128 letters, digits, '.', '_' and '-', begin with a letter or a "
            f"digit and be none of {', '.join(_RESERVED)}, got {name!r}"
        )


def _pointer(manifest: Manifest, metric: str | None = None) -> dict[str, Any]:
    value = {
        "checkpoint": manifest.name,
        "step": manifest.step,
        "sequence": manifest.sequence,
    }
    if metric is None:
        return value
    return {**value, "metric": metric, "value": manifest.metrics[metric]}
