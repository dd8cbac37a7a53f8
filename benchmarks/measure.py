"""Compare two programs fairly on a shared, noisy machine.

Only the ratio of two programs timed side by side means anything there. `compare` times
them in the order A B B A, so that a drift of the machine weighs on both alike, and takes
the median over many such pairs. A ratio whose spread is too wide is not printed.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import hotloop

#: A ratio is printed if half of all pairs lie within this fraction of the median.
SPREAD_MAX = 0.25


@dataclass(frozen=True)
class Comparison:
    """The outcome of many pairs.

    Attributes:
        ours: Median seconds of one call of A.
        theirs: Median seconds of one call of B.
        ratio: Median over the pairs of B's time by A's: above 1, A is faster.
        spread: Interquartile range of the pairs' ratios, by the median.
        pairs: Number of pairs.
    """

    ours: float
    theirs: float
    ratio: float
    spread: float
    pairs: int

    @property
    def is_reliable(self) -> bool:
        """Tell whether the spread allows stating the ratio."""
        return self.spread <= SPREAD_MAX

    def __str__(self) -> str:
        if not self.is_reliable:
            return f"too noisy (spread {self.spread:.0%})"
        return f"{self.ratio:.2f}x ±{self.spread / 2:.0%}"


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    seconds: float = 6.0,
    sample_seconds: float = 0.02,
    before: tuple[Callable[[], object], Callable[[], object]] | None = None,
) -> Comparison:
    """Time two programs in interleaved pairs.

    Args:
        ours: Program A.
        theirs: Program B, the peer.
        seconds: How long to measure, after the warm-up.
        sample_seconds: Least time of one sample; a fast program is called repeatedly.
        before: What to call before each call of A and of B, outside of what is timed.

    Returns:
        Medians and their spread.
    """
    timers = [_timer(p, b) for p, b in zip((ours, theirs), before or (None, None))]
    calls = [_calls_per_sample(timer, sample_seconds) for timer in timers]

    def sample(index: int) -> float:
        return timers[index](calls[index]) / calls[index]

    times: tuple[list[float], list[float]] = ([], [])
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ratios) < 5:
        first_a, first_b, second_b, second_a = sample(0), sample(1), sample(1), sample(0)
        times[0].extend((first_a, second_a))
        times[1].extend((first_b, second_b))
        ratios.append((first_b + second_b) / (first_a + second_a))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        ours=statistics.median(times[0]),
        theirs=statistics.median(times[1]),
        ratio=middle,
        spread=(high - low) / middle,
        pairs=len(ratios),
    )


def _timer(
    program: Callable[[], object], before: Callable[[], object] | None
) -> Callable[[int], float]:
    """Return what calls a program a number of times and tells how long that took."""

    def time_all(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            program()
        return time.perf_counter() - start

    def time_each(calls: int) -> float:
        total = 0.0
        for _ in range(calls):
            before()
            start = time.perf_counter()
            program()
            total += time.perf_counter() - start
        return total

    return time_all if before is None else time_each


def _calls_per_sample(timer: Callable[[int], float], sample_seconds: float) -> int:
    """Warm a program up and count the calls that fill a sample."""
    timer(3)
    return max(1, math.ceil(sample_seconds / timer(1)))


def describe_machine() -> str:
    """Return one line on the processor, the load and the versions."""
    cpu = "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return (
        f"{cpu}, {os.cpu_count()} cores, {load}, {torch.get_num_threads()} threads, "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"hotloop {hotloop.__version__}"
    )
