"""Calls the hooks of several callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from hotloop.callbacks.action import (
    Accumulate,
    Action,
    KeepWeights,
    RestoreWeights,
    Save,
    Stop,
    Validate,
)
from hotloop.callbacks.callback import Actions, Callback, TrainState

__all__ = ["Callbacks"]

Hook: TypeAlias = "Callable[..., Actions]"

_LOGGER = logging.getLogger("hotloop")

_ORDER: tuple[type, ...] = (Accumulate, KeepWeights, RestoreWeights, Validate, Save, Stop)


class Callbacks:
    """The callbacks of a run.

    Hooks are called in the order of registration, those whose name ends in "_end" in the
    opposite order. Callbacks may be added and removed during a run, by a hook too: that
    takes effect from the next hook on.

    Args:
        callbacks: The callbacks. Hooks that they do not override are never called.

    Raises:
        TypeError: If one is not a `Callback`.
        ValueError: If one is there twice, two with state have the same `state_key`, or one
            lacks what it requires.
    """

    HOOKS = (
        "on_train_begin",
        "on_epoch_begin",
        "on_batch_begin",
        "on_batch_end",
        "on_step_end",
        "on_step_skipped",
        "on_validation_begin",
        "on_validation_end",
        "on_epoch_end",
        "on_exception",
        "on_train_end",
    )

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._callbacks: tuple[Callback, ...] = ()
        #: The overridden hooks by name, in the order of their calls.
        self.hooks: dict[str, tuple[Hook, ...]] = dict.fromkeys(self.HOOKS, ())
        for callback in callbacks:
            self.add(callback)

    def __iter__(self) -> Iterator[Callback]:
        """Iterate over the callbacks in the order of registration."""
        return iter(self._callbacks)

    def __len__(self) -> int:
        """Return the number of callbacks."""
        return len(self._callbacks)

    def add(self, callback: Callback) -> None:
        """Register a callback after all others."""
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks must be instances of Callback, got {callback!r}")
        if any(callback is other for other in self._callbacks):
            raise ValueError(f"{callback!r} is registered already")
        for required in callback.requires:
            if not any(isinstance(other, required) for other in self._callbacks):
                raise ValueError(
                    f"{type(callback).__name__} needs a {required.__name__} before it among the "
                    "callbacks"
                )
        if _has_state(callback):
            for other in self._callbacks:
                if _has_state(other) and other.state_key == callback.state_key:
                    raise ValueError(
                        f"two callbacks have the state_key {callback.state_key!r}; give one of "
                        "them another"
                    )
        self._register((*self._callbacks, callback))

    def remove(self, callback: Callback) -> None:
        """Forget a callback.

        Raises:
            ValueError: If it is not registered.
        """
        rest = tuple(other for other in self._callbacks if other is not callback)
        if len(rest) == len(self._callbacks):
            raise ValueError(f"{callback!r} is not registered")
        self._register(rest)

    def has_hook(self, callback: Callback, hook: str) -> bool:
        """Tell whether a callback overrides a hook."""
        return getattr(type(callback), hook) is not getattr(Callback, hook)

    def _register(self, callbacks: tuple[Callback, ...]) -> None:
        self._callbacks = callbacks
        for name in self.HOOKS:
            order = callbacks[::-1] if name.endswith("_end") else callbacks
            self.hooks[name] = tuple(
                getattr(callback, name) for callback in order if self.has_hook(callback, name)
            )

    def call(self, hook: str, state: TrainState) -> Sequence[Action]:
        """Call one hook of every callback.

        Args:
            hook: One of `HOOKS`, but for "on_exception".
            state: What the hooks see.

        Returns:
            The actions asked for, in the order in which they are to be applied.

        Raises:
            TypeError: If a hook returns something that is no action.
        """
        actions: list[Action] = []
        for call in self.hooks[hook]:
            asked = call(state)
            if asked is not None:
                actions += _checked(asked, call)
        return _ordered(actions) if actions else ()

    def finish(self, state: TrainState, error: BaseException | None) -> Sequence[Action]:
        """Call `on_exception`, if there is an error, and `on_train_end` of every callback.

        An exception in one of them does not keep the others from their call.

        Args:
            state: What the hooks see.
            error: What ended the run, if it failed.

        Returns:
            What `on_train_end` asked for.

        Raises:
            BaseException: The first exception of a hook, if there is no error. Others are
                logged.
        """
        actions: list[Action] = []
        failure: BaseException | None = None
        calls: list[tuple[Hook, tuple[Any, ...]]] = [
            (call, (state, error)) for call in self.hooks["on_exception"] if error is not None
        ]
        calls += [(call, (state,)) for call in self.hooks["on_train_end"]]
        for call, arguments in calls:
            try:
                actions += _checked(call(*arguments), call)
            except BaseException as raised:
                if failure is None and error is None:
                    failure = raised
                else:
                    _LOGGER.exception("%s failed while the run ended", call.__qualname__)
        if failure is not None:
            raise failure
        return _ordered(actions)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the callbacks that have one, by `state_key`."""
        return {c.state_key: c.state_dict() for c in self._callbacks if _has_state(c)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If the state is of other callbacks.
        """
        own = {callback.state_key: callback for callback in self._callbacks if _has_state(callback)}
        if own.keys() != state.keys():
            raise ValueError(
                f"the state is of the callbacks {sorted(state)}, the run has {sorted(own)}"
            )
        for key, callback in own.items():
            callback.load_state_dict(state[key])


def _has_state(callback: Callback) -> bool:
    return type(callback).state_dict is not Callback.state_dict


def _ordered(actions: list[Action]) -> list[Action]:
    return sorted(actions, key=lambda action: _ORDER.index(type(action)))


def _checked(asked: Actions, hook: Hook) -> list[Action]:
    if asked is None:
        return []
    actions = [asked] if isinstance(asked, _ORDER) else asked
    try:
        listed: list[Any] = list(actions)  # type: ignore[arg-type]
    except TypeError:
        listed = [actions]
    for action in listed:
        if not isinstance(action, _ORDER):
            raise TypeError(
                f"{hook.__qualname__} must return an action ("
                f"{', '.join(kind.__name__ for kind in _ORDER)}), several, or None; "
                f"got {asked!r}"
            )
    return listed
