"""A quantile of values, from counts in buckets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hotloop import backend
from hotloop.metrics.aggregation.aggregator import FLOATS, Aggregator, plain_floats
from hotloop.metrics.metric import State

__all__ = ["Quantile"]

#: The normal positive numbers; smaller ones count as 0.
_LEAST, _GREATEST = torch.finfo(torch.float64).tiny, torch.finfo(torch.float64).max
#: The cubic polynomial that stands for the logarithm in an octave.
_CUBIC = (6 / 35, -3 / 5, 10 / 7)
#: The counters of what is in no bucket: `Other` in shared/training/metrics/quantile_sketch.mojo.
_ZERO, _NEGATIVE_INFINITY, _INFINITY, _NAN = range(4)
_SIGNS = ("positive", "negative")


class Quantile(Aggregator):
    """A quantile of values, such as their median; in the range of the values.

        sorted(x)[floor(q (n - 1))]

    of n values x, in ascending order, with an error of at most `relative_accuracy` times its size.
    numpy names this quantile the method "lower". Values of a size below 2.2e-308 count as 0.

    The sketch is DDSketch (Masson, Rim and Lee, 2019, arXiv:1908.10693). A bucket holds the values
    from one number to at most gamma times it, gamma = (1 + relative_accuracy) / (1 -
    relative_accuracy), and stands for the number that is equally far from both ends, in relative
    terms. Only counts are kept, and buckets are never joined, so that every split and every order
    of merges gives the same value, to the bit. There are 8 bytes for each bucket between the least
    and the greatest value of a sign: with an accuracy of 0.01, 350 buckets for values within a
    factor of 1000, and 72,000 for each sign if the values span all of float64. In each octave a
    cubic polynomial stands for the logarithm, as in the authors' library: it takes 1 % more
    buckets, and no function that differs between machines.

    Args:
        q: Which part of the values are smaller, in [0, 1]; 0.5 for the median.
        relative_accuracy: The largest relative error, in [0.0001, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, q: float = 0.5, relative_accuracy: float = 0.01) -> None:
        _check_part(q)
        if not 1e-4 <= relative_accuracy < 1:
            raise ValueError(
                f"relative_accuracy must be at least 0.0001 and below 1, got {relative_accuracy!r}"
            )
        self.q = q
        self.relative_accuracy = relative_accuracy
        # Where the polynomial rises least, at the start of an octave, by 1 / 0.7 for each ln(x),
        # a bucket is as wide as gamma allows.
        log_gamma = math.log1p(relative_accuracy) - math.log1p(-relative_accuracy)
        self._buckets_per_octave = 0.7 / log_gamma
        # Where the kernel writes which buckets it needs.
        self._needed = torch.zeros(4, dtype=torch.int64)
        super().__init__()

    def _initial(self) -> State:
        none = torch.zeros(0, dtype=torch.int64)
        return {
            "positive": none,
            "positive_first": 0,
            "negative": none,
            "negative_first": 0,
            "others": torch.zeros(4, dtype=torch.int64),
        }

    def update(self, value: Tensor | float, weight: None = None) -> None:  # type: ignore[override]
        """Count values.

        Args:
            value: A number, or a tensor of any shape and real dtype.
            weight: None: values are counted, not weighed.

        Raises:
            ValueError: If there are weights. Nothing is counted then.
        """
        if weight is not None:
            raise ValueError("Quantile takes no weights; leave weight at None")
        values = plain_floats(value)
        kernels = backend.kernels_for(values)
        if kernels is None or not self._state["others"].is_cpu:
            self._count(values.flatten().to(torch.float64))
            return
        while not kernels.count_values(
            values.data_ptr(),
            FLOATS[values.dtype],
            values.numel(),
            self._buckets_per_octave,
            *self._words(),
            self._needed.data_ptr(),
        ):
            first, last, negative_first, negative_last = self._needed.tolist()
            self._widen("positive", first, last)
            self._widen("negative", negative_first, negative_last)

    def compute(self) -> float:
        """Return the value; it is NaN if one of the values is.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        return self.value_at(self.q)

    def value_at(self, q: float) -> float:
        """Return what `compute` does for another part of the values.

        Args:
            q: The part, in [0, 1].

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If `q` is out of range.
        """
        _check_part(q)
        state = self._state
        others = state["others"].tolist()
        positive, negative = state["positive"].cpu(), state["negative"].cpu()
        below = [others[_NEGATIVE_INFINITY], int(negative.sum()), others[_ZERO]]
        count = sum(below) + int(positive.sum()) + others[_INFINITY]
        if count + others[_NAN] == 0:
            raise self._empty()
        if others[_NAN]:
            return math.nan
        place = math.floor(q * (count - 1))
        if place < below[0]:
            return -math.inf
        place -= below[0]
        if place < below[1]:
            # The largest magnitude comes first.
            index = _index_of(below[1] - 1 - place, negative)
            return -self._middle(index + state["negative_first"])
        place -= below[1]
        if place < below[2]:
            return 0.0
        place -= below[2]
        if place >= count - sum(below) - others[_INFINITY]:
            return math.inf
        return self._middle(_index_of(place, positive) + state["positive_first"])

    def _combine(self, other: State) -> None:
        state = self._state
        state["others"] = state["others"].to(other["others"].device) + other["others"]
        for sign in _SIGNS:
            counts, first = other[sign], other[f"{sign}_first"]
            self._widen(sign, first, first + len(counts) - 1)
            start = first - state[f"{sign}_first"]
            merged = state[sign].to(counts.device, copy=True)
            merged[start : start + len(counts)] += counts
            state[sign] = merged

    def _words(self) -> tuple[int, ...]:
        state = self._state
        words = [state["others"].data_ptr()]
        for sign in _SIGNS:
            words += [state[sign].data_ptr(), state[f"{sign}_first"], len(state[sign])]
        return tuple(words)

    def _widen(self, sign: str, first: int, last: int) -> None:
        """Make room for the buckets from `first` to `last`; none if that is before `first`."""
        counts, start = self._state[sign], self._state[f"{sign}_first"]
        end = start + len(counts) - 1
        if last < first or (len(counts) and start <= first and last <= end):
            return
        if len(counts):
            first, last = min(first, start), max(last, end)
        wider = counts.new_zeros(last - first + 1)
        if len(counts):
            wider[start - first : start - first + len(counts)] = counts
        self._state[sign], self._state[f"{sign}_first"] = wider, first

    def _count(self, values: Tensor) -> None:
        """Count values with torch's operators."""
        state = self._state
        size = values.abs()
        is_in_bucket = (size >= _LEAST) & (size <= _GREATEST)
        others = (size < _LEAST, values == -torch.inf, values == torch.inf, values.isnan())
        state["others"] = state["others"].to(values.device)
        state["others"] += torch.stack([kind.sum() for kind in others])
        buckets = _buckets_of(torch.where(is_in_bucket, size, 1.0), self._buckets_per_octave)
        for sign, is_chosen in zip(
            _SIGNS, (is_in_bucket & (values > 0), is_in_bucket & (values < 0))
        ):
            if values.is_cuda:
                # Room for all: whether there is enough would have to be waited for.
                ends = torch.tensor([_LEAST, _GREATEST], dtype=torch.float64)
                self._widen(sign, *_buckets_of(ends, self._buckets_per_octave).tolist())
                state[sign] = state[sign].to(values.device)
                chosen, amounts = buckets, is_chosen.to(torch.int64)
            else:
                chosen = buckets[is_chosen]
                if len(chosen) == 0:
                    continue
                self._widen(sign, int(chosen.min()), int(chosen.max()))
                amounts = torch.ones_like(chosen)
            state[sign].index_add_(0, chosen - state[f"{sign}_first"], amounts)

    def _middle(self, bucket: int) -> float:
        """Return the number that is equally far from both ends of a bucket, in relative terms."""
        low, low_octave = self._end(bucket - 1)
        high, high_octave = self._end(bucket)
        ratio = high / low * 2.0 ** (high_octave - low_octave)
        factor = 2 * ratio / (1 + ratio)
        if low_octave > 1000:
            # The end of the last bucket is above all numbers.
            return min(math.ldexp(low * factor / 4, low_octave + 1) * 2, _GREATEST)
        return max(math.ldexp(low * factor, low_octave), _LEAST)

    def _end(self, bucket: int) -> tuple[float, int]:
        """Return the upper end of a bucket as a number from 1 to 2 and its octave."""
        position = bucket / self._buckets_per_octave
        octave = math.floor(position)
        a, b, c = _CUBIC
        s = position - octave
        # Newton's method: the polynomial is increasing, and near to s.
        for _ in range(8):
            value = ((a * s + b) * s + c) * s - (position - octave)
            s -= value / ((3 * a * s + 2 * b) * s + c)
        return 1 + s, octave


def _buckets_of(sizes: Tensor, buckets_per_octave: float) -> Tensor:
    """Return the numbers of the buckets of normal positive numbers."""
    a, b, c = _CUBIC
    mantissa, exponent = sizes.frexp()
    s = mantissa * 2 - 1
    # Each operation by itself, as in the kernel: a fused one rounds otherwise.
    fraction = ((s * a + b) * s + c) * s
    position = ((exponent - 1).to(torch.float64) + fraction) * buckets_per_octave
    return position.ceil().to(torch.int64)


def _index_of(place: int, counts: Tensor) -> int:
    """Return the index of the counter that has counted the value at a place."""
    return int(torch.searchsorted(counts.cumsum(0), place, right=True))


def _check_part(q: float) -> None:
    if not isinstance(q, (int, float)) or not 0 <= q <= 1:
        raise ValueError(f"q must be a number in [0, 1], got {q!r}")
