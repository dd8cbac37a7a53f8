"""What is in a directory of checkpoints, found without changing anything there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hotloop.checkpoint import Manifest, storage
from hotloop.checkpoint.checkpoint_directory import has_files, scan
from hotloop.checkpoint.pins import Pins
from hotloop.errors import CheckpointError

__all__ = ["Catalogue", "read_catalogue", "size_of"]


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
    if has_files(path):
        # "." has no name, and neither a link nor ".." is that of a checkpoint.
        path = path.resolve()
        found, problems = scan(path.parent, [path.name])
        return Catalogue(path.parent, found, problems, single=path.name)
    found, problems = scan(path)
    best, metric = _read_best(path, found)
    try:
        pinned, pin_problem = frozenset(Pins.read(path).names(found)), None
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


def _read_best(path: Path, found: list[Manifest]) -> tuple[str | None, str | None]:
    """Return the name of the best one and the metric, of a file or else of the manifests."""
    try:
        value = json.loads(storage.read_file(path / "best.json", 1 << 20))
        metric = value.get("metric")
        is_there = (value["checkpoint"], value["sequence"]) in {(m.name, m.sequence) for m in found}
        if is_there and isinstance(metric, (str, type(None))):
            return value["checkpoint"], metric
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Nothing depends on the file; the next save writes it anew.
        pass
    return next((manifest.name for manifest in found if manifest.is_best), None), None
