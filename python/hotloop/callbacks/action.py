"""What a callback may ask the loop for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hotloop.argument import check_count

__all__ = ["Accumulate", "Action", "KeepWeights", "RestoreWeights", "Save", "Stop", "Validate"]


@dataclass(frozen=True)
class Stop:
    """Asks the loop to end the run after the current update.

    Attributes:
        reason: Why, for the history.
    """

    reason: str


@dataclass(frozen=True)
class Validate:
    """Asks for a validation after the current update."""


@dataclass(frozen=True)
class Save:
    """Asks for a checkpoint after the current update and the validation that is due with it."""


@dataclass(frozen=True)
class Accumulate:
    """Asks for another number of batches to an update, from the next update on.

    The length of the run in updates, and with it that of schedules which end with the run,
    stays what it was at the beginning.

    Attributes:
        batches: How many, at least 1.

    Raises:
        ValueError: If `batches` is not a positive int.
    """

    batches: int

    def __post_init__(self) -> None:
        check_count("batches", self.batches)


@dataclass(frozen=True)
class KeepWeights:
    """Asks for a copy of the model's state, in place of the last one."""


@dataclass(frozen=True)
class RestoreWeights:
    """Asks for the kept state to become the model's again; without one nothing changes."""


#: What a hook may return. The loop applies the actions of a hook once all callbacks have run,
#: in the order of these classes here, whatever the order of the callbacks.
Action: TypeAlias = "Accumulate | KeepWeights | RestoreWeights | Validate | Save | Stop"
