"""What is in a directory of checkpoints, found without changing anything there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hotloop.checkpoint import Manifest, read_manifest
from hotloop.checkpoint.checkpoint_directory import NAME
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["Catalogue", "read_catalogue", "size_of"]

_FILES = ("manifest.json", "state.json", "tensors.safetensors")


@dataclass(frozen=True)
class Catalogue:
    """The checkpoints of a directory; of one checkpoint, that one in the directory above it.

    Attributes:
        path: The directory.
        checkpoints: The manifests of those whose files have the right sizes, newest first.
        problems: What is wrong with the others, by name.
        single: The name of the one checkpoint; None of a directory.
        best: The name of the best one, as "best.json" says or else the manifests do.
        metric: What the best one was chosen by, as "best.json" says.
        pinned: Names of those that are kept until they are unpinned.
        pin_problem: Why it is not known which are pinned.
    """

    path: Path
    checkpoints: Sequence[Manifest]
    problems: Mapping[str, CheckpointError]
    single: str | None = None
    best: str | None = None
    metric: str | None = None
    pinned: frozenset[str] = field(default=frozenset())
    pin_problem: CheckpointError | None = None

    @property
    def names(self) -> list[str]:
        """All names, newest first and those with a problem last."""
        return [*(manifest.name for manifest in self.checkpoints), *self.problems]

    def resolve(self, name: str | None) -> str:
        """Return the name of a checkpoint.

        Args:
            name: A name, "latest" or "best"; None of one checkpoint.

        Raises:
            CheckpointError: If there is no such checkpoint.
        """
        if self.single is not None:
            if name not in (None, self.single):
                raise CheckpointError(
                    f"{self.path / self.single} is one checkpoint and has no {name!r}"
                )
            return self.single
        if name is None:
            raise CheckpointError(
                f"{self.path} is a directory of checkpoints; name one: {self._choice()}"
            )
        if name == "latest" and self.checkpoints:
            return self.checkpoints[0].name
        if name == "best" and self.best is not None:
            return self.best
        if name not in self.names:
            raise CheckpointError(
                f"there is no checkpoint {name!r} in {self.path}; there are: {self._choice()}"
            )
        return name

    def locate(self, name: str | None) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: A name, "latest" or "best"; None of one checkpoint.

        Raises:
            CheckpointError: If there is no such checkpoint, or it is known to be damaged.
        """
        name = self.resolve(name)
        if name in self.problems:
            raise self.problems[name]
        return self.path / name

    def needs_directory(self, action: str) -> None:
        """Raise CheckpointError if this is one checkpoint."""
        if self.single is not None:
            raise CheckpointError(
                f"{action} needs a directory of checkpoints, and {self.path / self.single} is "
                f"one checkpoint; use {self.path}"
            )

    def short(self, error: CheckpointError, name: str | None = None) -> str:
        """Return the text of an error, with paths from this directory or a checkpoint on."""
        text = str(error)
        if name is not None:
            place = self.path / name
            text = text.removeprefix(f"{place} ").replace(f"{place}{os.sep}", "")
        return text.replace(f"{self.path}{os.sep}", "")

    def _choice(self) -> str:
        return ", ".join(self.names[:10]) or "none"


def read_catalogue(path: Path) -> Catalogue:
    """Return what is in a directory of checkpoints, or a catalogue of one checkpoint.

    Args:
        path: The directory, or the checkpoint.

    Raises:
        CheckpointError: If it is no directory.
        OSError: If it cannot be read.
    """
    if not path.is_dir():
        reason = "is no directory" if os.path.lexists(path) else "does not exist"
        raise CheckpointError(f"{path} {reason}; give a directory of checkpoints")
    if _has_files(path):
        # "." has no name, and neither a link nor ".." is that of a checkpoint.
        path = path.resolve()
        found, problems = _read(path.parent, [path.name])
        return Catalogue(path.parent, found, problems, single=path.name)
    names = (name for name in sorted(os.listdir(path)) if NAME.fullmatch(name))
    found, problems = _read(path, [name for name in names if _is_checkpoint(path / name)])
    best, metric = _read_best(path, found)
    try:
        pinned, pin_problem = _read_pinned(path, found), None
    except CheckpointError as error:
        pinned, pin_problem = frozenset(), error
    return Catalogue(
        path,
        found,
        problems,
        best=best,
        metric=metric,
        pinned=pinned,
        pin_problem=pin_problem,
    )


def size_of(manifest: Manifest) -> int:
    """Return the bytes of a checkpoint's files."""
    return len(manifest.to_bytes()) + sum(entry.size for entry in manifest.files.values())


def _has_files(path: Path) -> bool:
    return any(os.path.lexists(path / name) for name in _FILES)


def _is_checkpoint(path: Path) -> bool:
    """Return whether a directory, or a link to one, is a checkpoint or what is left of one."""
    return path.is_dir() and (_has_files(path) or path.name.startswith("step_"))


def _read(path: Path, names: list[str]) -> tuple[list[Manifest], dict[str, CheckpointError]]:
    found, problems = [], {}
    for name in names:
        try:
            if (path / name).is_symlink():
                raise CorruptCheckpointError(
                    f"{path / name} is a symbolic link, which is not followed"
                )
            # A directory may have been renamed.
            found.append(replace(read_manifest(path / name), name=name))
        except CheckpointError as error:
            # A run may have removed it in the meantime.
            if os.path.lexists(path / name):
                problems[name] = error
    found.sort(key=lambda manifest: (manifest.sequence, manifest.name), reverse=True)
    return found, problems


def _read_best(path: Path, found: list[Manifest]) -> tuple[str | None, str | None]:
    """Return the name of the best one and the metric, of a file or else of the manifests."""
    try:
        value = json.loads((path / "best.json").read_bytes())
        metric = value.get("metric")
        is_there = (value["checkpoint"], value["sequence"]) in {(m.name, m.sequence) for m in found}
        if is_there and isinstance(metric, (str, type(None))):
            return value["checkpoint"], metric
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Nothing depends on the file; the next save writes it anew.
        pass
    return next((manifest.name for manifest in found if manifest.is_best), None), None


def _read_pinned(path: Path, found: list[Manifest]) -> frozenset[str]:
    place = path / "pinned.json"
    value: Any = {"pinned": [], "unpinned": {}}
    try:
        if os.path.lexists(place):
            value = json.loads(place.read_bytes())
        if not isinstance(value["pinned"], list):
            raise ValueError("there is no list of names")
        unpinned = dict(value["unpinned"])
        own = (m.name for m in found if m.is_pinned and unpinned.get(m.name) != m.created)
        return frozenset([*value["pinned"], *own])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{place} is damaged: {error!r}; remove it, and pin again what is to stay"
        ) from error
