"""What a checkpoint says of itself and of its files."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import xxhash

from hotloop.argument import check_count
from hotloop.checkpoint.tree import encode_json, flatten, parse_json, rebuild
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["FORMAT_VERSION", "FileEntry", "Info", "Manifest", "check_name"]

#: The format that is written and read.
FORMAT_VERSION = 1
_END = b',\n "checksum": "'
_NONFINITE = ("nan", "inf", "-inf")


def check_name(name: Any) -> None:
    """Raise ValueError if a name cannot be that of a checkpoint's directory.

    Args:
        name: The name: 1 to 200 characters, no "." in front and no "/" or control character.
    """
    is_plain = isinstance(name, str) and name.isprintable() and 1 <= len(name.encode()) <= 200
    if not is_plain or name.startswith(".") or "/" in name:
        raise ValueError(
            "name must be a file name of 1 to 200 printable characters that does not begin with "
            f"'.' and has no '/', got {name!r}"
        )


@dataclass(frozen=True)
class FileEntry:
    """What a manifest has of a file.

    Attributes:
        size: Its bytes.
        checksum: The xxh3_64 of its bytes in 16 hex digits; of a file of tensors, that of the
            bytes before the first one.
        tensors: The xxh3_64 of each tensor's bytes by its name; empty for other files.
    """

    size: int
    checksum: str
    tensors: Mapping[str, str] = field(default_factory=dict)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


def _versions() -> dict[str, str]:
    from hotloop import __version__

    return {"hotloop": __version__, "python": platform.python_version(), "torch": torch.__version__}


@dataclass(frozen=True, kw_only=True)
class Info:
    """What the saver of a checkpoint knows of it.

    Attributes:
        name: Name of the checkpoint, as `check_name` allows it.
        step: Updates that were applied, at least 0.
        epoch: Epochs that were completed, at least 0.
        sequence: Its place among the checkpoints of a directory, at least 0; the newest has
            the highest.
        created: Time of the save in UTC, in ISO format.
        metrics: Values by name; not a number and infinity are allowed.
        is_best: Whether it was the best one when it was saved.
        is_pinned: Whether it was saved to be kept.
        versions: Versions of libraries by name.
        config: The configuration of the run, as `flatten` takes it, without tensors.

    Raises:
        ValueError: If a value is none of these.
        CheckpointError: If `config` has a value that cannot be saved.
    """

    name: str
    step: int
    epoch: int = 0
    sequence: int = 0
    created: str = field(default_factory=_now)
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_best: bool = False
    is_pinned: bool = False
    versions: Mapping[str, str] = field(default_factory=_versions)
    config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        for name in ("step", "epoch", "sequence"):
            check_count(name, getattr(self, name), 0)
        for name, kind in (("created", str), ("is_best", bool), ("is_pinned", bool)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        if not isinstance(self.config, (dict, type(None))):
            raise ValueError(f"config must be a dict, or None; got {self.config!r}")
        for key, value in self.metrics.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not isinstance(key, str) or not is_number:
                raise ValueError(f"metrics must map str to int or float, got {key!r}: {value!r}")
        for key, version in self.versions.items():
            if not isinstance(key, str) or not isinstance(version, str):
                raise ValueError(f"versions must map str to str, got {key!r}: {version!r}")
        if flatten({"config": self.config})[1]:
            raise ValueError("config must not have tensors")


@dataclass(frozen=True, kw_only=True)
class Manifest(Info):
    """What is in a checkpoint.

    Attributes:
        files: The entries of the files beside the manifest, by name.
    """

    files: Mapping[str, FileEntry]

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON text that ends with its own checksum.

        Equal manifests have equal texts.
        """
        value = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "step": self.step,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "created": self.created,
            "metrics": {name: _to_plain(value) for name, value in self.metrics.items()},
            "is_best": self.is_best,
            "is_pinned": self.is_pinned,
            "versions": dict(self.versions),
            "config": flatten({"config": self.config})[0]["config"],
            "files": {
                name: {
                    "size": entry.size,
                    "checksum": entry.checksum,
                    "tensors": dict(entry.tensors),
                }
                for name, entry in self.files.items()
            },
        }
        body = encode_json(value, indent=1)[: -len("\n}")]
        return body + _ending(body)

    @classmethod
    def parse(cls, data: bytes, where: str) -> Manifest:
        """Read what `to_bytes` returned.

        Args:
            data: The text.
            where: The file, for the error.

        Raises:
            CorruptCheckpointError: If `to_bytes` does not return this text.
            CheckpointError: If it is of another format.
        """
        body = data[: data.rfind(_END)]
        if data != body + _ending(body):
            raise CorruptCheckpointError(f"{where} is damaged: its checksum is wrong")
        value = parse_json(data, where)
        version = value.get("format_version") if type(value) is dict else None
        if type(version) is int and version != FORMAT_VERSION:
            raise CheckpointError(
                f"{where} has format {version}; this version of hotloop reads {FORMAT_VERSION}"
            )
        try:
            manifest = cls._from_plain(value, where)
            is_same = manifest.to_bytes() == data
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CorruptCheckpointError(f"{where} is no manifest: {error!r:.500}") from error
        if not is_same:
            raise CorruptCheckpointError(f"{where} is no manifest: it is written otherwise")
        return manifest

    @classmethod
    def _from_plain(cls, value: dict[str, Any], where: str) -> Manifest:
        values = {item.name: value[item.name] for item in fields(Info)}
        values["metrics"] = {name: _from_metric(item) for name, item in value["metrics"].items()}
        values["config"] = rebuild({"config": value["config"]}, {}, where)["config"]
        files = {}
        for name, item in value["files"].items():
            entry = FileEntry(item["size"], item["checksum"], item["tensors"])
            check_count("size", entry.size, 0)
            for text in (entry.checksum, *entry.tensors.values()):
                if type(text) is not str:
                    raise TypeError(f"a checksum of {name!r:.80} is no str")
            files[name] = entry
        return cls(**values, files=files)


def _ending(body: bytes) -> bytes:
    return _END + xxhash.xxh3_64_hexdigest(body).encode() + b'"\n}\n'


def _to_plain(value: float) -> float | str:
    return float(value) if math.isfinite(value) else repr(float(value))


def _from_metric(value: Any) -> float:
    if type(value) is float or (type(value) is str and value in _NONFINITE):
        return float(value)
    raise TypeError("a metric is no float")
