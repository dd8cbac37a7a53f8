"""The plan of an optimizer's step: everything the kernels need, as arrays of words.

Building a plan validates every tensor, creates missing state and records which Python
objects it saw. A step then costs one call: the kernels compare the recorded objects and
the tensors' layout, read the current addresses through libtorch, and run. If anything
differs, they touch nothing and the plan is built anew.

The layout of the arrays is that of `shared/training/core/table.mojo` (table, context)
and `shared/bindings/plan.mojo` (launch, plan, handles); `hotloop.backend.LAYOUT` guards it.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.backend import LAYOUT, Backend

__all__ = ["DTYPES", "Group", "Plan", "Rule", "UnsupportedError"]

State = MutableMapping[Tensor, dict[str, Any]]
Words = npt.NDArray[np.int64]

#: The dtypes that have kernels, and where each one's kernel follows the float32 one.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


class UnsupportedError(Exception):
    """The kernels cannot take this step; the message says why."""


class Rule(Protocol):
    """What a plan asks of an optimizer class."""

    param_groups: list[dict[str, Any]]

    #: Names of the hyperparameters in a group, in the order of the Mojo rule's fields
    #: once flattened by `hyperparameters`, and of the options that choose the kernel.
    options: tuple[str, ...]

    #: Name of the state's float32 count of steps; None if the rule keeps none.
    step_name: str | None

    def kernel(self, group: dict[str, Any]) -> int:
        """Return the number of the group's float32 kernel, `Kernel` in Mojo."""

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of the Mojo rule as floats."""

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the state tensors, in the kernel's order."""

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter before its first step."""


@dataclass
class Group:
    """A param group as the plan saw it."""

    group: dict[str, Any]
    params: list[Tensor]
    values: tuple[Any, ...]
    kernel: int
    has_tensors: bool


@dataclass
class _Row:
    param: Tensor
    group: int
    states: list[Tensor]
    step: Tensor | None
    is_fresh: bool

    @property
    def has_state(self) -> bool:
        return bool(self.states) or self.step is not None


class Plan:
    """The words of one optimizer's step.

    Args:
        rule: The optimizer.
        state: Its state, completed here for every parameter with a gradient.
        backend: The native backend.

    Raises:
        UnsupportedError: If a tensor or an option is not for the kernels. No state has
            been created then.
    """

    def __init__(self, rule: Rule, state: State, backend: Backend) -> None:
        assert backend.kernels is not None
        assert backend.runtime is not None
        self._runtime = backend.runtime
        self._step: Callable[[int], int] = backend.kernels.step
        self.is_checked = self._runtime.accessors
        self.state = state
        self._read = itemgetter(*rule.options)
        self._hyperparameters: npt.NDArray[np.float64] | None = None
        if not isinstance(state, dict):
            raise UnsupportedError(f"the state is a {type(state).__name__}, not a dict")
        self.groups = [self._read_group(rule, group) for group in rule.param_groups]
        hyperparameters = [rule.hyperparameters(group) for group in rule.param_groups]
        self._hyperparameters = np.array(hyperparameters, np.float64)

        launches: dict[tuple[int, torch.dtype], list[_Row]] = {}
        for index, group in enumerate(self.groups):
            names = rule.state_names(group.group)
            for position, param in enumerate(group.params):
                name = f"param_groups[{index}]['params'][{position}]"
                row = _make_row(param, index, state.get(param), names, rule.step_name, name)
                # Without a gradient any tensor is watched, lest it get one.
                dtype = param.dtype if param.dtype in DTYPES else torch.float32
                launches.setdefault((group.kernel, dtype), []).append(row)
        rows = list(itertools.chain.from_iterable(launches.values()))
        _refuse_overlaps([row.param for row in rows if row.param.grad is not None])
        # Only now, since a step that ends up on torch must find the state as it was.
        for row in rows:
            if row.is_fresh:
                _create_state(rule, state, row, self.groups[row.group].group)

        self._kept: list[object] = []
        self._handles: list[int] = []
        self._updated = [row.param for row in rows if row.param.grad is not None]
        contexts = [
            self._write_launch(kernel, dtype, rows) for (kernel, dtype), rows in launches.items()
        ]
        objects = self._record_objects() if self.is_checked else None
        self.words = np.array(
            [
                self._runtime.words.ctypes.data,
                0 if objects is None else objects.ctypes.data,
                0,
                len(contexts),
                *(context.ctypes.data for context in contexts),
            ],
            np.int64,
        )
        self._contexts = contexts
        self._is_scaled = False
        self._objects = objects
        self._address = self.words.ctypes.data
        # Not at exit: by then libtorch may be gone.
        weakref.finalize(self, self._runtime.delete_handles, self._handles).atexit = False

    def is_current(self, rule: Rule) -> bool:
        """Tell whether the groups are those of the plan, and take over their values.

        A changed learning rate is written to the plan; a change that needs another
        kernel, other parameters or other groups makes the plan stale.
        """
        groups = rule.param_groups
        if rule.__dict__["state"] is not self.state or len(groups) != len(self.groups):
            return False
        for index, (group, known) in enumerate(zip(groups, self.groups)):
            if group is not known.group or group["params"] is not known.params:
                return False
            if known.has_tensors or self._read(group) != known.values:
                now = self._read_group(rule, group)
                if now.kernel != known.kernel:
                    return False
                self.groups[index] = now
                assert self._hyperparameters is not None
                self._hyperparameters[index] = rule.hyperparameters(group)
        return self.is_checked

    def share_state(self) -> None:
        """Check the state at every step from now on, since others may change it."""
        self.words[2] = 1

    def run(self, grad_scale: Tensor | None = None) -> bool:
        """Take the step, or return False if the plan is stale and nothing was done.

        Args:
            grad_scale: float32 CPU tensor with one element that divides the gradients,
                in place, before they are used.
        """
        if grad_scale is not None or self._is_scaled:
            scale = 0 if grad_scale is None else grad_scale.data_ptr()
            for context in self._contexts:
                context[6] = scale
            self._is_scaled = scale != 0
        if self._step(self._address):
            return False
        if not self.is_checked:
            torch.autograd.graph.increment_version(self._updated)
        return True

    def _read_group(self, rule: Rule, group: dict[str, Any]) -> Group:
        values, params = self._read(group), group["params"]
        if not isinstance(params, list):
            raise UnsupportedError(f"a group's params are a {type(params).__name__}, not a list")
        return Group(
            group=group,
            params=params,
            values=values,
            kernel=rule.kernel(group),
            has_tensors=any(isinstance(value, Tensor) for value in values),
        )

    def _write_launch(self, kernel: int, dtype: torch.dtype, rows: list[_Row]) -> Words:
        assert self._hyperparameters is not None
        table = np.zeros((len(rows), LAYOUT["row"]), np.int64)
        handles = np.zeros((len(rows), LAYOUT["handle"]), np.int64)
        records = np.zeros((len(rows), LAYOUT["record"]), np.int64)
        held = np.zeros(len(rows), np.int64)
        counters = np.zeros(len(rows), np.float32)
        blocks = 0
        for index, row in enumerate(rows):
            words = table[index]
            words[6:9] = row.param.numel(), blocks, row.group
            blocks += -(-row.param.numel() // LAYOUT["block"])
            if self.is_checked:
                handles[index, 0] = self._new_handle(row.param)
            if not row.has_state and row.param.grad is None:
                continue
            words[0] = row.param.data_ptr()
            if row.param.grad is not None:
                words[1] = row.param.grad.data_ptr() or 1
            for s, state in enumerate(row.states):
                words[2 + s] = state.data_ptr()
                if self.is_checked:
                    handles[index, 1 + s] = self._new_handle(state)
            if row.step is None:
                counters[index] = 0 if row.is_fresh else 1
                words[5] = counters.ctypes.data + 4 * index
            else:
                words[5] = row.step.data_ptr()
                if self.is_checked:
                    handles[index, 4] = self._new_handle(row.step)
        self._kept += [table, handles, records, held, counters, rows]
        return np.array(
            [
                table.ctypes.data,
                len(rows),
                blocks,
                self._hyperparameters.ctypes.data,
                self._hyperparameters.shape[1],
                records.ctypes.data,
                0,
                sum(row.param.numel() for row in rows),
                kernel + DTYPES[dtype],
                self._runtime.dtype_number(dtype),
                handles.ctypes.data,
                held.ctypes.data,
            ],
            np.int64,
        )

    def _new_handle(self, tensor: Tensor) -> int:
        self._handles.append(self._runtime.new_handle(tensor))
        return self._handles[-1]

    def _record_objects(self) -> Words:
        words: list[int] = [len(self.groups)]
        for group in self.groups:
            words += [id(group.params), len(group.params), *map(id, group.params)]
        dicts: list[Any] = [self.state]
        dicts += [entry for entry in self.state.values() if type(entry) is dict]
        words.append(len(dicts))
        for entries in dicts:
            pairs = itertools.chain.from_iterable(entries.items())
            recorded = list(pairs)
            words += [id(entries), len(entries), *map(id, recorded)]
            self._kept += [entries, *recorded]
        self._kept += [list(group.params) for group in self.groups]
        return np.array(words, np.int64)


def _make_row(
    param: Tensor,
    group: int,
    state: dict[str, Any] | None,
    names: tuple[str, ...],
    step_name: str | None,
    name: str,
) -> _Row:
    if isinstance(param, torch.nn.parameter.UninitializedParameter):
        raise UnsupportedError(f"{name} is not initialized")
    if param.grad is None and not state:
        return _Row(param, group, [], None, is_fresh=False)
    _check_plain(param, name)
    if param.is_inference():
        raise UnsupportedError(f"{name} is an inference tensor")
    if param.grad is not None:
        _check_plain(param.grad, f"{name}.grad")
        _check_like(param.grad, param, f"{name}.grad")
    if not state or (step_name is None and all(state.get(key) is None for key in names)):
        return _Row(param, group, [], None, is_fresh=param.grad is not None)
    for key in names:
        _check_plain(state.get(key), f"{key} of {name}")
        _check_like(state[key], param, f"{key} of {name}")
    step: Any = None
    if step_name is not None:
        step = state.get(step_name)
        label = f"{step_name} of {name}"
        _check_plain(step, label)
        if step.dtype != torch.float32 or step.numel() != 1:
            raise UnsupportedError(f"{label} is {step.dtype} with {step.numel()} elements")
    return _Row(param, group, [state[key] for key in names], step, is_fresh=False)


def _create_state(rule: Rule, states: State, row: _Row, group: dict[str, Any]) -> None:
    created = rule.create_state(row.param, group)
    if created:
        states.setdefault(row.param, {}).update(created)
    row.states = [created[name] for name in rule.state_names(group)]
    row.step = None if rule.step_name is None else created[rule.step_name]


def _check_plain(tensor: Any, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise UnsupportedError(f"{name} is a {type(tensor).__name__}, not a tensor")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise UnsupportedError(f"{name} is a {type(tensor).__name__}, which dispatches itself")
    if tensor.device.type != "cpu":
        raise UnsupportedError(f"{name} is on {tensor.device}")
    if tensor.layout != torch.strided:
        raise UnsupportedError(f"{name} has layout {tensor.layout}")
    if tensor.dtype not in DTYPES:
        raise UnsupportedError(f"{name} has dtype {tensor.dtype}")
    if not tensor.is_contiguous():
        raise UnsupportedError(f"{name} is not contiguous")


def _check_like(tensor: Tensor, param: Tensor, name: str) -> None:
    if tensor.dtype != param.dtype:
        raise UnsupportedError(f"{name} has dtype {tensor.dtype}, its parameter {param.dtype}")
    if tensor.numel() != param.numel():
        raise UnsupportedError(
            f"{name} has {tensor.numel()} elements, its parameter {param.numel()}"
        )


def _refuse_overlaps(params: list[Tensor]) -> None:
    # Two threads may update two parameters at once, so shared memory would race.
    spans = sorted((param.data_ptr(), param.nbytes) for param in params if param.numel())
    for (start, size), (following, _) in itertools.pairwise(spans):
        if start + size > following:
            raise UnsupportedError("two parameters share memory")
