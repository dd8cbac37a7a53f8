"""Several metrics of the same predictions, which share what they count."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from hotloop.metrics.classification.class_counts import ClassCounts, Counts, count_class_scores
from hotloop.metrics.classification.class_metric import ClassMetric
from hotloop.metrics.metric import Metric
from hotloop.metrics.metric_state import load_state, state_of
from hotloop.rows import Rows, scan_rows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MetricCollection"]


class _Shared(NamedTuple):
    """Counters of several metrics, and their names."""

    counts: Counts
    names: list[str]


class _Readers(NamedTuple):
    """What reads rows of scores in one pass."""

    ignore_index: int | None
    #: Those of each list ignore the same.
    counters: list[list[ClassCounts]]
    #: Other metrics with `update_rows`.
    metrics: list[Any]
    #: Whether one of those needs likelihoods.
    needs_nll: bool


class MetricCollection(Mapping[str, Any]):
    """Metrics that are updated together.

    Metrics of classification with the same task, `ignore_index`, `top_k` and `threshold` share
    counters: a batch is counted once, whatever the number of metrics. Scores of shape (N, C) are
    read once, for those and for each other metric that has a method `update_rows(rows)`: it gets
    the `hotloop.rows.Rows` of the batch, in which `ignore_index`, if it has such an attribute, is
    left out. Likelihoods are computed for it unless it has an attribute `needs_nll` that is false.
    All others, such as those of torchmetrics, get `update(preds, target)`.

    It is a mapping from names to metrics, without prefix and postfix. A metric that shares
    counters gets them when it is looked up, and at `compute`: in between it holds what it got
    last, and what is counted into it alone is lost.

    Args:
        metrics: Metrics by name; or several, whose names are those of their classes. Those that
            share counters must not have counted anything.
        prefix: What is put before each name in the values.
        postfix: What is put behind it.

    Raises:
        TypeError: If something is no metric.
        ValueError: If two metrics have the same name, one has counted something, or two that
            share counters have different numbers of classes or labels.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any] | Iterable[Any],
        *,
        prefix: str = "",
        postfix: str = "",
    ) -> None:
        self.prefix = prefix
        self.postfix = postfix
        self._metrics = _named(metrics)
        self._shared = _share(self._metrics)
        self._holders = {name: shared for shared in self._shared for name in shared.names}
        own = [metric for name, metric in self._metrics.items() if name not in self._holders]
        counts = [shared.counts for shared in self._shared]
        self._readers = _readers_of(counts, own)
        self._counters = [each for each in counts if not isinstance(each, ClassCounts)]
        self._others = [metric for metric in own if not _reads_rows(metric)]

    def update(self, preds: Any, target: Any, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Predictions.
            target: What they should be.
            weight: A factor of at least 0 for each sample; None for metrics that know no weights.

        Raises:
            ValueError: If a metric does not take them. Others may have counted them then.
        """
        for ignore_index, counters, metrics, needs_nll in self._readers:
            is_scored = preds.is_floating_point()
            if metrics and is_scored and weight is None and preds.ndim == 2:
                rows = scan_rows(preds, target, ignore_index=ignore_index, nll=needs_nll)
                _update_rows(counters, metrics, rows)
                continue
            for group in counters:
                if is_scored:
                    count_class_scores(preds, target, weight, group)
                    continue
                for counter in group:
                    counter.update(preds, target, weight)
            for metric in metrics:
                _update(metric, preds, target, weight)
        for counts in self._counters:
            counts.update(preds, target, weight)
        for metric in self._others:
            _update(metric, preds, target, weight)

    def update_rows(self, rows: Rows) -> None:
        """Count a batch of scores that `scan_rows` or a loss has read.

        Args:
            rows: What was found, with the `ignore_index` of the metrics, and likelihoods if one
                of them needs those.

        Raises:
            ValueError: If there are metrics that need more than that. Nothing is counted then.
        """
        if self._counters or self._others:
            raise ValueError(f"not all metrics can be counted from rows of scores: {self}")
        for _, counters, metrics, _ in self._readers:
            _update_rows(counters, metrics, rows)

    def compute(self) -> dict[str, Any]:
        """Return the values over everything counted since the last `reset`, by full name.

        Where a metric's value is a mapping, each of its values is one, named NAME_KEY.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        values = {}
        for name, metric in self.items():
            value = metric.compute()
            parts = value if isinstance(value, Mapping) else {"": value}
            for key, part in parts.items():
                full = f"{name}_{key}" if key else name
                values[f"{self.prefix}{full}{self.postfix}"] = part
        return values

    def reset(self) -> None:
        """Forget everything counted."""
        for shared in self._shared:
            shared.counts.reset()
        for metric in self._metrics.values():
            metric.reset()

    def merge(self, other: Self) -> None:
        """Count what another collection has counted, which is left as it is.

        Args:
            other: A collection of metrics with the same names, classes and options.

        Raises:
            TypeError: If a metric has no method `merge`, as those of torchmetrics.
            ValueError: If it has other metrics. Nothing is counted then.
        """
        if (
            type(other) is not type(self)
            or list(other) != list(self)
            or not all(_is_like(each, other._metrics[name]) for name, each in self._metrics.items())
        ):
            raise ValueError(f"only a collection like {self} can be merged into it, got {other}")
        own = [name for name in self._metrics if name not in self._holders]
        for name in own:
            if not hasattr(self._metrics[name], "merge"):
                raise TypeError(f"metric {name!r} cannot be merged: it has no method merge")
        for shared, others in zip(self._shared, other._shared):
            shared.counts.add(others.counts.state)
        for name in own:
            self._metrics[name].merge(other._metrics[name])

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of what was counted, by name: the name of another for the same counters.

        Raises:
            TypeError: If a metric has no state to give.
        """
        states: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            shared = self._holders.get(name)
            if shared is None:
                states[name] = state_of(name, metric)
            elif name == shared.names[0]:
                states[name] = copy.deepcopy(shared.counts.state)
            else:
                states[name] = shared.names[0]
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` of a collection of the same metrics returned; it is copied.

        Raises:
            ValueError: If it has other metrics, or a metric does not take its state.
        """
        if set(state) != set(self._metrics):
            raise ValueError(
                f"the state must have the metrics {sorted(self._metrics)}, got {sorted(state)}"
            )
        for name in self._metrics:
            shared = self._holders.get(name)
            holder = None if shared is None or shared.names[0] == name else shared.names[0]
            given = state[name] if isinstance(state[name], str) else None
            if given != holder:
                raise ValueError(
                    f"the state of {name!r} must be that of {holder or name!r}, got {given!r}"
                )
        for name, metric in self._metrics.items():
            shared = self._holders.get(name)
            if shared is None:
                load_state(metric, state[name])
            elif name == shared.names[0]:
                shared.counts.state = copy.deepcopy(state[name])

    def clone(self, prefix: str | None = None, postfix: str | None = None) -> Self:
        """Return a copy that counts on its own.

        Args:
            prefix: Its prefix; None for the same.
            postfix: Its postfix; None for the same.
        """
        new = copy.deepcopy(self)
        new.prefix = self.prefix if prefix is None else prefix
        new.postfix = self.postfix if postfix is None else postfix
        return new

    def __getitem__(self, name: str) -> Any:
        metric = self._metrics[name]
        shared = self._holders.get(name)
        if shared is not None:
            metric.counts.take(shared.counts)
        return metric

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        return f"MetricCollection({self._metrics!r})"


def _named(metrics: Mapping[str, Any] | Iterable[Any]) -> dict[str, Any]:
    if isinstance(metrics, Mapping):
        named = dict(metrics)
    else:
        named = {}
        for metric in metrics:
            name = type(metric).__name__
            if name in named:
                raise ValueError(f"two metrics are named {name}; pass a dict with other names")
            named[name] = metric
    for name, metric in named.items():
        if isinstance(metric, MetricCollection):
            raise TypeError(f"metric {name!r} is a MetricCollection; pass its metrics")
        if not all(hasattr(metric, method) for method in ("update", "compute", "reset")):
            raise TypeError(
                f"metric {name!r} must have the methods update, compute and reset, got "
                f"{type(metric).__name__}"
            )
    return named


def _share(metrics: Mapping[str, Any]) -> list[_Shared]:
    """Return one set of counters for all metrics that can use the same."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, metric in metrics.items():
        # A subclass may count otherwise, and wants to be asked then.
        if (
            isinstance(metric, ClassMetric)
            and type(metric).update is ClassMetric.update
            and type(metric).update_rows is ClassMetric.update_rows
        ):
            if metric.counts.counts is not None:
                raise ValueError(
                    f"metric {name!r} has counted something; reset it before it shares counters"
                )
            groups.setdefault(metric.counts.key, []).append(name)
    return [
        _Shared(metrics[names[0]].counts.joined([metrics[name].counts for name in names]), names)
        for names in groups.values()
    ]


def _reads_rows(metric: Any) -> bool:
    # One of classification that shares no counters has an update of its own.
    return hasattr(metric, "update_rows") and not isinstance(metric, ClassMetric)


def _readers_of(counts: Iterable[Counts], own: Iterable[Any]) -> list[_Readers]:
    """Return what reads rows of scores, grouped by the index that it ignores."""
    counters: dict[int | None, list[ClassCounts]] = {}
    metrics: dict[int | None, list[Any]] = {}
    for each in counts:
        if isinstance(each, ClassCounts):
            counters.setdefault(each.ignore_index, []).append(each)
    for metric in own:
        if _reads_rows(metric):
            metrics.setdefault(getattr(metric, "ignore_index", None), []).append(metric)
    passes = {index: [group] for index, group in counters.items()}
    # No class is negative: rows without such a target serve those that ignore nothing, too.
    negative = [index for index in metrics if index is not None and index < 0]
    if negative and None not in metrics and None in passes:
        passes.setdefault(negative[0], []).extend(passes.pop(None))
    return [
        _Readers(
            index,
            passes.get(index, []),
            metrics.get(index, []),
            any(getattr(metric, "needs_nll", True) for metric in metrics.get(index, [])),
        )
        for index in dict.fromkeys((*passes, *metrics))
    ]


def _update_rows(
    counters: Iterable[Iterable[ClassCounts]], metrics: Iterable[Any], rows: Rows
) -> None:
    for group in counters:
        for counter in group:
            counter.update_rows(rows)
    for metric in metrics:
        metric.update_rows(rows)


def _update(metric: Any, preds: Any, target: Any, weight: Tensor | None) -> None:
    if weight is None:
        metric.update(preds, target)
    else:
        metric.update(preds, target, weight)


def _is_like(metric: Any, other: Any) -> bool:
    if type(metric) is not type(other):
        return False
    return not isinstance(metric, Metric) or metric._options() == other._options()
