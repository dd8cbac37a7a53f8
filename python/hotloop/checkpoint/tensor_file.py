"""Tensors in a file of the safetensors format, with checksums."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
import xxhash
from torch import Tensor

from hotloop.checkpoint import storage
from hotloop.checkpoint.manifest import FileEntry
from hotloop.checkpoint.tree import DTYPES, encode_json, parse_json
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["read_exactly", "read_tensors", "verify_tensors", "write_tensors"]

#: The most bytes of a header, as in the safetensors library.
MAX_HEADER = 100_000_000
_BLOCK = 1 << 22
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(fd: int, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Write tensors into an empty file, in their order.

    The file is one of the safetensors format: the length of the header in 8 bytes, the header,
    which is JSON with spaces up to a multiple of 8 bytes, and the tensors without gaps.

    Args:
        fd: Descriptor of the file.
        tensors: Strided tensors with a dtype in `DTYPES`, on any device and of any strides.

    Returns:
        The entry of the file. Its checksum is that of the header and its length, and
        each tensor has its own.

    Raises:
        CheckpointError: If the header has more than 100 MB.
    """
    header = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = encode_json(header)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"{len(tensors)} tensors need a header of {len(text)} bytes; at most {MAX_HEADER} "
            "are allowed: use fewer tensors or shorter names"
        )
    head = struct.pack("<Q", len(text)) + text
    storage.write(fd, head)
    checksums = {}
    for name, tensor in tensors.items():
        host = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        data = _bytes(host)
        checksum = xxhash.xxh3_64()
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            checksum.update(block)
            storage.write(fd, block)
        checksums[name] = checksum.hexdigest()
    return FileEntry(len(head) + offset, xxhash.xxh3_64_hexdigest(head), checksums)


def read_tensors(fd: int, entry: FileEntry, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file, each of which has the checksum it should have.

    Args:
        fd: Descriptor of the file, at its start.
        entry: What `write_tensors` returned.
        where: The file, for the error.

    Returns:
        Contiguous tensors by name, on the CPU, in the order of the file.

    Raises:
        CorruptCheckpointError: If the file is not as it was written.
        CheckpointError: If there is not enough memory.
    """
    specs = _read_header(fd, entry, where)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if entry.size > memory:
        raise CheckpointError(f"{where} has {entry.size} bytes, but the memory only {memory}")
    result = {}
    for spec in specs:
        try:
            tensor = torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
        except (RuntimeError, MemoryError) as error:
            raise CheckpointError(f"{where}: no memory for tensor {spec.name!r}") from error
        data = _bytes(tensor)
        checksum = xxhash.xxh3_64()
        for start in range(0, spec.size, _BLOCK):
            block = data[start : start + _BLOCK]
            read_exactly(fd, block, f"{where}, tensor {spec.name!r}")
            checksum.update(block)
        _check(spec.name, checksum, entry, where)
        result[spec.name] = tensor
    return result


def verify_tensors(fd: int, entry: FileEntry, where: str) -> None:
    """Check a file as `read_tensors` does, in a bounded amount of memory.

    Args:
        fd: Descriptor of the file, at its start.
        entry: What `write_tensors` returned.
        where: The file, for the error.

    Raises:
        CorruptCheckpointError: If the file is not as it was written.
    """
    buffer = memoryview(bytearray(_BLOCK))
    for spec in _read_header(fd, entry, where):
        checksum = xxhash.xxh3_64()
        for start in range(0, spec.size, _BLOCK):
            block = buffer[: spec.size - start]
            read_exactly(fd, block, f"{where}, tensor {spec.name!r}")
            checksum.update(block)
        _check(spec.name, checksum, entry, where)


def read_exactly(fd: int, view: memoryview, where: str) -> None:
    """Fill a buffer with the next bytes of a file.

    Args:
        fd: Descriptor of the file.
        view: The buffer.
        where: The file, for the error.

    Raises:
        CorruptCheckpointError: If the file ends before.
    """
    while view:
        count = os.readv(fd, [view])
        if not count:
            raise CorruptCheckpointError(f"{where} is damaged: the file ends too early")
        view = view[count:]


@dataclass(frozen=True)
class _Spec:
    """A tensor of a header.

    Attributes:
        name: Its name.
        dtype: The name of its dtype in `DTYPES`.
        shape: Its shape.
        size: Its bytes.
    """

    name: str
    dtype: str
    shape: list[int]
    size: int


def _read_header(fd: int, entry: FileEntry, where: str) -> list[_Spec]:
    """Return the tensors in their order, after which the descriptor is at the first one."""
    prefix = bytearray(8)
    read_exactly(fd, memoryview(prefix), where)
    (length,) = struct.unpack("<Q", prefix)
    if length > min(MAX_HEADER, entry.size - 8):
        raise _corrupt(where, f"its header has a length of {length} bytes")
    text = bytearray(length)
    read_exactly(fd, memoryview(text), where)
    checksum = xxhash.xxh3_64_hexdigest(prefix + text)
    if checksum != entry.checksum:
        raise _corrupt(where, f"its header has checksum {checksum}, not {entry.checksum}")
    header = parse_json(text, where)
    if type(header) is not dict or header.keys() != entry.tensors.keys():
        raise _corrupt(where, "the tensors of its header are not those of the manifest")
    specs = []
    offset = 0
    for name, value in header.items():
        spec = _parse_spec(name, value, offset)
        if spec is None:
            raise _corrupt(where, f"its header is wrong at tensor {name!r:.500}")
        specs.append(spec)
        offset += spec.size
    if 8 + length + offset != entry.size:
        raise _corrupt(where, f"its tensors have {offset} bytes of {entry.size - 8 - length}")
    return specs


def _parse_spec(name: str, value: object, offset: int) -> _Spec | None:
    """Return a tensor of a header, or None if it is invalid or does not begin at `offset`."""
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape = value["dtype"], value["shape"]
    if type(dtype) is not str or dtype not in DTYPES or type(shape) is not list:
        return None
    if not all(type(length) is int and length >= 0 for length in shape):
        return None
    # No stride may overflow, even where a length of 0 leaves no bytes.
    if prod(max(length, 1) for length in shape) >= 1 << 60:
        return None
    size = prod(shape) * DTYPES[dtype].itemsize
    if value["data_offsets"] != [offset, offset + size]:
        return None
    return _Spec(name, dtype, shape, size)


_Hash: TypeAlias = "xxhash.xxh3_64"


def _check(name: str, checksum: _Hash, entry: FileEntry, where: str) -> None:
    found, expected = checksum.hexdigest(), entry.tensors[name]
    if found != expected:
        raise _corrupt(where, f"tensor {name!r:.500} has checksum {found}, not {expected}")


def _corrupt(where: str, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{where} is damaged: {reason}")


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    if not tensor.numel():
        return memoryview(b"")
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
