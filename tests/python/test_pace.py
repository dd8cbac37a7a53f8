"""When something that has a cadence is due."""

from __future__ import annotations

from typing import Any

import pytest

from hotloop.callbacks.pace import Pace
from hotloop.config import Cadence
from hotloop.testing import FakeClock


def due(pace: Pace, updates: int = 5, epochs: int = 2) -> tuple[list[int], list[int]]:
    """Return the steps and the epochs after which it is time."""
    steps = [
        epoch * updates + update
        for epoch in range(epochs)
        for update in range(1, updates + 1)
        if pace.is_due(epoch * updates + update, update)
    ]
    return steps, [epoch for epoch in range(epochs) if pace.is_due_after_epoch(epoch)]


@pytest.mark.parametrize(
    ("cadence", "steps", "epochs", "is_of_updates"),
    [
        (None, [], [], False),
        (3, [3, 6, 9], [], True),
        ("1 step", list(range(1, 11)), [], True),
        (Cadence(4, "steps"), [4, 8], [], True),
        ("1 epoch", [], [0, 1], False),
        ("2 epochs", [], [1], False),
        ("0.4 epochs", [2, 4, 7, 9], [], True),
        ("0.7 epochs", [4, 9], [], True),
        # At least one update lies between two times.
        ("0.01 epochs", list(range(1, 11)), [], True),
    ],
)
def test_paces_of_updates_and_epochs(
    cadence: Any, steps: list[int], epochs: list[int], is_of_updates: bool
) -> None:
    pace = Pace(cadence, 5, FakeClock())
    assert due(pace) == (steps, epochs)
    assert pace.is_of_updates == is_of_updates


@pytest.mark.parametrize(("cadence", "seconds"), [("30 seconds", 30), ("0.5 minutes", 30)])
def test_paces_of_time(cadence: str, seconds: float) -> None:
    clock = FakeClock()
    clock.advance(7)
    pace = Pace(cadence, None, clock)
    assert pace.is_of_updates
    seen = []
    for passed in (29, 1, 1, 28, 1.5, 100, 0, 29.9, 0.1):
        clock.advance(passed)
        seen.append(pace.is_due(1, 1))
    # Counted from the last time, and not from when that one should have been.
    assert seen == [False, True, False, False, True, True, False, False, True]
    assert not pace.is_due_after_epoch(0)


def test_a_fraction_of_an_epoch_needs_its_length() -> None:
    message = "'0.5 epochs' needs the length of an epoch, and the loader does not tell it; use st"
    with pytest.raises(ValueError, match=message):
        Pace("0.5 epochs", None, FakeClock())
    assert due(Pace("2 epochs", None, FakeClock())) == ([], [1])
    with pytest.raises(ValueError, match=r"a cadence must be .* got 'often'"):
        Pace("often", 5, FakeClock())
