"""Loaders that go on within an epoch: the sampler's interface, generators, skipped batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from hotloop.data import ShuffledSampler, generators_of, skip
from hotloop.testing import assert_state_roundtrip


class Counted(Dataset[Tensor]):
    """Ten numbers, and which of them were loaded."""

    def __init__(self, size: int = 10) -> None:
        self.loaded: list[int] = []
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Tensor:
        self.loaded.append(index)
        return torch.tensor(index)


def lists(batches: Any) -> list[Any]:
    return [batch.tolist() for batch in batches]


# ShuffledSampler


def test_a_sampler_goes_over_a_dataset_or_a_size() -> None:
    sampler = ShuffledSampler(Counted(), 3)
    assert (sampler.size, sampler.seed, sampler.epoch, sampler.start) == (10, 3, 0, 0)
    assert list(sampler) == list(ShuffledSampler(10, 3)) != list(range(10))


def test_an_epoch_has_its_order_until_another_one_is_set() -> None:
    sampler = ShuffledSampler(20)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first
    other = list(ShuffledSampler(20, 1))
    assert len({tuple(each) for each in (first, second, other)}) == 3


def test_a_start_counts_once_and_the_length_is_that_of_the_epoch() -> None:
    sampler = ShuffledSampler(20)
    whole = list(sampler)
    sampler.set_epoch(0, 7)
    assert (sampler.start, len(sampler)) == (7, 20)
    assert list(sampler) == whole[7:]
    assert sampler.start == 0
    assert list(sampler) == whole
    sampler.set_epoch(0, 20)
    assert list(sampler) == []
    sampler.set_epoch(0, 7)
    sampler.set_epoch(0)
    assert list(sampler) == whole


def test_iterations_do_not_meddle_with_each_other() -> None:
    sampler = ShuffledSampler(20)
    sampler.set_epoch(1)
    expected = list(sampler)
    first = iter(sampler)
    sampler.set_epoch(2, 5)
    second = iter(sampler)
    assert list(first) == expected
    sampler.set_epoch(2)
    assert list(second) == list(sampler)[5:]


def test_a_sampler_goes_on_from_its_state() -> None:
    first, second = ShuffledSampler(20, 4), ShuffledSampler(20, 4)
    first.set_epoch(3, 8)
    state = first.state_dict()
    assert state == {"seed": 4, "size": 20, "num_replicas": 1, "epoch": 3, "start": 8}
    assert_state_roundtrip(first, second)
    expected = list(first)
    assert len(expected) == 12
    assert list(second) == expected


def test_a_state_is_for_any_rank() -> None:
    first, second = (ShuffledSampler(20, 4, rank=rank, num_replicas=2) for rank in (0, 1))
    second.set_epoch(3)
    whole = list(second)
    first.set_epoch(3, 4)
    second.load_state_dict(first.state_dict())
    assert list(second) == whole[4:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 21}, "the state is of a sampler with size=21, and this one has 20"),
        ({"seed": 5}, "the state is of a sampler with seed=5, and this one has 4"),
        ({"num_replicas": 2}, "the state is of a sampler with num_replicas=2, and this one has 1"),
        ({"epoch": -1}, "epoch must be an int of at least 0, got -1"),
        ({"start": 21}, "start must be at most the 20 samples of an epoch, got 21"),
        (
            {"more": 1},
            "state must have the keys ['seed', 'size', 'num_replicas', 'epoch', 'start']",
        ),
    ],
)
def test_another_state_changes_nothing(change: dict[str, Any], message: str) -> None:
    sampler = ShuffledSampler(20, 4)
    sampler.set_epoch(1, 2)
    before = sampler.state_dict()
    other = ShuffledSampler(20, 4)
    other.set_epoch(3, 8)
    with pytest.raises(ValueError, match=re.escape(message)):
        sampler.load_state_dict({**other.state_dict(), **change})
    assert sampler.state_dict() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShuffledSampler(-1), "the size of the dataset must be an int of at least 0, got"),
        (lambda: ShuffledSampler(True), "the size of the dataset must be an int .* got True"),
        (lambda: ShuffledSampler(9, -1), "seed must be an int of at least 0, got -1"),
        (
            lambda: ShuffledSampler(9, 2**64),
            r"seed must be below 2\*\*64, got 18446744073709551616",
        ),
        (lambda: ShuffledSampler(9, num_replicas=0), "num_replicas must be a positive int, got 0"),
        (lambda: ShuffledSampler(9, rank=-1), "rank must be an int of at least 0, got -1"),
        (lambda: ShuffledSampler(9, rank=1), "rank must be less than num_replicas=1, got 1"),
        (lambda: ShuffledSampler(9).set_epoch(0.0), "epoch must be an int of at least 0, got 0.0"),  # type: ignore[arg-type]
        (lambda: ShuffledSampler(9).set_epoch(0, -1), "start must be an int of at least 0, got -1"),
        (lambda: ShuffledSampler(9).set_epoch(0, 10), "start must be at most the 9 samples of an"),
    ],
)
def test_arguments_of_a_sampler_are_checked(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# generators_of


def generator() -> torch.Generator:
    return torch.Generator()


def loader_of_one(one: torch.Generator) -> Any:
    return DataLoader(Counted(), 3, shuffle=True, generator=one)


def loader_of_two(one: torch.Generator, two: torch.Generator) -> Any:
    return DataLoader(Counted(), 3, sampler=RandomSampler(Counted(), generator=two), generator=one)


def loader_of_batches(one: torch.Generator) -> Any:
    sampler = SubsetRandomSampler([1, 2, 3], generator=one)
    return DataLoader(Counted(), batch_sampler=BatchSampler(sampler, 2, False))


class Nested:
    """A batch sampler of the user's own, whose sampler has a sampler; it refers to itself."""

    def __init__(self, one: torch.Generator, two: torch.Generator, three: torch.Generator) -> None:
        self.generator = one
        self.sampler = RandomSampler(Counted(), generator=two)
        self.sampler.batch_sampler = self  # type: ignore[attr-defined]
        self.sampler.sampler = RandomSampler(Counted(), generator=three)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[list[int]]:
        yield [0]


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (loader_of_one, 1),
        (loader_of_two, 2),
        (loader_of_batches, 1),
        (lambda *each: DataLoader(Counted(), batch_sampler=Nested(*each)), 3),
    ],
)
def test_the_generators_of_a_loader(make: Callable[..., Any], count: int) -> None:
    generators = [generator() for _ in range(count)]
    found = generators_of(make(*generators))
    assert [id(each) for each in found] == [id(each) for each in generators]


def test_the_order_of_generators_is_by_where_they_are() -> None:
    one, two, three = (generator() for _ in range(3))
    loader = SimpleNamespace(
        batch_sampler=RandomSampler(Counted(), generator=three),
        sampler=RandomSampler(Counted(), generator=two),
        generator=one,
    )
    assert [id(each) for each in generators_of(loader)] == [id(each) for each in (one, two, three)]


@pytest.mark.parametrize(
    "loader",
    [[1, 2], iter([1]), None, DataLoader(Counted(), 3), DataLoader(Counted(), 3, shuffle=True)],
    ids=["list", "iterator", "none", "in order", "of the global generator"],
)
def test_loaders_without_generators_of_their_own(loader: Any) -> None:
    assert generators_of(loader) == []


def test_what_is_called_generator_and_is_none_is_left_out() -> None:
    class Loader:
        generator = "of text"
        sampler = None

    assert generators_of(Loader()) == []


# skip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_loader_goes_on_behind_any_batch(workers: int) -> None:
    sampler = ShuffledSampler(10, 5)
    dataset = TensorDataset(torch.arange(10), torch.arange(10) * 2)
    loader = DataLoader(dataset, 3, sampler=sampler, num_workers=workers)
    wholes = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        whole = [[part.tolist() for part in batch] for batch in loader]
        assert len(whole) == len(loader) == 4
        for behind in range(5):
            sampler.set_epoch(epoch)
            rest = [[part.tolist() for part in batch] for batch in skip(loader, behind)]
            assert rest == whole[behind:]
            assert len(loader) == 4
        wholes.append(whole)
    assert wholes[0] != wholes[1]
    other = DataLoader(dataset, 3, sampler=ShuffledSampler(10, 6), num_workers=workers)
    assert [[part.tolist() for part in batch] for batch in other] not in wholes


def shuffled(dataset: Any, **options: Any) -> Any:
    return DataLoader(dataset, 3, sampler=ShuffledSampler(len(dataset), 5), **options)


def batch_sampled(dataset: Any) -> Any:
    batches = BatchSampler(ShuffledSampler(len(dataset), 5), 3, False)
    return DataLoader(dataset, batch_sampler=batches)


def unbatched(dataset: Any) -> Any:
    return DataLoader(dataset, None, sampler=ShuffledSampler(len(dataset), 5))


class OwnBatchSampler(BatchSampler):
    """Yields the batches of another one backwards."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from reversed(list(super().__iter__()))


class OwnSampler(ShuffledSampler):
    """Yields the indices of another one backwards."""

    def __iter__(self) -> Iterator[int]:
        yield from reversed(list(super().__iter__()))


def own_batch_sampled(dataset: Any) -> Any:
    batches = OwnBatchSampler(ShuffledSampler(len(dataset), 5), 3, False)
    return DataLoader(dataset, batch_sampler=batches)


def own_sampled(dataset: Any) -> Any:
    return DataLoader(dataset, 3, sampler=OwnSampler(len(dataset), 5))


def in_order(dataset: Any) -> Any:
    return DataLoader(dataset, 3, sampler=SequentialSampler(dataset))


DIRECT = [shuffled, batch_sampled, unbatched, lambda dataset: shuffled(dataset, drop_last=True)]
REPLAYED = [own_batch_sampled, own_sampled, in_order]


@pytest.mark.parametrize("make", [*DIRECT, *REPLAYED])
@pytest.mark.parametrize("size", [9, 10])
def test_the_rest_is_that_of_the_whole(make: Callable[[Any], Any], size: int) -> None:
    loader = make(Counted(size))
    whole = lists(loader)
    assert len(whole) == len(loader)
    for behind in range(len(whole) + 1):
        assert lists(skip(loader, behind)) == whole[behind:]
        # It leaves nothing behind.
        assert lists(loader) == whole


@pytest.mark.parametrize("make", DIRECT)
def test_a_shuffled_loader_loads_the_rest_alone(make: Callable[[Any], Any]) -> None:
    dataset = Counted()
    loader = make(dataset)
    whole = list(loader)
    dataset.loaded.clear()
    rest = lists(skip(loader, 2))
    assert rest == lists(whole[2:])
    assert dataset.loaded == [int(index) for batch in whole[2:] for index in batch.reshape(-1)]


def test_batches_are_counted_from_the_begin_of_the_epoch() -> None:
    loader = shuffled(Counted())
    whole = lists(loader)
    for behind in (0, 1):
        loader.sampler.set_epoch(0, 5)
        assert lists(skip(loader, behind)) == whole[behind:]


@pytest.mark.parametrize("make", REPLAYED)
def test_another_loader_loads_all(make: Callable[[Any], Any]) -> None:
    dataset = Counted()
    assert len(lists(skip(make(dataset), 2))) == 2
    assert sorted(dataset.loaded) == list(range(10))


def test_a_loader_of_a_generator_draws_the_same_order_again() -> None:
    own = generator().manual_seed(1)
    loader = loader_of_one(own)
    state = own.get_state()
    whole = lists(loader)
    own.set_state(state)
    assert lists(skip(loader, 2)) == whole[2:]
    # An order further on, which is that of the next epoch.
    after = own.get_state()
    own.set_state(state)
    lists(loader)
    assert torch.equal(own.get_state(), after)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(7))


@pytest.mark.parametrize(
    "make",
    [lambda: list(range(7)), lambda: iter(range(7)), lambda: DataLoader(Stream(), None)],
    ids=["list", "iterator", "stream"],
)
def test_any_iterable_is_drawn_from(make: Callable[[], Any]) -> None:
    assert list(skip(make(), 3)) == [3, 4, 5, 6]
    assert list(skip(make(), 0)) == list(range(7))
    assert list(skip(make(), 7)) == []
    with pytest.raises(ValueError, match="the loader has 7 batches, of which 9 are to be left out"):
        skip(make(), 9)


@pytest.mark.parametrize("make", [shuffled, in_order])
def test_a_loader_that_is_too_short(make: Callable[[Any], Any]) -> None:
    loader = make(Counted())
    message = (
        "the loader has 4 batches, of which 5 are to be left out; resume with the dataset, the "
        "batch size and the seed of the saved run"
    )
    with pytest.raises(ValueError, match=message):
        skip(loader, 5)
    assert len(lists(loader)) == 4


@pytest.mark.parametrize("batches", [-1, 1.0, True])
def test_batches_are_counted_in_ints(batches: Any) -> None:
    with pytest.raises(ValueError, match=f"batches must be an int of at least 0, got {batches}"):
        skip([1], batches)


def test_a_loader_is_iterated_once_either_way() -> None:
    # Each iteration draws a seed for workers from the generator of the loader.
    states = []
    for make in (shuffled, in_order):
        for behind in (0, 2):
            torch.manual_seed(3)
            list(skip(make(Counted()), behind))
            states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)
