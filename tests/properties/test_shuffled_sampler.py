"""Properties of a shuffled order: a permutation, seekable, and as random as one drawn."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hotloop.data import ShuffledSampler, shuffled_sampler

Array = NDArray[np.int64]
SEEDS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 2**40)


def order(size: int, seed: int = 0, epoch: int = 0, start: int = 0) -> list[int]:
    sampler = ShuffledSampler(size, seed)
    sampler.set_epoch(epoch, start)
    return list(sampler)


@pytest.mark.parametrize("hundred", [0, 100, 200])
def test_each_index_comes_once_for_every_small_size(hundred: int) -> None:
    for size in range(hundred, hundred + 101):
        assert sorted(order(size, seed=size, epoch=3)) == list(range(size))


@pytest.mark.parametrize("size", [65535, 65536, 65537, 100_003, 131_073, 200_001])
def test_each_index_comes_once_for_large_sizes(size: int) -> None:
    indices = np.array(order(size, seed=1, epoch=2))
    assert np.array_equal(np.sort(indices), np.arange(size))


@given(size=st.integers(0, 3000), seed=SEEDS, epoch=EPOCHS)
@example(size=1, seed=0, epoch=0)
@example(size=2, seed=2**64 - 1, epoch=2**70)
def test_each_index_comes_once_for_any_seed_and_epoch(size: int, seed: int, epoch: int) -> None:
    assert sorted(order(size, seed, epoch)) == list(range(size))


@given(size=st.integers(0, 400), data=st.data(), seed=SEEDS, block=st.integers(1, 70))
def test_an_order_may_begin_anywhere(size: int, data: st.DataObject, seed: int, block: int) -> None:
    start = data.draw(st.integers(0, size))
    whole = order(size, seed, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffled_sampler, "_BLOCK", block)
        assert order(size, seed, 5, start) == whole[start:]


@pytest.mark.parametrize("start", [0, 1, 65535, 65536, 65537, 131_072, 149_999, 150_000])
def test_a_large_order_may_begin_anywhere(start: int) -> None:
    size = 150_000
    assert order(size, 1, 1, start) == order(size, 1, 1)[start:]


@given(
    size=st.integers(0, 60),
    replicas=st.integers(1, 9),
    drop_last=st.booleans(),
    seed=SEEDS,
    data=st.data(),
)
def test_replicas_are_dealt_an_order_in_turns(
    size: int, replicas: int, drop_last: bool, seed: int, data: st.DataObject
) -> None:
    whole = order(size, seed, 2)
    total = size // replicas * replicas if drop_last else -(-size // replicas) * replicas
    dealt = list(itertools.islice(itertools.cycle(whole), total)) if size else []
    for rank in range(replicas):
        sampler = ShuffledSampler(size, seed, rank=rank, num_replicas=replicas, drop_last=drop_last)
        expected = dealt[rank::replicas]
        assert len(sampler) == len(expected)
        start = data.draw(st.integers(0, len(sampler)))
        sampler.set_epoch(2, start)
        assert list(sampler) == expected[start:]
        assert len(sampler) == len(expected)


# An implementation in plain numbers


def words(seed: int, count: int) -> list[int]:
    found = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        word = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        found.append(word ^ word >> 31)
    return found


def plain_order(size: int, seed: int, epoch: int) -> list[int]:
    columns = math.ceil(math.sqrt(size))
    rows = math.ceil(size / columns)
    (start,) = words(seed, 1)
    (key,) = words((start + epoch) % 2**64, 1)
    shifts = words(key, 12 * columns)
    found = []
    for index in range(size):
        while True:
            row, column = divmod(index, columns)
            for turn in range(0, 12, 2):
                row = (row + shifts[turn * columns + column]) % rows
                column = (column + shifts[(turn + 1) * columns + row]) % columns
            index = row * columns + column
            if index < size:
                break
        found.append(index)
    return found


def test_words_are_those_of_the_published_generator() -> None:
    # The first outputs for the seed 1234567, as Rosetta Code and others print them.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert words(1234567, 5) == shuffled_sampler._random_words(1234567, 5).tolist() == expected


@given(size=st.integers(1, 500), seed=SEEDS, epoch=EPOCHS)
@example(size=100, seed=2**64 - 1, epoch=2**64 - 1)
def test_an_order_is_that_of_plain_numbers(size: int, seed: int, epoch: int) -> None:
    assert order(size, seed, epoch) == plain_order(size, seed, epoch)


@pytest.mark.parametrize(
    ("size", "seed", "epoch", "expected"),
    [
        (10, 0, 0, [7, 4, 3, 5, 8, 2, 9, 6, 1, 0]),
        (10, 0, 1, [8, 6, 1, 3, 5, 2, 9, 0, 7, 4]),
        (10, 1, 0, [8, 4, 0, 1, 9, 7, 3, 5, 2, 6]),
        (1000, 42, 7, [497, 255, 605, 155, 198, 164, 60, 18, 454, 199]),
        (1_281_167, 2**64 - 1, 90, [767061, 986723, 1142804, 238125, 760997, 765571]),
        (10**10, 5, 1, [9959250009, 3496220155, 5401323879, 1242814435, 2722600546]),
    ],
)
def test_orders_stay_what_they_are(size: int, seed: int, epoch: int, expected: list[int]) -> None:
    sampler = ShuffledSampler(size, seed)
    sampler.set_epoch(epoch)
    assert list(itertools.islice(sampler, len(expected))) == expected


# Randomness. The draws are fixed, so these hold or fail always; limits are 5 standard deviations.

COUNT = 2000


@pytest.fixture(scope="module", params=["epochs", "seeds"])
def orders(request: pytest.FixtureRequest) -> dict[int, Array]:
    """Return the orders of successive epochs or seeds, by size."""
    found = {}
    for size in (4, 5, 10, 16, 61):
        if request.param == "epochs":
            rows = [order(size, 7, index) for index in range(COUNT)]
        else:
            rows = [order(size, index, 7) for index in range(COUNT)]
        found[size] = np.array(rows)
    return found


def excess(counts: Array, cells: int) -> float:
    """Return by how many standard deviations chi-square exceeds its mean."""
    expected = counts.sum() / cells
    chi_square = ((counts - expected) ** 2).sum() / expected
    return float((chi_square - (cells - 1)) / math.sqrt(2 * (cells - 1)))


@pytest.mark.parametrize("size", [4, 5])
def test_all_permutations_come_equally_often(orders: dict[int, Array], size: int) -> None:
    counts = Counter(map(tuple, orders[size].tolist()))
    assert len(counts) == math.factorial(size)
    assert excess(np.array(list(counts.values())), math.factorial(size)) < 5


@pytest.mark.parametrize("size", [10, 16, 61])
def test_every_index_comes_everywhere_equally_often(orders: dict[int, Array], size: int) -> None:
    for column in orders[size].T:
        assert excess(np.bincount(column, minlength=size), size) < 5


@pytest.mark.parametrize("size", [10, 16])
def test_pairs_of_neighbours_come_equally_often(orders: dict[int, Array], size: int) -> None:
    found = orders[size]
    for first, second in itertools.pairwise(range(size)):
        counts = np.bincount(found[:, first] * size + found[:, second], minlength=size * size)
        of_others = counts.reshape(size, size)[~np.eye(size, dtype=bool)]
        assert excess(of_others, size * (size - 1)) < 5


@pytest.mark.parametrize("size", [10, 16])
def test_an_order_tells_nothing_of_the_next(orders: dict[int, Array], size: int) -> None:
    found = orders[size]
    for column in found.T:
        counts = np.bincount(column[:-1] * size + column[1:], minlength=size * size)
        assert excess(counts, size * size) < 5


@pytest.mark.parametrize("size", [10, 16, 61])
def test_orders_look_drawn(orders: dict[int, Array], size: int) -> None:
    found = orders[size]
    steps = np.diff(found, axis=1)
    # What is counted in an order of itself, of its neighbours, and of the order before it: the
    # number of places where it holds is 1 on average with a variance of 1, or nearly.
    fixed = (found == np.arange(size)).sum(axis=1)
    rising = (steps == 1).sum(axis=1) * size / (size - 1)
    falling = (steps == -1).sum(axis=1) * size / (size - 1)
    repeated = (found[1:] == found[:-1]).sum(axis=1)
    for counts in (fixed, rising, falling, repeated):
        assert abs(counts.mean() - 1) < 5 / math.sqrt(COUNT)
        assert abs(counts.var() - 1) < 0.15
    # Its neighbours are a third of the size apart.
    assert np.abs(steps).mean() == pytest.approx((size + 1) / 3, rel=0.01)
    centred = found - (size - 1) / 2
    together = (centred[1:] * centred[:-1]).sum(axis=1) / (centred[0] ** 2).sum()
    assert abs(together.mean()) < 5 / math.sqrt(COUNT * (size - 1))


@pytest.mark.parametrize("size", [100_003, 2**16, 317**2])
def test_a_large_order_looks_drawn(size: int) -> None:
    found = np.array(order(size, 3, 4))
    others = [np.array(order(size, seed, epoch)) for seed, epoch in ((3, 5), (4, 4), (4, 3))]
    limit = 5 / math.sqrt(size)
    assert np.abs(np.diff(found)).mean() == pytest.approx(size / 3, rel=0.02)
    columns = math.isqrt(size - 1) + 1
    for lag in (1, 2, columns - 1, columns, columns + 1, 2 * columns):
        assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < limit
        assert ((found[lag:] - found[:-lag]) == 1).sum() < 9
    for other in (np.arange(size), *others):
        assert abs(np.corrcoef(found, other)[0, 1]) < limit
        assert (found == other).sum() < 9
    # Where indices come, and their remainders, in a table of 64 x 64.
    places = np.arange(size) * 64 // size
    for kind in (found * 64 // size, found % 64, found % columns * 64 // columns):
        counts = np.bincount(places * 64 + kind, minlength=64 * 64)
        assert abs(excess(counts, 64 * 64)) < 5
