"""Values far from the last ones."""

from __future__ import annotations

import math
import re
import statistics
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop.monitoring import (
    AnomalyDetector,
)
from hotloop.testing import (
    assert_state_roundtrip,
)

NAN, INF = math.nan, math.inf


def detector_of(values: list[float], **arguments: Any) -> AnomalyDetector:
    detector = AnomalyDetector(max(len(values), 2), **arguments)
    for value in values:
        detector.update(value)
    return detector


@pytest.mark.parametrize(
    ("values", "k", "median", "scale"),
    [
        # The distances from 3 are 2, 1, 0, 1 and 97.
        ([100.0, 2.0, 3.0, 4.0, 1.0], 2.0, 3.0, 1.0),
        # Those from 3 are 2, 1, 1 and 5.
        ([8.0, 1.0, 4.0, 2.0], 1.0, 3.0, 1.5),
        ([-1.0, 0.0, 1.0], 6.0, 0.0, 1.0),
        # No distance at all: eps of the median, and at least eps itself.
        ([512.0] * 5, 6.0, 512.0, 512e-6),
        ([-512.0] * 4, 6.0, -512.0, 512e-6),
        ([0.0] * 5, 6.0, 0.0, 1e-6),
        ([0.25] * 5, 6.0, 0.25, 1e-6),
    ],
)
def test_a_value_is_flagged_beyond_k_scaled_distances(
    values: list[float], k: float, median: float, scale: float
) -> None:
    for sign in (1, -1):
        for factor, is_flagged in ((1 - 1e-6, False), (1 + 1e-6, True)):
            value = median + sign * k * 1.4826 * scale * factor
            assert detector_of(values, k=k).update(value) is is_flagged


def test_a_value_right_at_the_bound_is_not_flagged() -> None:
    bound = 6.0 * 1.4826
    assert detector_of([-1.0, 0.0, 1.0]).update(bound) is False
    assert detector_of([-1.0, 0.0, 1.0]).update(math.nextafter(bound, INF)) is True


def test_the_least_scale_is_an_argument() -> None:
    assert detector_of([1.0] * 3, eps=0.5).update(1 + 6 * 1.4826 * 0.49) is False
    assert detector_of([1.0] * 3, eps=0.5).update(1 + 6 * 1.4826 * 0.51) is True


class Reference:
    """What a detector without a cooldown is by its definition."""

    def __init__(self, window: int, k: float) -> None:
        self.values: deque[float] = deque(maxlen=window)
        self.k = k

    def update(self, value: float) -> bool:
        if not math.isfinite(value):
            return True
        is_far = False
        if len(self.values) >= math.ceil((self.values.maxlen or 0) / 2):
            median = statistics.median(self.values)
            mad = statistics.median(abs(one - median) for one in self.values)
            scale = max(mad, 1e-6 * abs(median), 1e-6)
            is_far = abs(value - median) > self.k * 1.4826 * scale
        self.values.append(value)
        return is_far


@given(
    values=st.lists(
        st.floats(-3, 3, width=16) | st.integers(-2, 2) | st.sampled_from([NAN, INF, 50.0]),
        max_size=60,
    ),
    window=st.integers(2, 9),
    k=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_the_sorted_window_gives_what_the_definition_says(
    values: list[float], window: int, k: float
) -> None:
    detector, reference = AnomalyDetector(window, k), Reference(window, k)
    for value in values:
        assert detector.update(value) is reference.update(value)
    assert detector.state_dict()["values"] == list(reference.values)


def test_the_value_itself_is_not_in_its_window() -> None:
    # In a window of ten with the value itself in it, no value is 3 standard deviations away.
    detector = detector_of([0.0, 1.0] * 5, k=3.0)
    assert detector.update(100.0) is True


def test_what_is_not_finite_is_flagged_at_once_and_stays_out() -> None:
    detector = AnomalyDetector(4)
    assert [detector.update(value) for value in (NAN, INF, -INF)] == [True] * 3
    assert detector.state_dict() == {"values": [], "cooling": 0}
    assert [detector.update(value) for value in (1.0, 2.0, NAN)] == [False, False, True]
    assert detector.state_dict()["values"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("window", "least", "flagged"), [(4, None, 2), (5, None, 3), (4, 1, 1), (4, 4, 4)]
)
def test_nothing_is_flagged_before_there_are_enough_values(
    window: int, least: int | None, flagged: int
) -> None:
    for count in range(window + 1):
        detector = AnomalyDetector(window, min_values=least)
        for _ in range(count):
            detector.update(1.0)
        assert detector.update(9.0) is (count >= flagged)


#: Of any twenty of them in a row, the median is 0 and the MAD 1.
QUIET = [-2.0, -1.0, 0.0, 1.0, 2.0] * 4


def test_an_outlier_is_flagged_and_not_the_values_after_it() -> None:
    detector = AnomalyDetector(20)
    series = QUIET * 3
    series[33] = 1000.0
    assert [step for step, value in enumerate(series) if detector.update(value)] == [33]


def test_a_new_level_is_flagged_for_half_a_window_and_then_accepted() -> None:
    detector = AnomalyDetector(20)
    assert not any(map(detector.update, QUIET))
    assert [detector.update(1000.0) for _ in range(60)] == [True] * 10 + [False] * 50


def test_normal_values_are_flagged_less_than_once_in_ten_thousand() -> None:
    detector = AnomalyDetector()
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).tolist()
    assert sum(map(detector.update, values)) < 10


def test_after_a_flagged_value_there_is_a_cooldown() -> None:
    detector = detector_of(QUIET, cooldown=2)
    flags = [detector.update(value) for value in (50.0, 50.0, 0.0, 50.0, 0.0, 0.0, 50.0)]
    assert flags == [True, False, False, True, False, False, True]
    # What is not finite is flagged even then, and begins a cooldown of its own.
    flags = [detector.update(value) for value in (NAN, 0.0, NAN, 50.0, 50.0, 50.0)]
    assert flags == [True, False, True, False, False, True]
    detector.reset()
    assert detector.state_dict() == {"values": [], "cooling": 0}
    assert [detector.update(value) for value in (50.0, -50.0)] == [False, False]


def test_a_detector_goes_on_from_its_state() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(1)).tolist()
    values[20] = values[21] = values[24] = 99.0
    whole = AnomalyDetector(8, 3.0, cooldown=2)
    flags = [whole.update(value) for value in values]
    assert flags[20:25] == [True, False, False, False, True]
    first = AnomalyDetector(8, 3.0, cooldown=2)
    for value in values[:22]:
        first.update(value)
    assert first.state_dict() == {"values": values[14:22], "cooling": 1}
    second = AnomalyDetector(8, 3.0, cooldown=2)
    second.update(7.0)
    assert_state_roundtrip(first, second)
    assert [second.update(value) for value in values[22:]] == flags[22:]
    first.state_dict()["values"].clear()
    assert len(first.state_dict()["values"]) == 8


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"values": []}, "state must have the keys 'cooling', 'values', got ['values']"),
        ({"values": [], "cooling": 0, "a": 1}, "got ['a', 'cooling', 'values']"),
        ({"values": [1.0] * 4, "cooling": 0}, "must be at most 3 finite numbers, got 4 values"),
        ({"values": [NAN], "cooling": 0}, "must be at most 3 finite numbers, got 1 values"),
        (
            {"values": [], "cooling": -1},
            "cooling of the state must be an int of at least 0",
        ),
        ({"values": [], "cooling": 1.5}, "must be an int of at least 0, got 1.5"),
    ],
)
def test_a_detector_refuses_a_wrong_state(state: Any, message: str) -> None:
    detector = AnomalyDetector(3, cooldown=1)
    detector.update(1.0)
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.load_state_dict(state)
    assert detector.state_dict() == {"values": [1.0], "cooling": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 1}, "window must be an int of at least 2, got 1"),
        ({"window": 10.0}, "window must be an int of at least 2, got 10.0"),
        ({"k": 0}, "k must be a finite number above 0, got 0"),
        ({"k": INF}, "k must be a finite number above 0, got inf"),
        ({"k": NAN}, "k must be a finite number above 0, got nan"),
        ({"eps": 0.0}, "eps must be a finite number above 0, got 0.0"),
        ({"eps": INF}, "eps must be a finite number above 0, got inf"),
        ({"cooldown": -1}, "cooldown must be an int of at least 0, got -1"),
        ({"cooldown": 1.0}, "cooldown must be an int of at least 0, got 1.0"),
        ({"min_values": 0}, "min_values must be an int in [1, 100], got 0"),
        ({"min_values": 101}, "min_values must be an int in [1, 100], got 101"),
    ],
)
def test_a_detector_says_what_is_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AnomalyDetector(**arguments)
