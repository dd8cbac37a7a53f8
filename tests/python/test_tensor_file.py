"""A file of tensors is one of safetensors, and no other bytes are taken for it."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from hotloop.checkpoint import FileEntry, storage, tensor_file
from hotloop.checkpoint.tensor_file import read_tensors, verify_tensors, write_tensors
from hotloop.checkpoint.tree import DTYPES
from hotloop.errors import CheckpointError, CorruptCheckpointError

SMALL = {"a": torch.tensor([1.0, -0.0]), "b.c": torch.tensor(True), "é": torch.arange(3)}


def write(path: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    path.unlink(missing_ok=True)
    fd = storage.create(path)
    try:
        return write_tensors(fd, tensors)
    finally:
        storage.close(fd)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def read(path: Path, entry: FileEntry) -> dict[str, Tensor]:
    with opened(path) as fd:
        return read_tensors(fd, entry, "x.st")


def verify(path: Path, entry: FileEntry) -> None:
    with opened(path) as fd:
        verify_tensors(fd, entry, "x.st")


def refused(path: Path, entry: FileEntry) -> str:
    """Return the text with which both functions refuse a file."""
    messages = []
    for function in (read, verify):
        with pytest.raises(CorruptCheckpointError) as caught:
            function(path, entry)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("x.st is ")
    return messages[0]


def bits(tensor: Tensor) -> list[int]:
    return tensor.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert bits(found[name]) == bits(tensor)


# What is written


def test_the_bytes_of_a_file(tmp_path: Path) -> None:
    entry = write(tmp_path / "x", SMALL)
    data = (tmp_path / "x").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"b.c":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]},'
        b'"\\u00e9":{"dtype":"I64","shape":[3],"data_offsets":[9,33]}}'
    )
    assert data[8 : 8 + length] == header.ljust(length)
    assert length % 8 == 0
    assert length - len(header) < 8
    parts = [struct.pack("<2f", 1, -0.0), b"\1", struct.pack("<3q", 0, 1, 2)]
    assert data[8 + length :] == b"".join(parts)
    assert entry.size == len(data)
    assert entry.checksum == xxhash.xxh3_64_hexdigest(data[: 8 + length])
    assert list(entry.tensors.items()) == [
        (name, xxhash.xxh3_64_hexdigest(part)) for name, part in zip(SMALL, parts)
    ]
    assert_same(load_file(tmp_path / "x"), SMALL)


@pytest.mark.parametrize("extra", range(8))
def test_the_header_is_padded_to_eight_bytes(tmp_path: Path, extra: int) -> None:
    tensors = {"a" * (1 + extra): torch.ones(2)}
    entry = write(tmp_path / "x", tensors)
    data = (tmp_path / "x").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert entry.size == len(data) == 8 + length + 8
    text = data[8 : 8 + length]
    assert text == text.rstrip().ljust(length)
    assert length - len(text.rstrip()) < 8
    assert_same(read(tmp_path / "x", entry), tensors)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back(tmp_path: Path, name: str) -> None:
    dtype = DTYPES[name]
    if dtype == torch.bool:
        full = torch.randint(0, 2, (4, 6)).bool()
    else:
        full = torch.randint(0, 256, (4, 6, dtype.itemsize), dtype=torch.uint8).view(dtype)[..., 0]
    tensors = {
        "full": full,
        "transposed": full.t(),
        "strided": full[1::2, ::3],
        "expanded": full[:1].expand(3, 6),
        "scalar": full[0, 0],
        "offset": full.reshape(-1)[5:8],
        "empty": full[:0],
        "conjugate": full.conj(),
        "negative": full[0, 0].conj().imag if dtype.is_complex else full,
        "parameter": nn.Parameter(full, requires_grad=dtype.is_floating_point),
    }
    entry = write(tmp_path / "x", tensors)
    found = read(tmp_path / "x", entry)
    assert_same(found, {key: tensor.resolve_neg() for key, tensor in tensors.items()})
    assert list(found) == list(tensors) == list(entry.tensors)
    assert_same(load_file(tmp_path / "x"), found)
    verify(tmp_path / "x", entry)
    for tensor in found.values():
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.device.type == "cpu"
    found["full"].resize_(1)
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()} - {0}) == 9


shapes = st.lists(st.integers(0, 4), max_size=4)
names = st.text(st.characters(codec="utf-8"), max_size=5)
kinds = st.tuples(st.sampled_from(list(DTYPES.values())), shapes)


@given(st.dictionaries(names, kinds, max_size=6))
def test_any_tensors_come_back(
    tmp_path_factory: pytest.TempPathFactory, specs: dict[str, tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in specs.items()}
    entry = write(path, tensors)
    assert_same(read(path, entry), tensors)
    assert_same(load_file(path), tensors)
    verify(path, entry)


@pytest.mark.parametrize("block", [1, 7, 8, 24, 33, 64])
def test_tensors_of_several_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    tensors = {str(size): torch.arange(size, dtype=torch.uint8) for size in (0, 1, 24, 33, 100)}
    whole = write(tmp_path / "whole", tensors)
    monkeypatch.setattr(tensor_file, "_WRITE_BLOCK", block)
    monkeypatch.setattr(tensor_file, "_READ_BLOCK", block)
    entry = write(tmp_path / "x", tensors)
    assert entry == whole
    assert (tmp_path / "x").read_bytes() == (tmp_path / "whole").read_bytes()
    assert_same(read(tmp_path / "x", entry), tensors)
    verify(tmp_path / "x", entry)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-1] + b"\0")
    assert "tensor '100' has checksum" in refused(tmp_path / "x", entry)


def test_short_writes_and_reads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = write(tmp_path / "whole", SMALL)
    os_write, os_preadv = os.write, os.preadv
    monkeypatch.setattr(os, "write", lambda fd, data: os_write(fd, data[:3]))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: os_preadv(fd, [views[0][:3]], at))
    assert write(tmp_path / "x", SMALL) == entry
    assert (tmp_path / "x").read_bytes() == (tmp_path / "whole").read_bytes()
    assert_same(read(tmp_path / "x", entry), SMALL)


def test_the_device_writes_while_the_rest_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int, int]] = []

    def begin_sync(fd: int, start: int, size: int) -> None:
        begun.append((start, size, os.fstat(fd).st_size))

    monkeypatch.setattr(storage, "begin_sync", begin_sync)
    monkeypatch.setattr(tensor_file, "_WRITE_BLOCK", 10)
    monkeypatch.setattr(tensor_file, "_SYNC", 25)
    entry = write(tmp_path / "x", {"a": torch.zeros(35, dtype=torch.uint8), "b": torch.zeros(5)})
    head = entry.size - 55
    assert begun == [(head, 30, head + 30), (head + 30, 25, head + 55)]


def test_a_sync_that_begins_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    fd = storage.create(path)
    storage.write(fd, b"abc")
    storage.begin_sync(fd, 0, 3)
    storage.begin_sync(fd, 1 << 40, 1 << 40)
    storage.close(fd)
    storage.begin_sync(fd, 0, 3)
    assert path.read_bytes() == b"abc"


def test_a_header_that_nothing_reads_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "MAX_HEADER", 159)
    with pytest.raises(
        CheckpointError, match=r"^3 tensors need a header of 1\d\d bytes.* most 159"
    ):
        write(tmp_path / "x", SMALL)
    assert (tmp_path / "x").read_bytes() == b""
    monkeypatch.undo()
    length = write(tmp_path / "x", SMALL).size - 33 - 8
    monkeypatch.setattr(tensor_file, "MAX_HEADER", length)
    assert_same(read(tmp_path / "x", write(tmp_path / "x", SMALL)), SMALL)
    monkeypatch.setattr(tensor_file, "MAX_HEADER", length - 1)
    with pytest.raises(CheckpointError, match=f"need a header of {length} bytes"):
        write(tmp_path / "x", SMALL)


# What is refused


def test_a_bit_that_flips_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x"
    entry = write(path, SMALL)
    data = path.read_bytes()
    start = len(data) - 33
    places = [("a", 0, 8), ("b.c", 8, 9), ("é", 9, 33)]
    for at in range(len(data)):
        for bit in range(8) if at < 8 else (at % 8,):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            message = refused(path, entry)
            if at < start:
                assert "x.st is damaged: its header has " in message
            for name, begin, end in places:
                is_here = begin <= at - start < end
                assert (f"tensor {name!r} has checksum" in message) == is_here
    path.write_bytes(data)
    assert_same(read(path, entry), SMALL)


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    entry = write(path, SMALL)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert refused(path, entry) == f"x.st is damaged: it ends after {size} bytes"


def test_the_first_damaged_tensor_is_named(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((100,), i) for i in range(50)}
    path = tmp_path / "x"
    entry = write(path, tensors)
    data = bytearray(path.read_bytes())
    data[-800 * 20] ^= 1
    path.write_bytes(data)
    expected = entry.tensors["t30"]
    found = xxhash.xxh3_64_hexdigest(data[-800 * 20 : -800 * 19])
    assert refused(path, entry) == (
        f"x.st is damaged: tensor 't30' has checksum {found}, not {expected}"
    )


def test_the_first_damaged_tensor_is_named_by_any_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    entry = write(path, {name: torch.zeros(1) for name in "abc"})
    data = path.read_bytes()
    # One thread waits at the first tensor until the other one is at the second, and goes on.
    path.write_bytes(data[:-8] + bytes([1]) * 8)
    is_at_second = threading.Event()

    def read_exactly(fd: int, view: memoryview, offset: int, where: str) -> None:
        if offset == len(data) - 12:
            assert is_at_second.wait(10)
        elif offset == len(data) - 8:
            is_at_second.set()
        tensor_file_read_exactly(fd, view, offset, where)

    tensor_file_read_exactly = tensor_file.read_exactly
    monkeypatch.setattr(tensor_file, "read_exactly", read_exactly)
    monkeypatch.setattr(tensor_file, "_THREADS", 2)
    for _ in range(20):
        is_at_second.clear()
        assert refused(path, entry).startswith("x.st is damaged: tensor 'b' has checksum ")


def test_the_entry_of_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    entry = write(path, SMALL)
    checksums = dict(entry.tensors)
    swapped = {**checksums, "a": checksums["é"]}
    assert "tensor 'a' has checksum" in refused(path, replace(entry, tensors=swapped))
    for other in ({**checksums, "d": ""}, {"a": checksums["a"]}, {}):
        assert "are not those of the manifest" in refused(path, replace(entry, tensors=other))
    assert "its header has checksum" in refused(path, replace(entry, checksum="0" * 16))
    longer = replace(entry, size=entry.size + 1)
    assert f"end at byte {entry.size} of {entry.size + 1}" in refused(path, longer)


def forge(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> FileEntry:
    """Write a file with any header, and return an entry that has its checksums."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = struct.pack("<Q", len(text) if length is None else length) + text
    path.write_bytes(head + data)
    tensors = {}
    if isinstance(header, dict):
        for name in header:
            tensors[name] = xxhash.xxh3_64_hexdigest(data)
    return FileEntry(len(head) + len(data), xxhash.xxh3_64_hexdigest(head), tensors)


def spec(shape: Any, begin: Any, end: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_forged_file_that_is_right_is_read(tmp_path: Path) -> None:
    entry = forge(tmp_path / "x", {"a": spec([2, 2], 0, 4)}, b"\1\2\3\4")
    assert read(tmp_path / "x", entry)["a"].tolist() == [[1, 2], [3, 4]]
    assert read(tmp_path / "x", forge(tmp_path / "x", {})) == {}


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 2**32, 9, 3])
def test_a_header_of_the_wrong_length_is_refused(tmp_path: Path, length: int) -> None:
    entry = forge(tmp_path / "x", b"{      }", length=length)
    if length > 8:
        assert f"its header has a length of {length} bytes" in refused(tmp_path / "x", entry)
    else:
        assert "its header has checksum" in refused(tmp_path / "x", entry)


def test_a_header_longer_than_allowed_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = write(tmp_path / "x", SMALL)
    monkeypatch.setattr(tensor_file, "MAX_HEADER", 8)
    assert "its header has a length of 1" in refused(tmp_path / "x", entry)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{" * 8, "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a":1,"a":2}', "a key occurs twice"),
        (b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', "twice"),
        (b'{"a":NaN}', "NaN is not a number of JSON"),
        (b'{"a":{"shape":[' + b"9" * 5000 + b"]}}", "more than 600 digits"),
        (b"[]", "are not those of the manifest"),
        (b'"a"', "are not those of the manifest"),
        (b"null", "are not those of the manifest"),
    ],
)
def test_a_header_that_is_no_object_is_refused(tmp_path: Path, header: bytes, reason: str) -> None:
    assert reason in refused(tmp_path / "x", forge(tmp_path / "x", header, b"1234"))


@pytest.mark.parametrize(
    "value",
    [
        spec([4], 0, 5),
        spec([4], 1, 5),
        spec([4], 0, 3),
        spec([4], 4, 0),
        spec([4], -4, 0),
        spec([4], 0, 4.5),
        spec([4], "0", "4"),
        spec([2**62, 4], 0, 0),
        spec([2**32, 2**32], 0, 0),
        spec([2**64], 0, 0),
        spec([2**64 + 4], 0, 4),
        spec([2**31, 2**31, 2**31, 2**31], 0, 0),
        spec([0, 2**63], 0, 0),
        spec([0, 2**62, 2**62], 0, 0),
        spec([-4], 0, 4),
        spec([-1, -4], 0, 4),
        spec([-2, 0], 0, 0),
        spec([4.0], 0, 4),
        spec([True, 4], 0, 4),
        spec(["4"], 0, 4),
        spec([[4]], 0, 4),
        spec(4, 0, 4),
        spec(None, 0, 4),
        spec({"0": 4}, 0, 4),
        spec([4], 0, 4, "u8"),
        spec([4], 0, 4, "F8_E8M0"),
        spec([4], 0, 4, "torch.uint8"),
        spec([4], 0, 4, None),
        spec([4], 0, 4, ["U8"]),
        spec([4], 0, 4, {"U8": "U8"}),
        spec([4], 0, 4, "F32"),
        {"dtype": "U8", "shape": [4]},
        {"dtype": "U8", "data_offsets": [0, 4]},
        {"shape": [4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], "more": 1},
        {"dtype": "U8", "shape": [4], "data_offsets": [0]},
        {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": None},
        {"dtype": "U8", "shape": [4], "data_offsets": {"0": 0}},
        {},
        [],
        None,
        "x",
        4,
    ],
)
def test_a_tensor_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    entry = forge(tmp_path / "x", {"a.b": value}, b"1234")
    assert "its header is wrong at tensor 'a.b'" in refused(tmp_path / "x", entry)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": spec([2], 0, 2), "b": spec([1], 3, 4)}, "wrong at tensor 'b'"),
        ({"a": spec([2], 0, 2), "b": spec([3], 1, 4)}, "wrong at tensor 'b'"),
        ({"a": spec([4], 0, 4), "b": spec([4], 0, 4)}, "wrong at tensor 'b'"),
        ({"a": spec([2], 2, 4), "b": spec([2], 0, 2)}, "wrong at tensor 'a'"),
        ({"a": spec([3], 0, 3)}, "its tensors end at byte"),
        ({"a": spec([5], 0, 5)}, "its tensors end at byte"),
        ({"a": spec([1 << 59], 0, 1 << 59)}, "its tensors end at byte"),
        ({}, "its tensors end at byte"),
        ({"a": spec([4], 0, 4), "__metadata__": {"format": "pt"}}, "wrong at tensor '__meta"),
    ],
)
def test_tensors_with_gaps_or_overlaps_are_refused(
    tmp_path: Path, header: dict[str, Any], reason: str
) -> None:
    assert reason in refused(tmp_path / "x", forge(tmp_path / "x", header, b"1234"))


def test_deep_or_long_values_are_refused(tmp_path: Path) -> None:
    for depth in (65, 300, 900, 990):
        for field in ("dtype", "shape", "data_offsets"):
            text = json.dumps({"a": spec([4], 0, 4) | {field: "?"}})
            text = text.replace('"?"', "[" * depth + "]" * depth)
            entry = forge(tmp_path / "x", text.encode(), b"1234")
            message = refused(tmp_path / "x", replace(entry, tensors={"a": ""}))
            assert "wrong at tensor 'a'" in message or "nested too deeply" in message
    for length in (1, 2, 2**59, 10**500):
        entry = forge(tmp_path / "x", {"a": spec([length] * 100_000, 0, 1)}, b"1")
        assert "wrong at tensor 'a'" in refused(tmp_path / "x", entry)
    tensors = {"a": torch.ones((1,) * 64), "b": torch.empty(0, 2**29, 2**30)}
    assert_same(read(tmp_path / "x", write(tmp_path / "x", tensors)), tensors)
    entry = forge(tmp_path / "x", {"a": spec([1] * 65, 0, 1)}, b"1")
    assert "wrong at tensor 'a'" in refused(tmp_path / "x", entry)


# Memory


def test_a_file_larger_than_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = write(tmp_path / "x", SMALL)
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": entry.size}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert_same(read(tmp_path / "x", entry), SMALL)
    pages["SC_PHYS_PAGES"] -= 1
    message = f"^x.st has {entry.size} bytes, and the memory {entry.size - 1}$"
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path / "x", entry)
    assert not isinstance(caught.value, CorruptCheckpointError)
    verify(tmp_path / "x", entry)


def raiser(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [RuntimeError("no memory here"), MemoryError("no memory here")])
def test_memory_that_runs_out_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    entry = write(tmp_path / "x", SMALL)
    monkeypatch.setattr(torch, "empty", raiser(error))
    with pytest.raises(
        CheckpointError, match=r"^x.st has \d+ bytes, but: no memory here$"
    ) as caught:
        read(tmp_path / "x", entry)
    assert not isinstance(caught.value, CorruptCheckpointError)
    # It makes no tensors.
    verify(tmp_path / "x", entry)
