"""The history of logged values: its best and latest points, its bound, its state."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotloop.metrics import MetricTracker
from hotloop.testing import assert_state_roundtrip, differences

NAN, INF = math.nan, math.inf


def tracker_of(values: list[float], max_points: int | None = None) -> MetricTracker:
    tracker = MetricTracker(max_points)
    for step, value in enumerate(values):
        tracker.update({"a": value}, step)
    return tracker


# Histories


def test_values_are_kept_with_their_steps_under_the_names_that_they_came_with() -> None:
    tracker = MetricTracker()
    tracker.update({"val_loss": 3.0, "loss": 1}, 5)
    tracker.update({"loss": torch.tensor(0.5)}, 7)  # type: ignore[dict-item]
    assert tracker.names() == ["val_loss", "loss"]
    assert tracker.history("loss") == [(5, 1.0), (7, 0.5)]
    assert tracker["loss"] == [1.0, 0.5]
    assert [type(value) for value in tracker["loss"]] == [float, float]
    assert (tracker.latest("loss"), tracker.latest("val_loss")) == (0.5, 3.0)
    assert "loss" in tracker
    assert "val_val_loss" not in tracker


def test_a_name_may_have_more_than_one_value_of_a_step() -> None:
    tracker = MetricTracker()
    for value in (1.0, 2.0):
        tracker.update({"a": value}, 3)
    assert tracker.history("a") == [(3, 1.0), (3, 2.0)]
    assert tracker.best("a", "max") == (3, 2.0)


def test_what_is_returned_is_a_copy() -> None:
    tracker = tracker_of([1.0, 2.0])
    expected = {"points": {"a": [[0, 1.0], [1, 2.0]]}}
    tracker.history("a").clear()
    tracker["a"].append(9.0)
    tracker.names().append("b")
    state = tracker.state_dict()
    state["points"]["a"][0][1] = 9.0
    state["points"]["b"] = []
    tracker.aligned(["a"])[0][1]["a"] = 9.0
    assert tracker.state_dict() == expected
    loaded = MetricTracker()
    given_state = tracker.state_dict()
    loaded.load_state_dict(given_state)
    given_state["points"]["a"].clear()
    assert loaded.state_dict() == expected


def test_metrics_of_different_rates_are_aligned_by_their_steps() -> None:
    tracker = MetricTracker()
    for step in (1, 2, 3):
        tracker.update({"loss": float(step)}, step)
    tracker.update({"val": 0.5}, 2)
    tracker.update({"val": 0.25}, 4)
    tracker.update({"val": 0.125, "other": 1.0}, 4)
    assert tracker.aligned(["val", "loss"]) == [
        (1, {"loss": 1.0}),
        (2, {"val": 0.5, "loss": 2.0}),
        (3, {"loss": 3.0}),
        (4, {"val": 0.125}),
    ]
    assert tracker.aligned([]) == []


def test_reset_forgets_every_name() -> None:
    tracker = tracker_of([1.0])
    tracker.reset()
    assert tracker.names() == []
    tracker.update({"a": 2.0}, 0)
    assert tracker.history("a") == [(0, 2.0)]


# The best point


@pytest.mark.parametrize(
    ("values", "least", "most"),
    [
        ([3.0, 1.0, 2.0], (1, 1.0), (0, 3.0)),
        ([2.0, 1.0, 2.0, 1.0], (1, 1.0), (0, 2.0)),
        ([NAN, 3.0, 1.0], (2, 1.0), (1, 3.0)),
        ([1.0, NAN, 3.0], (0, 1.0), (2, 3.0)),
        ([1.0, INF, -INF], (2, -INF), (1, INF)),
        ([NAN, INF], (1, INF), (1, INF)),
        ([NAN, NAN], None, None),
    ],
)
def test_best_is_the_earliest_of_the_best_values_and_never_nan(
    values: list[float], least: Any, most: Any
) -> None:
    tracker = tracker_of(values)
    assert tracker.best("a") == tracker.best("a", "min") == least
    assert tracker.best("a", "max") == most


@pytest.mark.parametrize("mode", ["Min", "maximum", "", None])
def test_best_says_what_a_mode_is(mode: Any) -> None:
    message = f"mode must be one of 'min', 'max', got {mode!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        tracker_of([1.0]).best("a", mode)


# Errors


@pytest.mark.parametrize("method", ["history", "latest", "best", "__getitem__"])
def test_a_name_that_was_never_logged_is_named(method: str) -> None:
    with pytest.raises(KeyError, match="unknown metric 'loss'; nothing was logged yet"):
        getattr(MetricTracker(), method)("loss")
    tracker = MetricTracker()
    tracker.update({"val_loss": 1.0, "accuracy": 1.0}, 0)
    message = "unknown metric 'val_los' (did you mean 'val_loss'?); it is one of accuracy, val_loss"
    with pytest.raises(KeyError, match=re.escape(message)):
        getattr(tracker, method)("val_los")
    with pytest.raises(KeyError, match="unknown metric 'x'"):
        tracker.aligned(["accuracy", "x"])


def test_steps_of_a_name_ascend_and_a_refused_update_keeps_no_value() -> None:
    tracker = MetricTracker()
    tracker.update({"a": 1.0}, 5)
    tracker.update({"b": 1.0}, 3)
    before = tracker.state_dict()
    with pytest.raises(ValueError, match="not be below the last step of 'a', 5, got 4"):
        tracker.update({"b": 2.0, "c": 2.0, "a": 2.0}, 4)
    with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
        tracker.update({"b": 2.0, "a": "x"}, 6)  # type: ignore[dict-item]
    assert tracker.state_dict() == before
    tracker.update({"b": 2.0}, 4)
    assert tracker.history("b") == [(3, 1.0), (4, 2.0)]


@pytest.mark.parametrize("step", [1.0, "1", None, True])
def test_a_step_is_an_int(step: Any) -> None:
    tracker = MetricTracker()
    with pytest.raises(ValueError, match=re.escape(f"step must be an int, got {step!r}")):
        tracker.update({"a": 1.0}, step)
    assert tracker.names() == []


@pytest.mark.parametrize("max_points", [7, 0, -1, 8.0, "8"])
def test_the_bound_has_room_for_the_points_that_stay(max_points: Any) -> None:
    message = f"max_points must be an int of at least 8 or None, got {max_points!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        MetricTracker(max_points)


# The bound


@pytest.mark.parametrize(
    ("best", "steps"),
    [
        # Buckets of two steps, from the first one on, and the best points between.
        ({}, [11, 13, 15, 17, 19]),
        ({14: -1.0}, [11, 13, 14, 15, 17, 19]),
        ({14: -1.0, 16: 99.0}, [11, 13, 14, 15, 16, 17, 19]),
        ({14: NAN, 16: -INF, 18: INF}, [11, 13, 15, 16, 17, 18, 19]),
        ({14: -1.0, 16: -1.0}, [11, 13, 14, 15, 17, 19]),
    ],
)
def test_the_ninth_of_eight_points_thins_them(best: dict[int, float], steps: list[int]) -> None:
    tracker = MetricTracker(8)
    values = {step: best.get(step, float(step)) for step in range(11, 20)}
    for step in range(11, 19):
        tracker.update({"a": values[step], "other": 0.0}, step)
    assert len(tracker["a"]) == 8
    tracker.update({"a": values[19]}, 19)
    expected = [[step, values[step]] for step in steps]
    assert not differences(tracker.state_dict()["points"]["a"], expected)
    assert len(tracker["other"]) == 8


def test_thinned_points_are_even_over_the_whole_history() -> None:
    tracker = MetricTracker(100)
    for step in range(20_000):
        tracker.update({"a": float(step)}, step)
    steps = [step for step, _ in tracker.history("a")]
    # The widest gap is less than twice that of 50 points.
    assert max(after - before for before, after in itertools.pairwise(steps)) < 2 * 20_000 / 50
    assert 25 < len(steps) <= 100


def test_points_that_are_thinned_often_are_the_first_ones_of_their_buckets() -> None:
    tracker = MetricTracker(8)
    steps = range(0, 4000, 3)
    for step in steps:
        tracker.update({"a": 0.0}, step)
    # Widths are powers of two, and 1024 is the first one that 3999 holds at most four times.
    firsts = [next(step for step in steps if step >= start) for start in range(0, 3999, 1024)]
    assert set(firsts) <= {step for step, _ in tracker.history("a")}


def test_the_latest_point_stays_where_it_is_not_the_first_of_its_bucket() -> None:
    tracker = tracker_of([float(step) for step in range(8)], 8)
    tracker.update({"a": 2.5}, 7)
    assert tracker.history("a") == [(0, 0.0), (2, 2.0), (4, 4.0), (6, 6.0), (7, 7.0), (7, 2.5)]
    assert tracker.latest("a") == 2.5


@given(
    data=st.lists(
        st.tuples(st.integers(0, 50), st.integers(-9, 9) | st.sampled_from([NAN, INF, -INF])),
        min_size=20,
        max_size=80,
    ),
    max_points=st.integers(8, 12),
)
def test_the_bound_keeps_the_first_the_latest_and_the_best_points(
    data: list[tuple[int, float]], max_points: int
) -> None:
    bounded, full = MetricTracker(max_points), MetricTracker()
    step = 0
    for gap, value in data:
        step += gap
        for tracker in (bounded, full):
            tracker.update({"a": value}, step)
        assert len(bounded["a"]) <= max_points
    points, all_points = bounded.history("a"), full.history("a")
    kept = iter(all_points)
    assert all(any(not differences(point, other) for other in kept) for point in points)
    assert not differences(points[0], all_points[0])
    assert not differences(points[-1], all_points[-1])
    for mode, best in (("min", min), ("max", max)):
        assert bounded.best("a", mode) == full.best("a", mode)
        numbers = [value for _, value in all_points if not math.isnan(value)]
        found = full.best("a", mode)
        assert (found[1] if found else None) == (best(numbers) if numbers else None)
    other = MetricTracker(max_points)
    assert_state_roundtrip(bounded, other)
    assert not differences(other.history("a"), points)


# States


def test_the_state_comes_back_and_the_history_goes_on() -> None:
    tracker = MetricTracker()
    tracker.update({"b": NAN, "a": -0.0}, 0)
    tracker.update({"a": INF}, 2)
    assert not differences(
        tracker.state_dict(), {"points": {"b": [[0, NAN]], "a": [[0, -0.0], [2, INF]]}}
    )
    other = tracker_of([9.0] * 5)
    other.update({"gone": 1.0}, 0)
    assert_state_roundtrip(tracker, other)
    assert other.names() == ["b", "a"]
    with pytest.raises(ValueError, match="not be below the last step of 'a', 2, got 1"):
        other.update({"a": 1.0}, 1)
    assert_state_roundtrip(MetricTracker(), other)
    assert other.names() == []


def test_a_state_of_more_points_than_the_bound_is_thinned() -> None:
    tracker = MetricTracker(8)
    tracker.load_state_dict(tracker_of([5.0, 0.0, 6.0, *range(20)]).state_dict())
    assert len(tracker["a"]) <= 8
    assert (tracker.history("a")[0], tracker.latest("a")) == ((0, 5.0), 19.0)
    assert tracker.best("a") == (1, 0.0)
    assert tracker.max_points == 8


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "state must have the key 'points' alone, got []"),
        ({"points": {}, "more": 1}, "key 'points' alone, got ['more', 'points']"),
        ({"points": {"b": [[2, 1.0], [1, 1.0]]}}, "below the last step of 'b', 2, got 1"),
        ({"points": {"b": [[1.5, 1.0]]}}, "step must be an int, got 1.5"),
    ],
)
def test_a_wrong_state_replaces_nothing(state: Any, message: str) -> None:
    tracker = tracker_of([1.0])
    before = tracker.state_dict()
    with pytest.raises(ValueError, match=re.escape(message)):
        tracker.load_state_dict(state)
    assert tracker.state_dict() == before
