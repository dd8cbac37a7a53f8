"""Which checkpoints of a directory are the best ones, and which are kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hotloop.argument import check_count
from hotloop.checkpoint.manifest import Info
from hotloop.errors import unknown_name

__all__ = ["Retention"]

AnyInfo = TypeVar("AnyInfo", bound=Info)


@dataclass(frozen=True)
class Retention:
    """A rule for what is kept, which needs to know nothing but the manifests.

    Attributes:
        keep_last: How many of the newest are kept; None for all.
        keep_best: How many of the best are kept.
        metric: The metric by which they are compared; None to take those that were saved as
            the best, newest first.
        mode: "min" if a low value is good, "max" if a high one is.
        keep_every: Those whose step is a multiple of this are kept, too; None for none.

    Raises:
        ValueError: If a value is out of range.
    """

    keep_last: int | None = 3
    keep_best: int = 1
    metric: str | None = None
    mode: str = "min"
    keep_every: int | None = None

    def __post_init__(self) -> None:
        check_count("keep_last", self.keep_last, is_optional=True)
        check_count("keep_best", self.keep_best, 0)
        check_count("keep_every", self.keep_every, is_optional=True)
        if self.metric is not None and (not isinstance(self.metric, str) or not self.metric):
            raise ValueError(f"metric must be the name of a metric, or None, got {self.metric!r}")
        if self.mode not in ("min", "max"):
            raise ValueError(unknown_name("mode", str(self.mode), ("min", "max")))

    def best_first(self, manifests: Sequence[AnyInfo]) -> list[AnyInfo]:
        """Return those that can be the best: with a finite value of the metric, best first.

        Args:
            manifests: The checkpoints, newest first; of equally good ones the newer is better.
        """
        metric = self.metric
        if metric is None:
            return [manifest for manifest in manifests if manifest.is_best]
        sign = 1 if self.mode == "min" else -1
        measured = [m for m in manifests if math.isfinite(m.metrics.get(metric, math.nan))]
        return sorted(measured, key=lambda manifest: sign * manifest.metrics[metric])

    def kept(self, manifests: Sequence[Info], pinned: Collection[str]) -> set[str]:
        """Return the names of those that stay.

        They are the last ones, the best ones, those of every so many steps and the pinned
        ones; the newest and the best stay in any case.

        Args:
            manifests: The checkpoints, newest first.
            pinned: Names that stay.
        """
        if self.keep_last is None:
            return {manifest.name for manifest in manifests}
        stay = [
            *manifests[: self.keep_last],
            *self.best_first(manifests)[: max(self.keep_best, 1)],
            *(m for m in manifests if self.keep_every and m.step % self.keep_every == 0),
            *(m for m in manifests if m.name in pinned),
        ]
        return {manifest.name for manifest in stay}
