"""Which checkpoints of a directory stay until somebody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from hotloop.checkpoint import storage
from hotloop.checkpoint.manifest import Manifest
from hotloop.checkpoint.tree import encode_json, parse_json
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["PINNED", "Pins"]

#: The file, which is a JSON object that ends with its checksum.
PINNED = "pinned.json"
_MAX_BYTES = 1 << 24


@dataclass
class Pins:
    """The list of pinned checkpoints.

    Attributes:
        pinned: Names; what replaces such a checkpoint is pinned too.
        unpinned: Names of those that were saved pinned and no longer are, with the time at
            which they were saved: another one of that name is not meant.
    """

    pinned: set[str] = field(default_factory=set)
    unpinned: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Pins:
        """Return the list of a directory, which is empty where there is no file.

        Raises:
            CorruptCheckpointError: If the file is damaged.
        """
        path = directory / PINNED
        if not os.path.lexists(path):
            return cls()
        try:
            value = parse_json(storage.read_file(path, _MAX_BYTES), "it")
            if type(value) is not dict or "checksum" not in value:
                raise CorruptCheckpointError("it has no checksum")
            if value.pop("checksum") != _checksum(value):
                raise CorruptCheckpointError("its checksum is wrong")
            return cls(set(value["pinned"]), dict(value["unpinned"]))
        except (OSError, ValueError, TypeError, KeyError, CheckpointError) as error:
            is_told = isinstance(error, (CheckpointError, OSError))
            reason = str(error) if is_told else "it is no list of pinned checkpoints"
            raise CorruptCheckpointError(
                f"{path} is damaged: {reason:.500}; remove it, and pin again what is to stay"
            ) from error

    def to_plain(self) -> dict[str, Any]:
        """Return what the file holds."""
        value = {"pinned": sorted(self.pinned), "unpinned": self.unpinned}
        return {**value, "checksum": _checksum(value)}

    def names(self, manifests: Iterable[Manifest]) -> set[str]:
        """Return the names of those that stay, with those of checkpoints that say so themselves."""
        own = {m.name for m in manifests if m.is_pinned and self.unpinned.get(m.name) != m.created}
        return self.pinned | own


def _checksum(value: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(encode_json(value))
