"""`checkpoints DIR export`: the weights of a model in a file of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hotloop.checkpoint import read_checkpoint, storage
from hotloop.checkpoint.tensor_file import write_tensors
from hotloop.cli.catalogue import Catalogue
from hotloop.cli.text import count_text, size_text
from hotloop.errors import CheckpointError

__all__ = ["export", "write_weights"]


def export(
    catalogue: Catalogue, name: str | None, file: Path, is_average: bool, is_forced: bool
) -> str:
    """Write the model's weights of a checkpoint to a safetensors file.

    The tensors have the names of the model's `state_dict`; tied ones are there under each name.
    Every byte of the checkpoint is verified.

    Args:
        catalogue: The directory, or one checkpoint.
        name: The name; None of one checkpoint.
        file: The file.
        is_average: Whether to write the moving average of the weights.
        is_forced: Whether a file that exists is replaced.

    Raises:
        CheckpointError: If the file exists or cannot be there, or the checkpoint is damaged
            or has no such weights.
        OSError: If the file cannot be written.
    """
    path = catalogue.locate(name)
    _check_place(file, is_forced)
    state, _ = read_checkpoint(path)
    weights = _weights_of(state, str(path))
    if is_average:
        weights = _averaged(weights, state, str(path))
    size = write_weights(file, weights)
    what = count_text(len(weights), "average" if is_average else "tensor")
    return f"wrote {what} of {path.name} to {file}, {size_text(size)}"


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> int:
    """Write tensors to a safetensors file, which is complete and durable once it is there.

    Args:
        file: The file, which is replaced if it exists.
        weights: The tensors by name.

    Returns:
        Its size in bytes.
    """
    # Others may write the same file, and a manager removes what begins with ".saving-".
    new = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with storage.replacing(file, new) as fd:
        return write_tensors(fd, weights).size


def _check_place(file: Path, is_forced: bool) -> None:
    if os.path.lexists(file) and (file.is_dir() or not is_forced):
        reason = "is a directory" if file.is_dir() else "exists; --force replaces it"
        raise CheckpointError(f"{file} {reason}")
    if not file.parent.is_dir():
        raise CheckpointError(f"there is no directory {file.parent}")
    if os.path.lexists(file.parent / "manifest.json"):
        raise CheckpointError(
            f"{file} would be a file too many in a checkpoint; write it elsewhere"
        )


def _weights_of(state: Any, where: str) -> dict[str, Tensor]:
    model = state.get("model") if isinstance(state, dict) else None
    if not isinstance(model, dict) or not model:
        raise CheckpointError(f"{where} has no model: its state has no dict 'model' of tensors")
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{where} has a model with {name!r:.500} of type {type(value).__name__}, which a "
                "file of tensors cannot hold"
            )
    return model


def _averaged(weights: dict[str, Tensor], state: Any, where: str) -> dict[str, Tensor]:
    """Return the average of each weight, as `WeightAverage.state_dict` has it."""
    average = state.get("average")
    averages = average.get("averages") if isinstance(average, dict) else None
    if not isinstance(averages, dict):
        raise CheckpointError(f"{where} has no average of the weights; export without --average")
    # Of tied weights, which are one tensor, only one name has an average.
    known = {
        id(weights[name]): value
        for name, value in averages.items()
        if name in weights and isinstance(value, Tensor)
    }
    missing = [name for name, weight in weights.items() if id(weight) not in known]
    if missing:
        raise CheckpointError(f"{where} has no average of {missing[0]!r:.500}")
    return {name: known[id(weight)] for name, weight in weights.items()}
