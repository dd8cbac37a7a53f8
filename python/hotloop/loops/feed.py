"""The training batches of each epoch, from any of them on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from hotloop.checkpoint import random_state, set_random_state
from hotloop.data import skip
from hotloop.loops.loaders import First

__all__ = ["Feed"]


class Feed:
    """Yields the batches of an epoch, also behind those that it has had.

    The order of an epoch is drawn from random generators when a loader is iterated. So their
    states at that moment are kept: a run that goes on draws the same order, leaves out the
    batches that it has had, and gives the generators back the states of the moment at which
    the run was saved. A loader with a `state_dict` of its own goes on by that.

    Samplers and datasets with a `set_epoch` are told the epoch.

    Args:
        loader: Yields batches, anew for each epoch.
        generators: Generators beside the global ones that batches are drawn with.

    Attributes:
        left_out: Batches that nobody gets, as pairs of epoch and index.
    """

    def __init__(self, loader: Iterable[Any], generators: Sequence[torch.Generator] = ()) -> None:
        self.left_out: set[tuple[int, int]] = set()
        self._loader, self._count = loader, None
        if isinstance(loader, First):
            self._loader, self._count = loader.loader, loader.count
        self._generators = generators
        #: The generators before the order of an epoch was drawn, and which epoch that was.
        self._began: Mapping[str, Any] | None = None
        self._epoch = -1
        self._loader_state: Any = None
        self._now: Mapping[str, Any] | None = None

    @property
    def has_workers(self) -> bool:
        """Whether processes of their own load the batches, and draw no numbers of this one."""
        return bool(getattr(self._loader, "num_workers", 0))

    def batches(
        self,
        epoch: int,
        behind: int,
        pass_over: Callable[[], None],
        check: Callable[[], None] | None = None,
    ) -> Iterable[Any]:
        """Return the batches of an epoch.

        Args:
            epoch: Its index, from 0.
            behind: How many of its batches it has had.
            pass_over: Called for each batch that is left out.
            check: Called while those before are passed over; may raise.

        Raises:
            ValueError: If the loader has fewer batches than the epoch has had.
        """
        _set_epoch(self._loader, epoch)
        if self._loader_state is not None:
            self._loader.load_state_dict(self._loader_state)  # type: ignore[attr-defined]
            self._loader_state = None
            rest: Iterable[Any] = self._loader
        elif self._epoch == epoch and self._began is not None and (behind or self.has_workers):
            # Worker processes have drawn as soon as there are any, before the first batch.
            now = self.random_state()
            set_random_state(self._began, self._generators)
            try:
                rest = skip(self._loader, behind, check)
            finally:
                set_random_state(now, self._generators)
        else:
            self._began, self._epoch = self.random_state(), epoch
            rest = self._loader
        if self._count is not None:
            rest = itertools.islice(rest, self._count - behind)
        if not self.left_out:
            return rest
        return self._filtered(rest, epoch, behind, pass_over)

    def _filtered(
        self, batches: Iterable[Any], epoch: int, behind: int, pass_over: Callable[[], None]
    ) -> Iterator[Any]:
        for index, batch in enumerate(batches, behind):
            if (epoch, index) in self.left_out:
                pass_over()
            else:
                yield batch

    def random_state(self) -> dict[str, Any]:
        """Return the states of the global generators and of those of the batches."""
        return random_state(self._generators)

    def set_random_state(self, state: Mapping[str, Any]) -> None:
        """Go back to the states of `random_state`."""
        set_random_state(state, self._generators)

    def rewind(self) -> bool:
        """Set the generators as `load_state_dict` did, whatever has drawn from them since.

        Returns:
            Whether there was a state; it is used once.
        """
        now, self._now = self._now, None
        if now is not None:
            self.set_random_state(now)
        return now is not None

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on with the next batch."""
        loader: Any = None
        if hasattr(self._loader, "state_dict") and hasattr(self._loader, "load_state_dict"):
            loader = self._loader.state_dict()
        return {
            "now": self.random_state(),
            "began": self._began,
            "epoch": self._epoch,
            "loader": loader,
            "left_out": sorted(self.left_out),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the generators go on at once.

        Raises:
            ValueError: If the state is of another loader, or of other generators.
        """
        has_state = hasattr(self._loader, "load_state_dict")
        if (state["loader"] is not None) != has_state:
            raise ValueError(
                "the state is of a loader with a state_dict and this one has none, or the other "
                "way round; resume with the same kind of loader"
            )
        self.set_random_state(state["now"])
        self._now = state["now"]
        self._began, self._epoch = state["began"], state["epoch"]
        self._loader_state = state["loader"]
        self.left_out = {(epoch, batch) for epoch, batch in state["left_out"]}


def _set_epoch(loader: Any, epoch: int) -> None:
    batch_sampler = getattr(loader, "batch_sampler", None)
    told: list[Any] = []
    parts: tuple[Any, ...] = (
        loader,
        getattr(loader, "dataset", None),
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    for part in parts:
        if hasattr(part, "set_epoch") and not any(part is other for other in told):
            part.set_epoch(epoch)
            told.append(part)
