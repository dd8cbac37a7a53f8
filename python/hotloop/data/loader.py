"""What a run that is resumed needs of torch's loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from hotloop.argument import check_count
from hotloop.data.shuffled_sampler import ShuffledSampler

__all__ = ["generators_of", "skip"]

_PARTS = ("sampler", "batch_sampler")


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators that a loader draws its order with.

    Args:
        loader: A torch DataLoader, or anything else with a `generator`, a `sampler` or a
            `batch_sampler`, which may have such themselves.

    Returns:
        Each once, in the same order for loaders that are made alike.
    """
    found: list[torch.Generator] = []
    seen: list[Any] = []
    waiting = [loader]
    while waiting:
        part = waiting.pop(0)
        if part is None or any(part is other for other in seen):
            continue
        seen.append(part)
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator) and not any(generator is g for g in found):
            found.append(generator)
        waiting += [getattr(part, name, None) for name in _PARTS]
    return found


def skip(
    loader: Iterable[Any], batches: int, check: Callable[[], None] | None = None
) -> Iterator[Any]:
    """Iterate over a loader behind its first batches.

    A torch DataLoader over a `ShuffledSampler` begins there at once, in the sampler's epoch. From
    any other loader the first batches are drawn and dropped, which takes the time to load them.

    The batches are those of a whole epoch if the dataset draws no random numbers. If it does, what
    is drawn and dropped has moved its generators on, and a loader that begins there has not.

    Args:
        loader: Yields the same batches each time, but for what its generators draw.
        batches: How many to leave out.
        check: Called before each batch that is drawn to be dropped; may raise.

    Raises:
        ValueError: If `batches` is no int of at least 0, or the loader has fewer.
    """
    check_count("batches", batches, 0)
    sampler, size = _shuffled(loader)
    if sampler is not None:
        _check_had(len(loader), batches)  # type: ignore[arg-type]
        # The last batch may be smaller.
        sampler.set_epoch(sampler.epoch, min(batches * size, len(sampler)))
        return iter(loader)
    iterator = iter(loader)
    for had in range(batches):
        if check is not None:
            check()
        try:
            next(iterator)
        except StopIteration:
            _check_had(had, batches)
    return iterator


def _shuffled(loader: Any) -> tuple[ShuffledSampler | None, int]:
    """Return a loader's sampler, if it is one of ours, and the size of its batches."""
    if not isinstance(loader, DataLoader):
        return None, 0
    sampler, size = loader.sampler, 1
    batch_sampler = loader.batch_sampler
    if batch_sampler is not None:
        # One of the user's own may do anything with its sampler.
        if type(batch_sampler) is not BatchSampler:
            return None, 0
        sampler, size = batch_sampler.sampler, batch_sampler.batch_size
    return (sampler, size) if type(sampler) is ShuffledSampler else (None, 0)


def _check_had(there: int, batches: int) -> None:
    if there < batches:
        raise ValueError(
            f"the loader has {there} batches, of which {batches} are to be left out; resume with "
            "the dataset, the batch size and the seed of the saved run"
        )
