"""A shuffled order that is computed index by index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from hotloop.argument import check_count

__all__ = ["ShuffledSampler"]

#: Indices that are computed at once: the calls then cost little, and the arrays stay in the cache.
_BLOCK = 65536
#: With 8, neighbours stay neighbours by 2% more often than by chance; with 12 nothing is seen.
_ROUNDS = 12


class ShuffledSampler(Sampler[int]):
    """Draws each index of a dataset once, in an order of its own for each epoch.

    The order is a function of seed, epoch and size alone, the same on every machine. It is not
    held in memory and may begin anywhere at no cost, so a run that is resumed within an epoch goes
    on behind the samples that it has had. It does not advance by itself: call `set_epoch` before
    each epoch, as `Trainer` does.

    Among several replicas the order is dealt out in turns, as torch's DistributedSampler does.

    Args:
        dataset: What to draw from, or its size.
        seed: Makes another order for each value.
        rank: The replica that this sampler is for.
        num_replicas: How many there are.
        drop_last: Whether the end of an order that cannot be dealt out evenly is left out. Else
            its first indices are dealt out again.

    Attributes:
        size: The size of the dataset.
        seed: As above.
        epoch: What `set_epoch` set.
        start: Where the next iteration begins.

    Raises:
        ValueError: If a number is no int, or out of range.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Sized | int,
        seed: int = 0,
        *,
        rank: int = 0,
        num_replicas: int = 1,
        drop_last: bool = False,
    ) -> None:
        size = dataset if isinstance(dataset, int) else len(dataset)  # type: ignore[arg-type]
        check_count("the size of the dataset", size, 0)
        check_count("seed", seed, 0)
        if seed >= 2**64:
            raise ValueError(f"seed must be below 2**64, got {seed!r}")
        check_count("num_replicas", num_replicas)
        check_count("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(f"rank must be less than num_replicas={num_replicas}, got {rank!r}")
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self._rank = rank
        self._replicas = num_replicas
        self._length = size // num_replicas if drop_last else -(-size // num_replicas)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the order, and where in it the next iteration begins.

        Args:
            epoch: Makes another order for each value.
            start: How many samples of that epoch this replica has had; iterations after the next
                one begin at 0 again.

        Raises:
            ValueError: If one is no int of at least 0, or `start` is beyond the end.
        """
        check_count("epoch", epoch, 0)
        check_count("start", start, 0)
        if start > self._length:
            raise ValueError(
                f"start must be at most the {self._length} samples of an epoch, got {start!r}"
            )
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices of the epoch, from `start` on."""
        start, self.start = self.start, 0
        return self._iterate(self.epoch, start)

    def __len__(self) -> int:
        """Return the number of samples of a whole epoch."""
        return self._length

    def state_dict(self) -> dict[str, Any]:
        """Return "seed", "size", "num_replicas", "epoch" and "start"."""
        return {
            "seed": self.seed,
            "size": self.size,
            "num_replicas": self._replicas,
            "epoch": self.epoch,
            "start": self.start,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: Of a sampler of the same size, seed and number of replicas, of any rank.

        Raises:
            ValueError: If it is of another one. Nothing is changed then.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise ValueError(f"state must have the keys {list(own)}, got {list(state)}")
        for name in ("seed", "size", "num_replicas"):
            if state[name] != own[name]:
                raise ValueError(
                    f"the state is of a sampler with {name}={state[name]!r}, and this one has "
                    f"{own[name]!r}"
                )
        self.set_epoch(state["epoch"], state["start"])

    def _iterate(self, epoch: int, start: int) -> Iterator[int]:
        if start == self._length:
            return
        order = _Order(self.size, self.seed, epoch)
        for begin in range(start, self._length, _BLOCK):
            turns = np.arange(begin, min(begin + _BLOCK, self._length), dtype=np.int64)
            yield from order.at((turns * self._replicas + self._rank) % self.size).tolist()


class _Order:
    """The order of an epoch.

    An unbalanced Feistel network with cycle walking: Black and Rogaway, "Ciphers with Arbitrary
    Finite Domains", CT-RSA 2002. Positions are cells of a grid that is hardly larger than the size.
    The rounds rotate every column and every row in turns, each by a random number of its own; what
    comes out beyond the size goes through again.
    """

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self._size = size
        self._columns = math.isqrt(size - 1) + 1
        self._rows = -(-size // self._columns)
        key = int(_random_words(int(_random_words(seed, 1)[0]) + epoch, 1)[0])
        shifts = _random_words(key, _ROUNDS * self._columns).reshape(_ROUNDS, self._columns)
        shifts[0::2] %= np.uint64(self._rows)
        shifts[1::2] %= np.uint64(self._columns)
        self._shifts = shifts.view(np.int64)

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices at positions."""
        indices = self._moved(positions)
        outside = np.flatnonzero(indices >= self._size)
        while len(outside):
            indices[outside] = self._moved(indices[outside])
            outside = outside[indices[outside] >= self._size]
        return indices

    def _moved(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        row = cells // self._columns
        column = cells - row * self._columns
        shift = np.empty_like(cells)
        for index, shifts in enumerate(self._shifts):
            by, moved, count = (
                (column, row, self._rows) if index % 2 == 0 else (row, column, self._columns)
            )
            # Clipping clips nothing here, and saves a copy.
            np.take(shifts, by, out=shift, mode="clip")
            moved += shift
            # Modulo the count: what must not be subtracted wraps around to a large number.
            wrapped = moved.view(np.uint64)
            np.minimum(wrapped, wrapped - np.uint64(count), out=wrapped)
        row *= self._columns
        row += column
        return row


def _random_words(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first words of a SplitMix64 generator.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    words = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words += np.uint64(seed % 2**64)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
