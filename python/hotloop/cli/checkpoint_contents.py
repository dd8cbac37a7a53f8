"""`checkpoints DIR show`: what a checkpoint says of itself, and the tree of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from hotloop.argument import check_count
from hotloop.checkpoint import Manifest, read_manifest, rebuild
from hotloop.checkpoint.tree import DTYPES, parse_json
from hotloop.cli.catalogue import Catalogue, size_of
from hotloop.cli.text import count_text, local_time, new_table, render, size_text, styled
from hotloop.errors import CorruptCheckpointError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["show"]


@dataclass(frozen=True)
class _Tensor:
    """What a file says of a tensor."""

    name: str
    dtype: str
    shape: list[int]

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def size(self) -> int:
        return self.count * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class _Row:
    """A line of the tree: a tensor, or what has tensors in it.

    Attributes:
        depth: How many levels it is down.
        key: Its key in what it is in.
        tensor: The tensor; None of what has tensors in it.
        count: Values of the tensors, each counted where it is first.
        size: Their bytes.
        is_tied: Whether the tensor was there before.
    """

    depth: int
    key: str
    tensor: _Tensor | None
    count: int
    size: int
    is_tied: bool = False


def show(catalogue: Catalogue, name: str | None, depth: int | None) -> str:
    """Return what a checkpoint says of itself, and the tree of its tensors.

    No tensor is read, so damage within one is not noticed.

    Args:
        catalogue: The directory, or one checkpoint.
        name: The name; None of one checkpoint.
        depth: The levels of the tree that are shown; None for all.

    Raises:
        ValueError: If `depth` is no positive number.
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    check_count("--depth", depth, is_optional=True)
    path = catalogue.locate(name)
    manifest = read_manifest(path)
    rows = list(_rows(_read_state(path, manifest)))
    parts: list[Any] = [styled(path.name, "bold"), _facts(manifest)]
    if rows:
        parts += [styled(""), _tree(rows, depth)]
    tensors = [row for row in rows if row.tensor]
    size = size_text(sum(row.size for row in tensors))
    text = f"all: {sum(row.count for row in tensors):,} values, {size}"
    model = next((row for row in rows if row.depth == 0 and row.key == "model"), None)
    if model is not None:
        text = f"model: {model.count:,} parameters and buffers; {text}"
    return render(*parts) + f"\n\n{text}"


def _read_state(path: Path, manifest: Manifest) -> Any:
    """Return the state with a `_Tensor` for each tensor."""
    place = path / "state.json"
    data = place.read_bytes()
    if xxhash.xxh3_64_hexdigest(data) != manifest.files[place.name].checksum:
        raise CorruptCheckpointError(f"{place} is damaged: it has another checksum")
    return rebuild(parse_json(data, str(place)), _read_tensors(path, manifest), str(place))


def _read_tensors(path: Path, manifest: Manifest) -> dict[str, _Tensor]:
    from safetensors import SafetensorError, safe_open

    place = path / "tensors.safetensors"
    if place.name not in manifest.files:
        return {}
    try:
        with safe_open(place, framework="pt") as file:
            views = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118
            tensors = {name: _Tensor(name, v.get_dtype(), v.get_shape()) for name, v in views}
    except SafetensorError as error:
        raise CorruptCheckpointError(f"{place} is damaged: {error}") from error
    for tensor in tensors.values():
        if tensor.dtype not in DTYPES:
            raise CorruptCheckpointError(f"{place} is damaged: it has dtype {tensor.dtype!r}")
    return tensors


def _rows(state: Any) -> Iterator[_Row]:
    """Yield the lines of a state: each of what has tensors in it, and what is in it."""
    seen: set[str] = set()

    def walk(key: str, value: Any, depth: int) -> list[_Row]:
        if isinstance(value, _Tensor):
            if value.name in seen:
                return [_Row(depth, key, value, 0, 0, is_tied=True)]
            seen.add(value.name)
            return [_Row(depth, key, value, value.count, value.size)]
        if not isinstance(value, (dict, list, tuple)):
            return []
        items = value.items() if isinstance(value, dict) else enumerate(value)
        below = [row for k, item in items for row in walk(str(k), item, depth + 1)]
        own = [row for row in below if row.tensor]
        count, size = sum(row.count for row in own), sum(row.size for row in own)
        return [_Row(depth, key, None, count, size), *below] if below else []

    # The state itself has no key.
    rows = walk("state", state, -1)
    yield from (row for row in rows if row.depth >= 0 or row.tensor)


def _facts(manifest: Manifest) -> Table:
    from rich.table import Table

    count = sum(len(entry.tensors) for entry in manifest.files.values())
    facts = {
        "step": f"{manifest.step:,}",
        "epoch": f"{manifest.epoch:,}",
        "saved": local_time(manifest.created),
        "size": f"{size_text(size_of(manifest))}, with {count_text(count, 'tensor')}",
        "metrics": ", ".join(f"{key} {value!r}" for key, value in manifest.metrics.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in manifest.versions.items()),
        "config": ", ".join(f"{key}={value!r}" for key, value in (manifest.config or {}).items()),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, fact in facts.items():
        if fact:
            table.add_row(styled(f"  {label}", "dim"), styled(fact))
    return table


def _tree(rows: list[_Row], depth: int | None) -> Table:
    table = new_table()
    table.add_column("state", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    table.add_column("shape")
    table.add_column("values", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for row in rows:
        if depth is not None and row.depth >= depth:
            continue
        numbers = [f"{row.count:,}", size_text(row.size)]
        name = styled("  " * max(row.depth, 0) + row.key)
        if row.tensor is None:
            name.stylize("bold")
            table.add_row(name, "", "", *numbers)
            continue
        dtype = str(DTYPES[row.tensor.dtype]).removeprefix("torch.")
        if row.is_tied:
            numbers = ["", ""]
            name.append_text(styled(f" = {row.tensor.name}", "dim"))
        table.add_row(name, dtype, str(row.tensor.shape), *numbers)
    return table
