"""What all metrics are, and what a loop asks of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from torch import Tensor

from hotloop.errors import EmptyMetricError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Metric", "MetricLike", "State"]

#: What a metric has counted, by name: numbers and tensors add up, lists of tensors are joined.
State: TypeAlias = "dict[str, Any]"


class MetricLike(Protocol):
    """What a loop asks of a metric; those of torchmetrics have it, too."""

    def update(self, preds: Any, target: Any) -> None:
        """Count one batch."""

    def compute(self) -> Any:
        """Return the value over everything counted since the last `reset`."""

    def reset(self) -> None:
        """Forget everything counted."""


class Metric(ABC):
    """A value that is measured over batches.

    Any split of the data into batches, and any order in which parts are merged, gives the same
    value. A metric knows nothing of processes: gather them (or their states) and `merge`.

    A subclass returns the state of nothing counted from `_initial`, counts in `self._state`, and
    stores its options in public attributes, by which it is compared and shown.

    Attributes:
        higher_is_better: Whether a higher value is a better one; None if neither is.
        unit: The unit of the value, "" for a ratio.
    """

    higher_is_better: ClassVar[bool | None] = None
    unit: ClassVar[str] = ""

    def __init__(self) -> None:
        self._state = self._initial()

    @abstractmethod
    def _initial(self) -> State:
        """Return the state of a metric that has counted nothing."""

    @abstractmethod
    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Predictions.
            target: What they should be.
            weight: A factor of at least 0 for each sample; 1 by default.
        """

    @abstractmethod
    def compute(self) -> Any:
        """Return the value over everything counted since the last `reset`.

        Raises:
            EmptyMetricError: If nothing was counted.
        """

    def reset(self) -> None:
        """Forget everything counted."""
        self._state = self._initial()

    def merge(self, other: Self) -> None:
        """Count what another metric has counted, which is left as it is.

        Args:
            other: A metric of the same class with the same options.

        Raises:
            ValueError: If it is another kind of metric. Nothing is counted then.
        """
        if type(other) is not type(self) or other._options() != self._options():
            raise ValueError(f"only a metric like {self} can be merged into it, got {other}")
        self._combine(other._state)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of what was counted: numbers, tensors and lists of tensors by name."""
        return {name: _copied(value) for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned; it is copied.

        Raises:
            ValueError: If its names are not those of this metric. Nothing is loaded then.
        """
        if set(state) != set(self._state):
            raise ValueError(
                f"the state of {self} must have the keys {sorted(self._state)}, got {sorted(state)}"
            )
        self._state = {name: _copied(value) for name, value in state.items()}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"{type(self).__name__}({options})"

    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def _combine(self, other: State) -> None:
        """Add the state of a metric like this one."""
        for name, value in other.items():
            # Not in place: a copy of this metric may share its tensors.
            self._state[name] = self._state[name] + value

    def _empty(self) -> EmptyMetricError:
        return EmptyMetricError(f"{type(self).__name__} has counted nothing; call update first")


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    # Tensors of a list are joined to others, and never written to.
    return list(value) if isinstance(value, list) else value
