"""Rates of a run, and the memory of its process."""

from __future__ import annotations

import logging
import math
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hotloop.monitoring import (
    STATUSES,
    Throughput,
    memory,
    memory_use,
    transformer_flops_per_token,
)
from hotloop.testing import (
    FakeClock,
)

NAN, INF = math.nan, math.inf


# Throughput


def test_rates_are_taken_over_the_last_updates() -> None:
    clock = FakeClock()
    throughput = Throughput(2, clock=clock)
    assert throughput.rates() == {}
    throughput.update(1000)
    assert throughput.rates() == {}
    seen = []
    for samples, seconds in ((8, 2.0), (16, 2.0), (32, 4.0), (0, 1.0)):
        clock.advance(seconds)
        throughput.update(samples)
        seen.append(throughput.rates())
    # 8 / 2, 24 / 4, 48 / 6 and 32 / 5.
    assert seen == [{"samples_per_second": rate} for rate in (4.0, 6.0, 8.0, 6.4)]


def test_tokens_are_counted_where_there_are_any() -> None:
    clock = FakeClock()
    throughput = Throughput(1, clock=clock)
    throughput.update(1, 50)
    clock.advance(0.5)
    throughput.update(2, 300)
    assert throughput.rates() == {"samples_per_second": 4.0, "tokens_per_second": 600.0}
    clock.advance(0.5)
    throughput.update(3)
    assert throughput.rates() == {"samples_per_second": 6.0}


def test_while_no_time_passes_there_is_no_rate() -> None:
    throughput = Throughput(clock=FakeClock())
    throughput.update(1)
    throughput.update(1)
    assert throughput.rates() == {}


def test_a_new_window_leaves_out_the_time_before_it() -> None:
    clock = FakeClock(step=2.0)
    throughput = Throughput(clock=clock)
    throughput.update(4)
    throughput.update(4)
    assert throughput.rates() == {"samples_per_second": 2.0}
    throughput.reset()
    assert throughput.rates() == {}
    clock.advance(1000)
    throughput.update(4)
    throughput.update(8, 2)
    assert throughput.rates() == {"samples_per_second": 4.0, "tokens_per_second": 1.0}


@pytest.mark.parametrize(
    ("flops", "peak", "mfu"), [(2e12, 320e12, 0.4), (2e12, None, None), (None, 320e12, None)]
)
def test_mfu_needs_the_operations_of_a_sample_and_of_the_devices(
    flops: float | None, peak: float | None, mfu: float | None
) -> None:
    clock = FakeClock(step=0.5)
    throughput = Throughput(flops_per_sample=flops, peak_flops=peak, clock=clock)
    throughput.update(32)
    throughput.update(32)
    # 64 samples a second.
    assert throughput.rates().get("mfu") == mfu


def test_mfu_of_palm_540b_is_that_of_its_paper() -> None:
    # Chowdhery et al., 2022: 238.3 thousand tokens a second on 6144 chips of 275 TFLOP/s are
    # 46.2 %.
    size = {"layers": 118, "heads": 48, "head_size": 256, "sequence_length": 2048}
    per_token = transformer_flops_per_token(540_350_000_000, **size)
    clock = FakeClock(step=2048)
    throughput = Throughput(
        flops_per_sample=2048 * per_token, peak_flops=6144 * 275e12, clock=clock
    )
    for _ in range(2):
        throughput.update(238_300, 2048 * 238_300)
    rates = throughput.rates()
    assert rates["tokens_per_second"] == 238_300
    assert round(rates["mfu"], 3) == 0.462


def test_operations_of_a_token_are_those_of_the_formula() -> None:
    # 6 * 2 + 12 * 3 * 5 * 7 * 11
    assert transformer_flops_per_token(2, 3, 5, 7, 11) == 13_872
    # GPT-2 small: 6 * 124e6 = 744e6, and 12 * 12 * 12 * 64 * 1024 = 113,246,208.
    assert transformer_flops_per_token(124_000_000, 12, 12, 64, 1024) == 857_246_208


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window must be a positive int, got 0"),
        ({"window": 1.0}, "window must be a positive int, got 1.0"),
        ({"flops_per_sample": 0}, "flops_per_sample must be above 0 or None, got 0"),
        ({"peak_flops": -1.0}, "peak_flops must be above 0 or None, got -1.0"),
        ({"peak_flops": NAN}, "peak_flops must be above 0 or None, got nan"),
    ],
)
def test_throughput_says_what_is_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Throughput(**arguments)


@pytest.mark.parametrize("counts", [(-1, 0), (0, -1)])
def test_counts_are_not_negative(counts: tuple[int, int]) -> None:
    clock = FakeClock(step=1.0)
    throughput = Throughput(clock=clock)
    message = f"samples and tokens must be at least 0, got {counts[0]} and {counts[1]}"
    with pytest.raises(ValueError, match=message):
        throughput.update(*counts)
    assert clock.now == 0
    throughput.update(1)
    throughput.update(1, 1)
    assert throughput.rates() == {"samples_per_second": 1.0, "tokens_per_second": 1.0}


# memory_use


def test_resident_memory_is_read_from_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statm = tmp_path / "statm"
    statm.write_text("1000 70 3 1 0 5 0\n")
    monkeypatch.setattr(memory, "_STATM", statm)
    expected = {"rss": 70.0 * resource.getpagesize()}
    for device in (None, "cpu", torch.device("cpu")):
        assert memory_use(device) == expected


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_resident_memory_grows_with_what_is_written() -> None:
    before = memory_use()["rss"]
    block = bytearray(b"x") * (64 << 20)
    grown = memory_use()["rss"] - before
    assert len(block) * 0.9 < grown < len(block) * 1.5


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_resident_memory_is_the_largest_one_where_there_is_no_proc(
    platform: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000 + who))
    assert memory_use() == {"rss": float((5000 + resource.RUSAGE_SELF) * unit)}


def test_memory_of_cuda_is_what_its_allocator_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("memory_allocated", "memory_reserved", "max_memory_allocated")
    for number, name in enumerate(names):
        monkeypatch.setattr(
            torch.cuda, name, lambda device, number=number: {"cuda:1": 10 + number}[device]
        )
    use = memory_use("cuda:1")
    assert use.pop("rss") > 0
    assert use == {"cuda_allocated": 10.0, "cuda_reserved": 11.0, "cuda_max_allocated": 12.0}
    assert all(type(value) is float for value in use.values())


def test_statuses_are_the_ends_that_a_run_can_have() -> None:
    assert STATUSES == ("finished", "stopped", "failed", "interrupted")
    assert logging.getLogger("hotloop").level == logging.NOTSET
