"""Checkpoints made by somebody who wishes harm."""

from __future__ import annotations

import json
import os
import pickle
import random
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash

MANIFEST, STATE, TENSORS = FILES = ("manifest.json", "state.json", "tensors.safetensors")
TERABYTE = 1 << 40

#: Makes a checkpoint hostile; it gets its directory, and one outside.
Attack = Callable[[Path, Path], None]


class Bomb:
    """Makes a directory wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self._marker,)


def marker_of(outside: Path) -> Path:
    """Return the directory that no test may find."""
    return outside / "marker"


def pickled(outside: Path) -> bytes:
    return pickle.dumps(Bomb(marker_of(outside)))


def archived(outside: Path) -> bytes:
    path = outside / "archive"
    torch.save({"model": Bomb(marker_of(outside))}, path)
    data = path.read_bytes()
    path.unlink()
    return data


def sign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda value: None) -> None:
    """Write a manifest that fits to the files, as anybody can.

    Args:
        folder: The checkpoint.
        change: Changes what is in the manifest.
    """
    path = folder / MANIFEST
    value = json.loads(path.read_bytes())
    del value["checksum"]
    for name in (STATE, TENSORS):
        entry = value["files"][name]
        entry["size"] = (folder / name).stat().st_size
        if entry["size"] < 1 << 30:
            data = (folder / name).read_bytes()
            length = 8 + int.from_bytes(data[:8], "little")
            entry["checksum"] = xxhash.xxh3_64_hexdigest(data[:length] if name == TENSORS else data)
    change(value)
    body = json.dumps(value, indent=1, separators=(",", ": "))[: -len("\n}")].encode()
    checksum = xxhash.xxh3_64_hexdigest(body)
    path.unlink()
    path.write_bytes(body + b',\n "checksum": "' + checksum.encode() + b'"\n}\n')


# Pickles


def pickle_as(name: str, make: Callable[[Path], bytes], *, is_signed: bool = False) -> Attack:
    def attack(folder: Path, outside: Path) -> None:
        (folder / name).write_bytes(make(outside))
        if is_signed:
            sign(folder)

    return attack


def pickle_as_checkpoint(folder: Path, outside: Path) -> None:
    remove(folder)
    folder.write_bytes(pickled(outside))


# Sizes


def with_header(change: Callable[[dict[str, Any]], object]) -> Attack:
    """Change the header of the tensors, and sign that."""

    def attack(folder: Path, outside: Path) -> None:
        path = folder / TENSORS
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
        sign(folder)

    return attack


def first_with(**values: Any) -> Attack:
    """Change the first tensor of the header."""
    return with_header(lambda header: next(iter(header.values())).update(values))


def with_length(length: int) -> Attack:
    """Let the header have a length."""

    def attack(folder: Path, outside: Path) -> None:
        path = folder / TENSORS
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        sign(folder)

    return attack


def sparse(name: str, *, is_signed: bool = False) -> Attack:
    """Make a file of a terabyte without data."""

    def attack(folder: Path, outside: Path) -> None:
        os.truncate(folder / name, TERABYTE)
        if is_signed:
            sign(folder)

    return attack


def with_size(size: Any) -> Attack:
    """Let the manifest claim a size of the tensors."""

    def attack(folder: Path, outside: Path) -> None:
        sign(folder, lambda value: value["files"][TENSORS].update(size=size))

    return attack


def huge_tensor(folder: Path, outside: Path) -> None:
    """Make a file of a terabyte to which manifest and header fit."""
    header = {"x": {"dtype": "U8", "shape": [TERABYTE], "data_offsets": [0, TERABYTE]}}
    text = json.dumps(header).encode()
    path = folder / TENSORS
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + TERABYTE)
    head = xxhash.xxh3_64_hexdigest(len(text).to_bytes(8, "little") + text)

    def change(value: dict[str, Any]) -> None:
        value["files"][TENSORS].update(checksum=head, tensors={"x": "0" * 16})

    sign(folder, change)


# JSON


def state_of(data: bytes) -> Attack:
    def attack(folder: Path, outside: Path) -> None:
        (folder / STATE).write_bytes(data)
        sign(folder)

    return attack


def header_of(data: bytes) -> Attack:
    def attack(folder: Path, outside: Path) -> None:
        (folder / TENSORS).write_bytes(len(data).to_bytes(8, "little") + data)
        sign(folder)

    return attack


def nested_manifest(folder: Path, outside: Path) -> None:
    """Nest the configuration of a manifest, which is signed."""
    sign(folder, lambda value: value.update(config="DEEP"))
    path = folder / MANIFEST
    body = path.read_bytes().replace(b'"DEEP"', b"[" * 10**6 + b"]" * 10**6)
    body = body[: body.rindex(b',\n "checksum')]
    end = b',\n "checksum": "' + xxhash.xxh3_64_hexdigest(body).encode() + b'"\n}\n'
    path.write_bytes(body + end)


# Nonsense

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**70, 1.5, 1e308, "", "x", "nan", [], {}, [1], [[]], {"a": 1}),
    *({"$tensor": "x"}, {"$tuple": []}, {"$tuple": 1}, {"$dict": [[1, 2]]}, {"$float": "nan"}),
    *({"$counter": [["a", 1]]}, {"$str": "61"}, {"$float": 1}, {"$dict": [[[], 1]]}),
)


def tell_nonsense(folder: Path, file: str, chance: random.Random) -> str:
    """Change one value of a manifest, a state or a header, sign that, and say what it was."""
    if file == MANIFEST:
        texts: list[str] = []
        sign(folder, lambda value: texts.append(_change(value, chance)))
        return texts[0]
    path = folder / file
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little") if file == TENSORS else len(data)
    value = json.loads(data[8:end] if file == TENSORS else data)
    text = _change(value, chance)
    new = json.dumps(value).encode()
    if file == TENSORS:
        new = len(new).to_bytes(8, "little") + new + data[end:]
    path.write_bytes(new)
    sign(folder)
    return text


def _change(root: Any, chance: random.Random) -> str:
    places: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    node, key = chance.choice(places)
    before = node[key]
    kind = chance.choice(("value", "value", "other", "missing", "more"))
    if kind == "value":
        node[key] = chance.choice(_VALUES)
    elif kind == "other":
        other, place = chance.choice(places)
        node[key] = json.loads(json.dumps(other[place]))
    elif kind == "missing":
        del node[key]
    elif isinstance(node, dict):
        node[f"{key}x"] = before
    else:
        node.append(before)
    return f"{kind} at {key!r}, which was {before!r}"


# Names


def with_manifest(change: Callable[[dict[str, Any]], object]) -> Attack:
    return lambda folder, outside: sign(folder, change)


def with_file(name: str) -> Attack:
    """Let a file of the manifest lie elsewhere."""

    def attack(folder: Path, outside: Path) -> None:
        (outside / "state.json").write_bytes((folder / STATE).read_bytes())
        target = name.replace("OUTSIDE", str(outside))

        def change(value: dict[str, Any]) -> None:
            value["files"][target] = value["files"].pop(STATE)

        sign(folder, change)
        (folder / STATE).unlink()

    return attack


def added_file(name: str) -> Attack:
    """Let the manifest have one file more."""

    def change(value: dict[str, Any]) -> None:
        value["files"][name] = value["files"][STATE]

    return with_manifest(change)


# Kinds of files


def link_to(name: str) -> Attack:
    """Move a file outside, and leave a link."""

    def attack(folder: Path, outside: Path) -> None:
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)

    return attack


def hard_pipe(name: str) -> Attack:
    def attack(folder: Path, outside: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return attack


def device(name: str) -> Attack:
    """Put the device of endless zeros in the place of a file."""

    def attack(folder: Path, outside: Path) -> None:
        (folder / name).unlink()
        os.mknod(folder / name, stat.S_IFCHR | 0o600, os.makedev(1, 5))

    return attack


def directory_as(name: str) -> Attack:
    def attack(folder: Path, outside: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return attack


def socket_as(name: str) -> Attack:
    def attack(folder: Path, outside: Path) -> None:
        (folder / name).unlink()
        # The path of a socket is short.
        before = os.getcwd()
        os.chdir(folder)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        finally:
            os.chdir(before)

    return attack


def link_to_checkpoint(folder: Path, outside: Path) -> None:
    folder.rename(outside / folder.name)
    folder.symlink_to(outside / folder.name)


def link_to_itself(folder: Path, outside: Path) -> None:
    remove(folder)
    folder.symlink_to(folder.name)


def pipe_as_checkpoint(folder: Path, outside: Path) -> None:
    remove(folder)
    os.mkfifo(folder)


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def with_name(name: Any) -> Attack:
    return with_manifest(lambda value: value.update(name=name))


PICKLES: dict[str, Attack] = {
    **{f"pickle as {name}": pickle_as(name, pickled) for name in (*FILES, "model.pt")},
    **{f"archive as {name}": pickle_as(name, archived) for name in (*FILES, "model.pt")},
    **{f"signed pickle as {x}": pickle_as(x, pickled, is_signed=True) for x in FILES[1:]},
    **{f"signed archive as {x}": pickle_as(x, archived, is_signed=True) for x in FILES[1:]},
    "pickle as the checkpoint": pickle_as_checkpoint,
}
HEADERS: dict[str, Attack] = {
    **{f"header of {n} bytes": with_length(n) for n in (0, 2**40, 2**60, 2**63, 2**64 - 1)},
    "shape of 2**60": first_with(shape=[2**60]),
    "shape of 2**60 and offsets": first_with(shape=[2**60], data_offsets=[0, 2**62]),
    "shape of zero and more": first_with(shape=[0, 2**62, 2**62], data_offsets=[0, 0]),
    "shape of a negative length": first_with(shape=[-1]),
    "shape of floats": first_with(shape=[1e300]),
    "shape of 10**5 ones": first_with(shape=[1] * 10**5),
    "shape of 10**4 long ints": first_with(shape=[10**599] * 10**4),
    "offsets of 2**70": first_with(data_offsets=[2**70, 2**71]),
    "offsets backwards": first_with(data_offsets=[64, 0]),
    "offsets before the file": first_with(data_offsets=[-8, 0]),
    "unknown dtype": first_with(dtype="__import__('os')"),
    "another key": first_with(code="import os"),
    "a tensor more": with_header(lambda header: header.update(x=next(iter(header.values())))),
    "metadata": with_header(lambda header: header.update(__metadata__={"format": "pickle"})),
}
SIZES: dict[str, Attack] = {
    **{f"size of {n}": with_size(n) for n in (2**60, 2**70, -1, 1.5, "1", None, True)},
    **{f"terabyte as {name}": sparse(name) for name in FILES},
    **{f"signed terabyte as {name}": sparse(name, is_signed=True) for name in FILES[1:]},
    "terabyte of one tensor": huge_tensor,
}
TEXTS: dict[str, Attack] = {
    "nested state": state_of(b"[" * 5_000_000),
    "nested state that ends": state_of(b"[" * 10**6 + b"]" * 10**6),
    "nested dicts": state_of(b'{"a":' * 10**6 + b"1" + b"}" * 10**6),
    "state of one long int": state_of(b"[" + b"1" * 5_000_000 + b"]"),
    "state of one long float": state_of(b"[1e" + b"9" * 5_000_000 + b"]"),
    "state of a long text": state_of(b'"' + b"\\u0041" * 10**6),
    "state that is not a number": state_of(b"[NaN]"),
    "state with a key twice": state_of(b'{"model":{},"model":{}}'),
    "state with a tag of code": state_of(b'{"$import":"os"}'),
    "state with another tensor": state_of(b'{"model":{"$tensor":"../../x"}}'),
    "nested header": header_of(b"[" * 5_000_000),
    "nested manifest": nested_manifest,
}
NAMES: dict[str, Attack] = {
    **{
        f"file at {name!r}": with_file(name)
        for name in ("../x", "../../x", "OUTSIDE/state.json", "/etc/passwd", "a/b", "..", ".", "")
    },
    **{
        f"file {name!r:.20} more": added_file(name)
        for name in ("../x", "/etc/passwd", "x", "a\0b", ".hidden", "x" * 10**6)
    },
    **{
        f"name {name!r:.20}": with_name(name)
        for name in ("../x", "/etc/passwd", "..", "", "a\0b", "x" * 10**6, None, 5, [1])
    },
    "no files": with_manifest(lambda value: value.update(files={})),
    "files of a list": with_manifest(lambda value: value.update(files=[["state.json", {}]])),
    "format of a text": with_manifest(lambda value: value.update(format_version="1")),
    "another format": with_manifest(lambda value: value.update(format_version=2)),
    "steps below zero": with_manifest(lambda value: value.update(sequence=2**80, step=-1)),
}
KINDS: dict[str, Attack] = {
    **{f"link as {name}": link_to(name) for name in FILES},
    **{f"pipe as {name}": hard_pipe(name) for name in FILES},
    **{f"device as {name}": device(name) for name in FILES},
    **{f"directory as {name}": directory_as(name) for name in FILES},
    "socket as state.json": socket_as(STATE),
    "link as the checkpoint": link_to_checkpoint,
    "link to itself as the checkpoint": link_to_itself,
    "pipe as the checkpoint": pipe_as_checkpoint,
}
#: By what they do.
ATTACKS = {
    "pickles": PICKLES,
    "headers": HEADERS,
    "sizes": SIZES,
    "texts": TEXTS,
    "names": NAMES,
    "kinds": KINDS,
}
#: What is no directory is nothing of a manager's.
UNSEEN = ("pickle as the checkpoint", "pipe as the checkpoint")
#: What may be good for another version, or a larger machine, and is not passed over.
FOREIGN = ("another format", "signed terabyte as tensors.safetensors", "terabyte of one tensor")
