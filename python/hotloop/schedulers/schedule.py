"""What a schedule is: a pure function of the step, and the algebra of such functions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from hotloop.argument import check_number
from hotloop.errors import unknown_name
from hotloop.schedulers.length import (
    LENGTH,
    POSITIVE_LENGTH,
    Length,
    check_length,
    is_resolved_length,
    resolve_length,
)

__all__ = [
    "Clamp",
    "Constant",
    "Product",
    "Repeat",
    "Schedule",
    "Then",
    "check_choice",
    "check_number",
    "find",
    "from_spec",
]

_CLASSES: dict[str, type[Schedule]] = {}
_S = TypeVar("_S", bound="Schedule")


@dataclass(frozen=True)
class Schedule:
    """A factor for each step, which multiplies a group's initial value.

    A schedule is immutable and knows nothing of what came before, so that to resume a run
    takes no more than its step. Subclasses are frozen dataclasses that define `_factor`;
    a subclass `HalfCosine` is called "half_cosine" in specs.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Make the class known to `from_spec` under its name."""
        cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        if not cls.__name__.startswith("_"):
            _CLASSES[cls.name] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "least" in field.metadata:
                least = field.metadata["least"]
                check_length(field.name, getattr(self, field.name), least)
        self._check()
        if self.is_resolved:
            self._check_resolved()

    def value(self, step: int) -> float:
        """Return the factor of a step.

        Args:
            step: The number of steps already taken, at least 0. Past the end of a schedule
                its last value holds.

        Raises:
            ValueError: If a length is still open: `resolve` it first.
        """
        if self.is_resolved:
            return self._factor(step)
        raise ValueError(
            f"{self} has lengths that depend on the run: call resolve(total) first, or give "
            f"the Scheduler its total"
        )

    __call__ = value

    @property
    def length(self) -> int | None:
        """The step from which the factor stays as it is; None if there is none."""
        return None

    @property
    def warmup_steps(self) -> int:
        """How many steps rise to the full value before the schedule proper begins."""
        return 0

    @cached_property
    def is_resolved(self) -> bool:
        """Whether all lengths are numbers of steps."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "least" in field.metadata and not is_resolved_length(value):
                return False
            if not all(part.is_resolved for part in _schedules(value)):
                return False
        return True

    def resolve(self: _S, total: int) -> _S:
        """Return the schedule for a run of a known length.

        Args:
            total: The number of steps of the run, at least 0. Fractions are of it; None
                is what is left of it where a schedule begins.

        Raises:
            ValueError: If `total` is not such a number.
        """
        if not isinstance(total, int) or total < 0:
            raise ValueError(f"total must be an int of at least 0, got {total!r}")
        return self._resolve(total, total)

    def spec(self) -> dict[str, Any]:
        """Return the schedule as a dict that JSON holds; `from_spec` reads it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"name": self.name} | {name: _plain(value) for name, value in fields.items()}

    def then(self, other: Schedule, at: Length = None) -> Then:
        """Return this schedule followed by another, which starts at its own step 0.

        Args:
            other: What follows.
            at: At which step; by default at the end of this one.

        Raises:
            ValueError: If `at` is not given and this schedule never ends.
        """
        return Then(self, other, at)

    def clamp(self, low: float = 0.0, high: float | None = None) -> Clamp:
        """Return this schedule with its factor kept in a range.

        Args:
            low: The least factor.
            high: The largest factor; None for any.
        """
        return Clamp(self, low, high)

    def repeat(self, times: int | None = None, period: Length = None) -> Repeat:
        """Return this schedule over and over.

        Args:
            times: How often, at least 1, after which the last value holds; None for ever.
            period: After how many steps it starts anew; by default at its end.
        """
        return Repeat(self, times, period)

    def scale(self, factor: float) -> Product:
        """Return this schedule with each value multiplied by a number, at least 0."""
        return self * factor

    def __mul__(self, other: Schedule | float) -> Product:
        if isinstance(other, Schedule):
            return Product((*_factors(self), *_factors(other)))
        if isinstance(other, (int, float)):
            return self * Constant(float(other))
        return NotImplemented

    __rmul__ = __mul__

    def _factor(self, step: int) -> float:
        raise NotImplementedError

    def _check(self) -> None:
        """Raise if a field is out of range; lengths are checked already."""

    def _check_resolved(self) -> None:
        """Raise if lengths do not go together."""

    def _resolve(self: _S, total: int, rest: int) -> _S:
        if self.is_resolved:
            return self
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "least" in field.metadata:
                value = resolve_length(value, total, rest)
            elif isinstance(value, Schedule):
                value = value._resolve(total, rest)
            elif _schedules(value):
                value = tuple(part._resolve(total, rest) for part in value)
            changes[field.name] = value
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same factor at every step.

    Args:
        factor: The factor, at least 0.
    """

    factor: float = 1.0

    def _check(self) -> None:
        check_number("factor", self.factor, 0)

    def _factor(self, step: int) -> float:
        return self.factor


@dataclass(frozen=True)
class Then(Schedule):
    """One schedule followed by another.

    Args:
        first: The factor before `at`.
        second: The factor from there on, `second.value(step - at)`.
        at: The step at which `second` begins; None for the end of `first`.
    """

    first: Schedule
    second: Schedule
    at: Length = dataclasses.field(default=None, metadata=LENGTH)

    def _check(self) -> None:
        if self.at is None and self.first.is_resolved:
            if self.first.length is None:
                raise ValueError(f"at must be given: {self.first} never ends")
            object.__setattr__(self, "at", self.first.length)

    @property
    def length(self) -> int | None:
        """The end of the second schedule."""
        end = self.second.length
        return None if end is None or not isinstance(self.at, int) else self.at + end

    @property
    def warmup_steps(self) -> int:
        """Those of the first schedule, up to where the second begins."""
        warmup = self.first.warmup_steps
        return min(warmup, self.at) if isinstance(self.at, int) else warmup

    def _resolve(self, total: int, rest: int) -> Then:
        if self.is_resolved:
            return self
        first = self.first._resolve(total, rest)
        at = resolve_length(self.at, total, rest) if self.at is not None else first.length
        if at is None:
            raise ValueError(f"at must be given: {first} never ends")
        return Then(first, self.second._resolve(total, max(rest - at, 0)), at)

    def _factor(self, step: int) -> float:
        at: Any = self.at
        return self.first._factor(step) if step < at else self.second._factor(step - at)


@dataclass(frozen=True)
class Product(Schedule):
    """The product of schedules.

    Args:
        factors: The schedules.
    """

    factors: tuple[Schedule, ...]

    @property
    def length(self) -> int | None:
        """The end of the last schedule to end, constants aside."""
        last = 0
        for factor in self.factors:
            if isinstance(factor, Constant):
                continue
            end = factor.length
            if end is None:
                return None
            last = max(last, end)
        return last

    @property
    def warmup_steps(self) -> int:
        """The longest warm-up of all."""
        return max((factor.warmup_steps for factor in self.factors), default=0)

    def _factor(self, step: int) -> float:
        return math.prod(factor._factor(step) for factor in self.factors)


@dataclass(frozen=True)
class Clamp(Schedule):
    """A schedule whose factor stays in a range.

    Args:
        schedule: The schedule.
        low: The least factor.
        high: The largest factor, at least `low`; None for any.
    """

    schedule: Schedule
    low: float = 0.0
    high: float | None = None

    def _check(self) -> None:
        check_number("low", self.low, 0)
        if self.high is not None:
            check_number("high", self.high, self.low)

    @property
    def length(self) -> int | None:
        """The schedule's end."""
        return self.schedule.length

    @property
    def warmup_steps(self) -> int:
        """The schedule's."""
        return self.schedule.warmup_steps

    def _factor(self, step: int) -> float:
        raised = max(self.schedule._factor(step), self.low)
        return raised if self.high is None else min(raised, self.high)


@dataclass(frozen=True)
class Repeat(Schedule):
    """A schedule over and over.

    Args:
        schedule: The schedule.
        times: How often, at least 1; then the last value holds. None for ever.
        period: After how many steps it starts anew; None for the schedule's end.
    """

    schedule: Schedule
    times: int | None = None
    period: Length = dataclasses.field(default=None, metadata=POSITIVE_LENGTH)

    def _check(self) -> None:
        if self.times is not None and (not isinstance(self.times, int) or self.times < 1):
            raise ValueError(f"times must be an int of at least 1 or None, got {self.times!r}")
        if self.period is None and self.schedule.is_resolved:
            if self.schedule.length is None:
                raise ValueError(f"period must be given: {self.schedule} never ends")
            object.__setattr__(self, "period", self.schedule.length)
            check_length("period", self.period, 1)

    @property
    def length(self) -> int | None:
        """The end of the last repetition; None if there is none."""
        if self.times is None or not isinstance(self.period, int):
            return None
        return self.times * self.period

    def _resolve(self, total: int, rest: int) -> Repeat:
        schedule = self.schedule._resolve(total, rest)
        period = None if self.period is None else resolve_length(self.period, total, rest)
        return Repeat(schedule, self.times, period)

    def _factor(self, step: int) -> float:
        period: Any = self.period
        if self.times is not None and step >= self.times * period:
            return self.schedule._factor(period)
        return self.schedule._factor(step % period)


def from_spec(spec: Mapping[str, Any]) -> Schedule:
    """Build a schedule from what `Schedule.spec` returned.

    Args:
        spec: "name" and the fields of the schedule; fields left out have their defaults.

    Raises:
        ValueError: If the name or a field is unknown, or a value is out of range.
        TypeError: If a field without a default is missing, or `spec` is not a mapping.
    """
    if not isinstance(spec, Mapping):
        raise TypeError(f"a spec must be a mapping with a name, got {spec!r}")
    if not isinstance(spec.get("name"), str):
        raise ValueError(f"a spec needs the name of a schedule, got {dict(spec)!r}")
    cls = find(spec["name"])
    fields = {name: _built(value) for name, value in spec.items() if name != "name"}
    known = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            raise ValueError(unknown_name(f"field of the schedule {cls.name!r}", name, known))
    return cls(**fields)


def find(name: str) -> type[Schedule]:
    """Return the class of a name; case and underscores do not matter.

    Raises:
        ValueError: If there is none.
    """
    wanted = name.lower().replace("_", "")
    for known, cls in _CLASSES.items():
        if known.replace("_", "") == wanted:
            return cls
    raise ValueError(unknown_name("schedule", name, _CLASSES))


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError if a value is none of the choices."""
    if value not in tuple(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _factors(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.factors if isinstance(schedule, Product) else (schedule,)


def _schedules(value: Any) -> list[Schedule]:
    parts = value if isinstance(value, tuple) else (value,)
    return [part for part in parts if isinstance(part, Schedule)]


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.spec()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_spec(value)
    if isinstance(value, (list, tuple)):
        return tuple(_built(part) for part in value)
    return value
