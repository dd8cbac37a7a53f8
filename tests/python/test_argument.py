"""Checks of arguments, and where a bool is no number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hotloop.argument import check_count, check_number
from hotloop.callbacks import Accumulate, DeviceStats, EarlyStopping, LearningRateMonitor
from hotloop.config import Cadence, TrainingConfig
from hotloop.monitoring import JsonlTracker, Outbox, Throughput
from hotloop.precision import checkpoint_activations


@pytest.mark.parametrize(
    ("value", "arguments", "allowed"),
    [
        (0, {}, "a positive int"),
        (True, {}, "a positive int"),
        (1.0, {}, "a positive int"),
        (None, {}, "a positive int"),
        (-1, {"least": 0}, "an int of at least 0"),
        ("1", {"is_optional": True}, "a positive int, or None"),
    ],
)
def test_what_is_no_count(value: Any, arguments: dict[str, Any], allowed: str) -> None:
    message = re.escape(f"every must be {allowed}, got {value!r}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_count("every", value, **arguments)


def test_counts_and_numbers_at_their_bounds() -> None:
    check_count("every", 1)
    check_count("every", 0, 0)
    check_count("every", None, is_optional=True)
    for value in (0, 1.0, 2):
        check_number("factor", value, 0, 2)


@pytest.mark.parametrize("value", [-1e-9, 2.1, math.nan, math.inf, True, None, "1"])
def test_what_is_no_number_of_a_range(value: Any) -> None:
    allowed = re.escape(f"factor must be a finite number in [0, 2], got {value!r}")
    with pytest.raises(ValueError, match=allowed):
        check_number("factor", value, 0, 2)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("batches", Accumulate),
        ("every", lambda value: DeviceStats(every=value)),
        ("patience", lambda value: EarlyStopping(patience=value)),
        (
            "every",
            lambda value: LearningRateMonitor(torch.optim.SGD([torch.zeros(1)]), every=value),
        ),
        ("capacity", lambda value: Outbox(JsonlTracker("unused"), value)),
        ("window", Throughput),
        (
            "every",
            lambda value: checkpoint_activations(nn.Sequential(nn.ReLU()), nn.ReLU, every=value),
        ),
        ("accumulate", lambda value: TrainingConfig(accumulate=value)),
    ],
)
def test_a_bool_is_no_count_anywhere(name: str, make: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive int, got True"):
        make(True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30 seconds", 30), ("0.5 minutes", 30), ("3 steps", None), ("1 epoch", None)],
)
def test_a_cadence_in_seconds(text: str, seconds: float | None) -> None:
    assert Cadence.parse(text).seconds == seconds
