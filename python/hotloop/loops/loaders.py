"""The loaders of a run: made of datasets, and limited."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from hotloop.config import TrainingConfig
from hotloop.data import ShuffledSampler

__all__ = ["First", "length_of", "limited", "loaders_of"]


class First:
    """The first batches of a loader, each time.

    Args:
        loader: Yields batches.
        count: How many.
    """

    def __init__(self, loader: Iterable[Any], count: int) -> None:
        self.loader = loader
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        """Iterate over them."""
        return itertools.islice(self.loader, self.count)

    def __len__(self) -> int:
        """Return how many there are; TypeError if the loader does not tell its length."""
        return min(self.count, len(self.loader))  # type: ignore[arg-type]


def loaders_of(
    config: TrainingConfig, train: Any, val: Any
) -> tuple[Iterable[Any] | None, dict[str, Iterable[Any]]]:
    """Return the loader of the training, and those of the validation by prefix.

    Args:
        config: The batch size, the seed and the limits.
        train: A loader or a dataset; None for none.
        val: The same, or several by name.
    """
    train_loader = _loader(train, config, is_shuffled=True)
    if train_loader is not None:
        train_loader = limited(train_loader, config.limit_train_batches)
        if config.overfit_batches is not None:
            # The same batches each time, so that the model can learn them by heart.
            train_loader = list(limited(train_loader, config.overfit_batches))
            val = None if val is None else train_loader
    named = val if isinstance(val, Mapping) else {"": val}
    return train_loader, {
        f"val_{name}" if name else "val": limited(_loader(each, config), config.limit_val_batches)
        for name, each in named.items()
        if each is not None
    }


def _loader(data: Any, config: TrainingConfig, *, is_shuffled: bool = False) -> Any:
    if isinstance(data, DataLoader) or not isinstance(data, Dataset):
        return data
    is_shuffled = is_shuffled and not isinstance(data, IterableDataset)
    if is_shuffled and config.seed is not None:
        return DataLoader(data, config.batch_size, sampler=ShuffledSampler(data, config.seed))
    return DataLoader(data, config.batch_size, shuffle=is_shuffled)


def limited(loader: Iterable[Any], limit: int | float | None) -> Iterable[Any]:
    """Return the first batches of a loader.

    Args:
        loader: Yields batches.
        limit: How many, or as a float which fraction; None for all.

    Raises:
        ValueError: If a fraction is asked for, and the loader does not tell its length.
    """
    if limit is None:
        return loader
    if isinstance(limit, float):
        if not isinstance(loader, Sized):
            raise ValueError(
                f"a fraction of the batches, {limit!r}, needs their number, and the loader does "
                "not tell it; pass how many"
            )
        limit = max(1, round(limit * len(loader)))
    return First(loader, limit)


def length_of(loader: Iterable[Any] | None) -> int | None:
    """Return the number of batches; None if the loader does not tell."""
    if not isinstance(loader, Sized):
        return None
    # A loader over an iterable dataset has the method and no length.
    try:
        return len(loader)
    except TypeError:
        return None
