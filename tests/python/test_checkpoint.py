"""A checkpoint comes back as it was saved, or it is refused by file and tensor."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import load_file
from torch import nn

from hotloop.checkpoint import (
    FileEntry,
    Info,
    Manifest,
    checkpoint,
    read_checkpoint,
    read_manifest,
    storage,
    verify_checkpoint,
    write_checkpoint,
)
from hotloop.errors import CheckpointError, CorruptCheckpointError
from hotloop.testing import differences

FILES = ("manifest.json", "state.json", "tensors.safetensors")
INFO = Info(name="a", step=3, metrics={"loss": 0.5}, config={"lr": 0.1})
W, N = torch.tensor([[1.5, -0.0]]), torch.tensor(7)
STATE: dict[str, Any] = {
    "model": {"w": W, "n": N},
    "step": 3,
    "betas": (0.9, 0.99),
}
EVERY = (read_checkpoint, verify_checkpoint)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "a")


def save(directory: Path, state: Any = STATE, info: Info = INFO) -> Path:
    directory.mkdir()
    write_checkpoint(directory, state, info)
    return directory


def refused(
    directory: Path, functions: tuple[Callable[[Path], Any], ...] = (*EVERY, read_manifest)
) -> str:
    """Return the text with which all functions refuse a checkpoint."""
    messages = set()
    for function in functions:
        with pytest.raises(CorruptCheckpointError) as caught:
            function(directory)
        messages.add(str(caught.value))
    assert len(messages) == 1
    return messages.pop()


def forge(directory: Path, name: str, data: bytes, **tensors: str) -> None:
    """Replace a file, and sign it in the manifest."""
    (directory / name).write_bytes(data)
    old = Manifest.parse((directory / "manifest.json").read_bytes(), "")
    checksum = xxhash.xxh3_64_hexdigest(data)
    if name == "tensors.safetensors" and data[:1] != b"\x80":
        checksum = xxhash.xxh3_64_hexdigest(data[: 8 + int.from_bytes(data[:8], "little")])
    entry = FileEntry(len(data), checksum, tensors or dict(old.files[name].tensors))
    new = replace(old, files={**old.files, name: entry})
    (directory / "manifest.json").write_bytes(new.to_bytes())


# What is written


def test_a_checkpoint_comes_back(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    state, manifest = read_checkpoint(saved)
    assert differences(state, STATE) == []
    assert manifest == read_manifest(saved) == verify_checkpoint(saved)
    assert replace(manifest, files={}) == Manifest(**vars(INFO), files={})
    for name, entry in manifest.files.items():
        assert entry.size == (saved / name).stat().st_size
    text = (saved / "state.json").read_bytes()
    assert manifest.files["state.json"] == FileEntry(len(text), xxhash.xxh3_64_hexdigest(text))
    assert json.loads(text) == {
        "model": {"w": {"$tensor": "model.w"}, "n": {"$tensor": "model.n"}},
        "step": 3,
        "betas": {"$tuple": [0.9, 0.99]},
    }
    loaded = load_file(saved / "tensors.safetensors")
    assert (
        differences(loaded, {"model.w": STATE["model"]["w"], "model.n": STATE["model"]["n"]}) == []
    )
    assert (saved / "manifest.json").read_bytes() == manifest.to_bytes()


def test_writing_returns_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    manifest = write_checkpoint(tmp_path / "a", STATE, INFO)
    assert manifest == read_manifest(tmp_path / "a")


@pytest.mark.parametrize("state", [None, 3, [], {"a": (1, "é")}])
def test_a_state_without_tensors_has_no_file_of_them(tmp_path: Path, state: Any) -> None:
    directory = save(tmp_path / "a", state)
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "state.json"]
    assert read_checkpoint(directory)[0] == state
    assert verify_checkpoint(directory).files.keys() == {"state.json"}


def test_only_empty_tensors_are_a_file(tmp_path: Path) -> None:
    directory = save(tmp_path / "a", torch.empty(0, 3))
    assert read_checkpoint(directory)[0].shape == (0, 3)
    assert verify_checkpoint(directory).files["tensors.safetensors"].tensors.keys() == {"state"}


def test_tied_weights_are_saved_once_and_tied_again(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    directory = save(tmp_path / "a", {"embedding": weight, "head": weight})
    state, manifest = read_checkpoint(directory)
    assert state["embedding"] is state["head"]
    assert not state["head"].requires_grad
    assert manifest.files["tensors.safetensors"].tensors.keys() == {"embedding"}


def test_every_file_is_on_the_device_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    names: dict[int, str] = {}

    def watch(name: str) -> None:
        function = getattr(storage, name)

        def call(argument: Any, *others: Any) -> Any:
            result = function(argument, *others)
            if name == "create":
                names[result] = argument.name
            what = argument.name if isinstance(argument, Path) else names[argument]
            if not calls or calls[-1] != f"{name} {what}":
                calls.append(f"{name} {what}")
            return result

        monkeypatch.setattr(storage, name, call)

    for name in ("create", "write", "sync", "close", "sync_directory"):
        watch(name)
    save(tmp_path / "a")
    assert calls == [
        *(f"{call} state.json" for call in ("create", "write", "sync", "close")),
        *(f"{call} tensors.safetensors" for call in ("create", "write", "sync", "close")),
        *(f"{call} manifest.json" for call in ("create", "write", "sync", "close")),
        "sync_directory a",
    ]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_the_mask(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        directory = save(tmp_path / "a")
    finally:
        os.umask(old)
    for name in FILES:
        assert (directory / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    with pytest.raises(CheckpointError, match="/a is not empty, so no checkpoint is written there"):
        write_checkpoint(tmp_path / "a", STATE, INFO)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    with pytest.raises(FileNotFoundError, match="/b'"):
        write_checkpoint(tmp_path / "b", STATE, INFO)


def test_a_state_that_cannot_be_saved_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(
        CheckpointError, match=r"^'a\.1' cannot be saved: it is of type builtins\.b"
    ):
        write_checkpoint(tmp_path / "a", {"a": [torch.ones(3), b"x"]}, INFO)
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_a_file_that_nothing_reads_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    size = (save(tmp_path / "a") / name).stat().st_size
    monkeypatch.setitem(checkpoint._MAX_SIZES, name, size)
    assert verify_checkpoint(save(tmp_path / "b")).step == 3
    monkeypatch.setitem(checkpoint._MAX_SIZES, name, size - 1)
    message = f"/c/{name} would have {size} bytes; at most {size - 1} are allowed$"
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "c")
    assert not (tmp_path / "c" / name).exists()
    for directory in ("a", "b"):
        message = refused(tmp_path / directory, EVERY)
        assert message.endswith(f"/{name} is damaged: it has {size} bytes, more than {size - 1}")


@pytest.mark.parametrize("call", ["write", "sync"])
def test_an_error_of_the_system_names_the_file_and_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "a").mkdir()
    opened = set(os.listdir("/proc/self/fd"))
    function = getattr(os, {"write": "write", "sync": "fsync"}[call])
    calls = []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*arguments)

    monkeypatch.setattr(os, {"write": "write", "sync": "fsync"}[call], fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a/tensors\.safetensors'"):
        write_checkpoint(tmp_path / "a", STATE, INFO)
    assert set(os.listdir("/proc/self/fd")) == opened
    assert not (tmp_path / "a" / "manifest.json").exists()


# What is refused


def test_a_bit_that_flips_is_found_in_its_file(saved: Path) -> None:
    for name in FILES:
        data = (saved / name).read_bytes()
        for at in range(len(data)):
            flipped = data[at] ^ 1 << at % 8
            (saved / name).write_bytes(data[:at] + bytes([flipped]) + data[at + 1 :])
            functions = (*EVERY, read_manifest) if name == "manifest.json" else EVERY
            message = refused(saved, functions)
            assert message.startswith(f"{saved / name} is damaged: ")
            if name == "tensors.safetensors" and at >= len(data) - 16:
                tensor = "model.w" if at < len(data) - 8 else "model.n"
                assert f"tensor '{tensor}' has checksum" in message
        (saved / name).write_bytes(data)
    assert differences(read_checkpoint(saved)[0], STATE) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_found(saved: Path, name: str) -> None:
    data = (saved / name).read_bytes()
    sizes = [*range(0, len(data), 7), len(data) - 1]
    for other in [*(data[:size] for size in sizes), data + b"\0", data + data]:
        (saved / name).write_bytes(other)
        message = refused(saved)
        assert message.startswith(f"{saved / name} is damaged: ")
        if name != "manifest.json":
            assert message.endswith(f"it has {len(other)} bytes, not {len(data)}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert refused(saved) == f"{saved / name} is missing"


@pytest.mark.parametrize("name", ["x", ".x", "state.json~", "\udcff", "a\nb"])
def test_a_file_that_is_too_many_is_named(saved: Path, name: str) -> None:
    (saved / name).touch()
    assert refused(saved) == f"{saved} has {name!r}, which does not belong to it"
    (saved / name).unlink()
    (saved / name).mkdir()
    assert refused(saved) == f"{saved} has {name!r}, which does not belong to it"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "broken link", "directory", "pipe", "device", "socket"])
def test_what_is_no_regular_file_is_not_opened(
    saved: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    path = saved / name
    copy = saved.parent / "copy"
    shutil.copy(path, copy)
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(saved)
            server.bind(name)
    else:
        path.symlink_to(copy if kind == "link" else saved / "nowhere")
    names: list[Any] = []
    os_open = os.open

    def watch(path: Any, *arguments: Any, **options: Any) -> int:
        names.append(path)
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", watch)
    assert refused(saved) == f"{path} is damaged: it is not a regular file"
    assert name not in names


def test_a_file_that_becomes_a_link_or_a_pipe_is_not_followed(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What replaces a file after it was looked at.
    looked = os.stat(saved / "state.json")
    monkeypatch.setattr(os, "stat", lambda *_, **__: looked)
    copy = saved.parent / "copy"
    for name in FILES:
        (saved / name).rename(copy)
        (saved / name).symlink_to(copy)
        assert "Too many levels of symbolic links" in refused(saved)
        (saved / name).unlink()
        os.mkfifo(saved / name)
        opened = set(os.listdir("/proc/self/fd"))
        assert refused(saved) == f"{saved / name} is damaged: it is not a regular file"
        assert set(os.listdir("/proc/self/fd")) == opened
        copy.rename(saved / name)


def test_a_directory_that_is_none_is_refused(saved: Path) -> None:
    link = saved.parent / "link"
    link.symlink_to(saved)
    assert refused(link).startswith(f"{link} is damaged: ")
    assert refused(saved / "state.json").startswith(f"{saved / 'state.json'} is damaged: ")
    os.mkfifo(saved.parent / "pipe")
    assert refused(saved.parent / "pipe").startswith(f"{saved.parent / 'pipe'} is damaged: ")
    nowhere = saved.parent / "nowhere"
    for function in (*EVERY, read_manifest):
        with pytest.raises(CheckpointError, match=f"^there is no checkpoint {nowhere}$") as caught:
            function(nowhere)
        assert not isinstance(caught.value, CorruptCheckpointError)
    # Above the checkpoint, links are the user's.
    parent = saved.parent / "runs"
    parent.symlink_to(saved.parent)
    assert verify_checkpoint(parent / saved.name).step == 3


@pytest.mark.parametrize(
    ("code", "is_damage"),
    [
        (errno.EIO, True),
        (errno.EACCES, False),
        (errno.EPERM, False),
        (errno.EMFILE, False),
        (errno.ENFILE, False),
        (errno.ENOMEM, False),
    ],
)
@pytest.mark.parametrize("call", ["open", "preadv", "listdir"])
def test_errors_of_the_system_name_the_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_damage: bool, call: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, "told")

    opened = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for function in EVERY:
            with pytest.raises(CheckpointError, match=f"^{saved}") as caught:
                function(saved)
            assert isinstance(caught.value, CorruptCheckpointError) == is_damage
            kind = "is damaged: " if is_damage else "cannot be read: "
            assert kind + f"[Errno {code}] told" in str(caught.value)
    assert set(os.listdir("/proc/self/fd")) == opened


def test_another_byte_order_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    message = "^checkpoints are little-endian, and this machine is not$"
    for function in (*EVERY, read_manifest):
        with pytest.raises(CheckpointError, match=message):
            function(saved)
    (saved.parent / "b").mkdir()
    with pytest.raises(CheckpointError, match=message):
        write_checkpoint(saved.parent / "b", STATE, INFO)


# What is forged


@pytest.mark.parametrize(
    "names",
    [
        ["state.json", "../a/state.json"],
        ["state.json", "/etc/passwd"],
        ["state.json", ".."],
        ["state.json", ".hidden"],
        ["state.json", "a\0b"],
        ["state.json", "a/b"],
        ["state.json", ""],
        ["state.json", "manifest.json"],
        ["state.json", "more.safetensors"],
        ["tensors.safetensors"],
        [],
    ],
)
def test_a_manifest_of_other_files_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    old = read_manifest(saved)
    files = {name: FileEntry(0, "0" * 16) for name in names}
    (saved / "manifest.json").write_bytes(replace(old, files=files).to_bytes())
    opened: list[Any] = []
    open_file = storage.open_file

    def watch(name: str, directory: int) -> int:
        opened.append(name)
        return open_file(name, directory)

    monkeypatch.setattr(storage, "open_file", watch)
    message = refused(saved)
    assert message == f"{saved / 'manifest.json'} has files {sorted(names)!r}"
    assert set(opened) == {"manifest.json"}


def test_a_state_of_tensors_is_refused(saved: Path) -> None:
    """Fields of the wrong file do not hide bytes that no checksum covers."""
    data = (saved / "state.json").read_bytes()
    forge(saved, "state.json", data, x="0" * 16)
    assert refused(saved).endswith("manifest.json has tensors of state.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is not valid JSON: Expecting value"),
        (b"[" * 100_000, "is not valid JSON: it is nested too deeply"),
        (b"\xff", "is not valid JSON: .* can't decode byte"),
        (b'{"a":1,"a":1}', "is not valid JSON: a key occurs twice"),
        (b"NaN", "is not valid JSON: NaN is not a number"),
        (b"1" * 10_000, "is not valid JSON: an int has more than 600 digits"),
        (b"1", "has no place for tensor 'model.n'"),
        (b'[{"$tensor":"model.w"}]', "has no place for tensor 'model.n'"),
        (b'{"a":{"$tensor":"x"}}', "is damaged at 'a': there is no tensor 'x'"),
        (b'{"$object":["os.system"]}', r"is damaged at the state: it has no valid '\$object'"),
        (b"[" * 65 + b"]" * 65, "it is more than 64 levels deep"),
        (b'{"$tuple":[' * 100 + b"]}" * 100, "it is more than 64 levels deep"),
    ],
)
def test_a_forged_state_is_refused(saved: Path, text: bytes, reason: str) -> None:
    forge(saved, "state.json", text)
    assert re.match(f"{saved / 'state.json'} .*{reason}", refused(saved, EVERY))


def test_a_forged_file_of_tensors_is_refused(saved: Path) -> None:
    data = (saved / "tensors.safetensors").read_bytes()
    for length, reason in (
        (2**63, "length of 9223372036854775808 bytes"),
        (0, "is not valid JSON"),
    ):
        forge(saved, "tensors.safetensors", length.to_bytes(8, "little") + data[8:])
        message = refused(saved, EVERY)
        assert message.startswith(str(saved / "tensors.safetensors"))
        assert reason in message


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("protocol", [0, 2, 5, "torch"])
def test_a_pickle_is_refused_and_not_run(saved: Path, name: str, protocol: int | str) -> None:
    trap = saved.parent / "trap"
    if protocol == "torch":
        torch.save(Trap(trap), saved.parent / "pickle")
        data = (saved.parent / "pickle").read_bytes()
    else:
        data = pickle.dumps(Trap(trap), int(protocol))
    if name == "manifest.json":
        (saved / name).write_bytes(data)
    else:
        forge(saved, name, data)
    assert refused(saved, EVERY).startswith(str(saved / name))
    assert not trap.exists()
    if protocol != "torch":
        pickle.loads(data)
        assert trap.exists()


def test_nothing_of_it_imports_pickle_or_runs_text() -> None:
    for path in Path(checkpoint.__file__).parent.glob("*.py"):
        text = path.read_text()
        for word in ("pickle", "torch.load", "torch.save", "marshal", "shelve", "eval(", "exec("):
            assert word not in text, (path.name, word)


# The file layer


def test_a_file_is_made_only_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "directory").mkdir()
    for name in ("file", "link", "directory"):
        with pytest.raises(FileExistsError, match=name):
            storage.create(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_replaced_by_a_synced_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    calls: list[str] = []
    for name in ("sync", "rename", "sync_directory"):
        function = getattr(storage, name)

        def call(*arguments: Any, name: str = name, function: Any = function) -> None:
            calls.append(name)
            if name == "rename":
                assert arguments[0].read_bytes() == data
                assert arguments == (tmp_path / ".saving-x.json", path)
            function(*arguments)

        monkeypatch.setattr(storage, name, call)
    for data in (b"old", b"newer", b""):
        calls.clear()
        # What a save that was killed left.
        (tmp_path / ".saving-x.json").write_bytes(b"stale")
        storage.replace_file(path, data)
        assert path.read_bytes() == data
        assert calls == ["sync", "rename", "sync_directory"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "x.json"
    storage.replace_file(path, b"old")
    opened = set(os.listdir("/proc/self/fd"))

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "told")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="told"):
            storage.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert set(os.listdir("/proc/self/fd")) == opened
    storage.replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_is_read_at_once_is_a_regular_file_of_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert storage.read_file(tmp_path / "file", 3) == b"abc"
    with pytest.raises(OSError, match=r"^it has 3 bytes, more than 2$"):
        storage.read_file(tmp_path / "file", 2)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError, match=r"^it is not a regular file$"):
            storage.read_file(tmp_path / name, 3)
    with pytest.raises(FileNotFoundError, match="/missing'"):
        storage.read_file(tmp_path / "missing", 3)


_ELSEWHERE = """
import ctypes, os, sys
import torch

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "sync_file_range":
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = Library
del os.sched_getaffinity

import hotloop.loops
from hotloop.checkpoint import CheckpointManager, tensor_file

tensor_file._SYNC = 1
manager = CheckpointManager(sys.argv[1])
manager.save({"x": torch.arange(3)}, step=1)
print(manager.load()[0]["x"].tolist(), tensor_file._THREADS == min(4, os.cpu_count()))
"""


def test_systems_that_lack_calls_of_linux_do_without(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[0, 1, 2] True\n", "")


def test_directories_and_names(tmp_path: Path) -> None:
    storage.make_directory(tmp_path / "a")
    with pytest.raises(FileExistsError, match="/a'"):
        storage.make_directory(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="/b/c'"):
        storage.make_directory(tmp_path / "b" / "c")
    (tmp_path / "a" / "x").symlink_to(tmp_path)
    with pytest.raises(OSError, match="not empty"):
        storage.remove_directory(tmp_path / "a")
    storage.remove_file(tmp_path / "a" / "x")
    storage.rename(tmp_path / "a", tmp_path / "b")
    storage.sync_directory(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    storage.remove_directory(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c").touch()
    with pytest.raises(NotADirectoryError, match="/c'"):
        storage.sync_directory(tmp_path / "c")
