"""A disk that forgets what was not synced."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.faults.operations import Operation

#: The content of each file by its path, None for directories; links are told by their targets.
Tree = dict[Path, "bytes | Path | None"]


@dataclass
class _File:
    """A file, and as much of it as was synced; a link from before is a `Path`."""

    data: bytes | Path = b""
    synced: bytes | Path = b""


@dataclass
class _Directory:
    names: dict[str, _File | _Directory] = field(default_factory=dict)
    synced: dict[str, _File | _Directory] = field(default_factory=dict)


class Disk:
    """Follows operations, and tells what a power cut may leave.

    Args:
        directory: What is on the disk, all of it synced.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory
        self._root = _read(directory)

    def follow(self, operation: Operation) -> None:
        """Do what an operation does."""
        path, arguments = operation.path, operation.arguments
        if operation.name in ("close", "begin_sync") or not path.is_relative_to(self._place):
            return
        if operation.name == "sync_directory":
            directory = self._directory(path)
            directory.synced = dict(directory.names)
            return
        parent = self._directory(path.parent)
        if operation.name == "create":
            parent.names[path.name] = _File()
        elif operation.name == "make_directory":
            parent.names[path.name] = _Directory()
        elif operation.name == "rename":
            target = Path(arguments[1])
            self._directory(target.parent).names[target.name] = parent.names.pop(path.name)
        elif operation.name in ("remove_file", "remove_directory"):
            del parent.names[path.name]
        else:
            file = parent.names[path.name]
            assert isinstance(file, _File)
            if operation.name == "sync":
                file.synced = file.data
            else:
                assert operation.name == "write"
                assert isinstance(file.data, bytes)
                file.data += bytes(arguments[1])

    def survivors(self, *, are_names_synced: bool) -> Tree:
        """Return what is left without the bytes that were not synced.

        Args:
            are_names_synced: Whether names that were not synced are those of before; the other
                extreme is that they have all come to the disk.
        """
        result: Tree = {}

        def visit(node: _Directory, path: Path) -> None:
            for name, each in (node.synced if are_names_synced else node.names).items():
                if isinstance(each, _Directory):
                    result[path / name] = None
                    visit(each, path / name)
                else:
                    result[path / name] = each.synced

        visit(self._root, Path())
        return result

    def _directory(self, path: Path) -> _Directory:
        node: _File | _Directory = self._root
        for name in path.relative_to(self._place).parts:
            assert isinstance(node, _Directory)
            node = node.names[name]
        assert isinstance(node, _Directory)
        return node


def _read(path: Path) -> _Directory:
    names: dict[str, _File | _Directory] = {}
    for each in path.iterdir():
        if each.is_dir() and not each.is_symlink():
            names[each.name] = _read(each)
        else:
            data = Path(os.readlink(each)) if each.is_symlink() else each.read_bytes()
            names[each.name] = _File(data, data)
    return _Directory(names, dict(names))


def write_tree(tree: Tree, directory: Path) -> None:
    """Make a directory of what is in a tree."""
    directory.mkdir()
    for path, data in tree.items():
        if data is None:
            (directory / path).mkdir()
        elif isinstance(data, Path):
            (directory / path).symlink_to(data)
        else:
            (directory / path).write_bytes(data)
