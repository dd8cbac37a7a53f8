"""Tensors in a file of the safetensors format, with checksums."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import xxhash
from torch import Tensor

from hotloop.checkpoint import storage
from hotloop.checkpoint.manifest import FileEntry
from hotloop.checkpoint.tree import DTYPES, encode_json, is_shape, parse_json
from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = ["read_exactly", "read_tensors", "verify_tensors", "write_tensors"]

#: The most bytes of a header, as in the safetensors library.
MAX_HEADER = 100_000_000
# Larger writes make Linux look for large pages, which takes long when memory is fragmented.
_WRITE_BLOCK = 1 << 20
# What stays in a core's cache until it is hashed.
_READ_BLOCK = 1 << 18
# Bytes after which the device begins to write, while the rest is copied.
_SYNC = 1 << 23
# Not every system tells which processors a process may use.
_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_THREADS = min(4, _CPUS)
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
    written = begun = len(head)
    checksums = {}
    for name, tensor in tensors.items():
        data = _bytes(tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous())
        checksum = xxhash.xxh3_64()
        for start in range(0, len(data), _WRITE_BLOCK):
            block = data[start : start + _WRITE_BLOCK]
            checksum.update(block)
            storage.write(fd, block)
            written += len(block)
            if written - begun >= _SYNC:
                storage.begin_sync(fd, begun, written - begun)
                begun = written
        checksums[name] = checksum.hexdigest()
    return FileEntry(written, xxhash.xxh3_64_hexdigest(head), checksums)


def read_tensors(fd: int, entry: FileEntry, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file, each of which has the checksum it should have.

    Args:
        fd: Descriptor of the file.
        entry: What `write_tensors` returned.
        where: The file, for the error.

    Returns:
        Contiguous tensors by name, on the CPU, in the order of the file.

    Raises:
        CorruptCheckpointError: If the file is not as it was written.
        CheckpointError: If there is not enough memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if entry.size > memory:
        raise CheckpointError(f"{where} has {entry.size} bytes, and the memory {memory}")
    specs = _read_header(fd, entry, where)
    try:
        tensors = {spec.name: torch.empty(spec.shape, dtype=DTYPES[spec.dtype]) for spec in specs}
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{where} has {entry.size} bytes, but: {error}") from error
    _read(fd, specs, entry, where, {name: _bytes(tensor) for name, tensor in tensors.items()})
    return tensors


def verify_tensors(fd: int, entry: FileEntry, where: str) -> None:
    """Check a file as `read_tensors` does, in a bounded amount of memory.

    Args:
        fd: Descriptor of the file.
        entry: What `write_tensors` returned.
        where: The file, for the error.

    Raises:
        CorruptCheckpointError: If the file is not as it was written.
    """
    _read(fd, _read_header(fd, entry, where), entry, where, {})


def _read(
    fd: int,
    specs: list[_Spec],
    entry: FileEntry,
    where: str,
    targets: Mapping[str, memoryview],
) -> None:
    """Read tensors into their targets, or nowhere, and compare their checksums."""
    pending = iter(enumerate(specs))
    damaged: dict[int, CorruptCheckpointError] = {}

    def work(_: int) -> None:
        nowhere = memoryview(bytearray(_READ_BLOCK))
        for index, spec in pending:
            try:
                read_one(spec, nowhere)
            except CorruptCheckpointError as error:
                damaged[index] = error
                return

    def read_one(spec: _Spec, nowhere: memoryview) -> None:
        target = targets.get(spec.name)
        checksum = xxhash.xxh3_64()
        for start in range(0, spec.size, _READ_BLOCK):
            size = min(_READ_BLOCK, spec.size - start)
            block = nowhere[:size] if target is None else target[start : start + size]
            read_exactly(fd, block, spec.offset + start, where)
            checksum.update(block)
        found, expected = checksum.hexdigest(), entry.tensors[spec.name]
        if found != expected:
            reason = f"tensor {spec.name!r:.500} has checksum {found}, not {expected}"
            raise _corrupt(where, reason)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(_THREADS)))
    if damaged:
        # The first one in the file, whichever thread was the first to be done.
        raise damaged[min(damaged)]


def read_exactly(fd: int, view: memoryview, offset: int, where: str) -> None:
    """Fill a buffer from a file.

    Args:
        fd: Descriptor of the file.
        view: The buffer.
        offset: Where in the file its first byte is.
        where: The file, for the error.

    Raises:
        CorruptCheckpointError: If the file ends before.
    """
    while view:
        count = os.preadv(fd, [view], offset)
        if not count:
            raise _corrupt(where, f"it ends after {offset} bytes")
        view = view[count:]
        offset += count


@dataclass(frozen=True)
class _Spec:
    """A tensor of a header.

    Attributes:
        name: Its name.
        dtype: The name of its dtype in `DTYPES`.
        shape: Its shape.
        offset: Its place in the file.
        size: Its bytes.
    """

    name: str
    dtype: str
    shape: list[int]
    offset: int
    size: int


def _read_header(fd: int, entry: FileEntry, where: str) -> list[_Spec]:
    """Return the tensors of a file in their order."""
    prefix = bytearray(8)
    read_exactly(fd, memoryview(prefix), 0, where)
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER, entry.size - 8):
        raise _corrupt(where, f"its header has a length of {length} bytes")
    text = bytearray(length)
    read_exactly(fd, memoryview(text), 8, where)
    checksum = xxhash.xxh3_64_hexdigest(prefix + text)
    if checksum != entry.checksum:
        raise _corrupt(where, f"its header has checksum {checksum}, not {entry.checksum}")
    header = parse_json(text, where)
    if type(header) is not dict or header.keys() != entry.tensors.keys():
        raise _corrupt(where, "the tensors of its header are not those of the manifest")
    specs = []
    start = offset = 8 + length
    for name, value in header.items():
        size = _size_of(value)
        if size is None or value["data_offsets"] != [offset - start, offset - start + size]:
            raise _corrupt(where, f"its header is wrong at tensor {name!r:.500}")
        specs.append(_Spec(name, value["dtype"], value["shape"], offset, size))
        offset += size
    if offset != entry.size:
        raise _corrupt(where, f"its tensors end at byte {offset} of {entry.size}")
    return specs


def _size_of(value: Any) -> int | None:
    """Return the bytes that a tensor of a header should have, or None if it is none."""
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape = value["dtype"], value["shape"]
    if type(dtype) is not str or dtype not in DTYPES or type(shape) is not list:
        return None
    if not all(type(length) is int for length in shape) or not is_shape(shape):
        return None
    return prod(shape) * DTYPES[dtype].itemsize


def _corrupt(where: str, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{where} is damaged: {reason}")


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    if not tensor.numel():
        return memoryview(b"")
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
