"""The plan of an optimizer's step: everything the kernels need, as arrays of words.

Building a plan validates every tensor, creates missing state and records which Python
objects it saw. A step then costs one call: the kernels compare the recorded objects and
the tensors' layout, read the current addresses through libtorch, and run. If anything
differs, they touch nothing and the plan is built anew.

`hotloop.layout` tells where each word lies.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotloop.backend import Backend
from hotloop.layout import (
    BLOCK,
    KERNELS,
    RECORD_WORDS,
    SUMS_MAX,
    ContextWord,
    HandleWord,
    LaunchWord,
    Outcome,
    PlanWord,
    RowWord,
)
from hotloop.memory import use_huge_pages
from hotloop.optimizers.average import WeightAverage

__all__ = ["DTYPES", "NOTHING", "Around", "Plan", "Rule", "StateLayout", "UnsupportedError"]

State = MutableMapping[Tensor, dict[str, Any]]
Words = npt.NDArray[np.int64]

#: The dtypes that have kernels, as kernels count them.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


class UnsupportedError(Exception):
    """The kernels cannot take this step; the message says why."""


class StateLayout(NamedTuple):
    """What memory a state tensor has, other than the step and further scalars.

    Attributes:
        dtype: Its dtype.
        span: How many elements of the parameter share one of the state.
    """

    dtype: torch.dtype
    span: int = 1

    def numel(self, param: Tensor) -> int:
        """Return how many elements the state of `param` has."""
        return -(-param.numel() // self.span)


class Rule(Protocol):
    """What a plan asks of an optimizer class."""

    param_groups: list[dict[str, Any]]

    #: Names of the hyperparameters in a group, in the order of the Mojo rule's fields
    #: once flattened by `hyperparameters`, and of the options that choose the kernel.
    options: tuple[str, ...]

    #: Name of the state's float32 count of steps; None if the rule keeps none.
    step_name: str | None

    #: Names of further float32 states with one element, in the kernel's order.
    scalar_names: tuple[str, ...]

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel, one of `KERNELS`."""

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the fields of the Mojo rule as floats."""

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the state tensors, in the kernel's order."""

    def param_kernel(self, kernel: str, param: Tensor) -> str:
        """Return the name of the kernel for one parameter of a group with `kernel`."""

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the state tensors of a parameter by name, in the kernel's order.

        All parameters of one kernel and one dtype have the same, but for the spans, and
        but for parameters without elements, which may have none.
        """

    def parts(self, param: Tensor) -> int:
        """Return into how many parts the kernel divides a parameter, each with scratch.

        Only kernels of factored state do; others have 0.
        """

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter before its first step."""


class Around(NamedTuple):
    """What a step does beside the update.

    Attributes:
        grad_scale: float32 CPU tensor with one element that divides the gradients, in
            place, before they are used.
        max_norm: The largest norm of all gradients; the update sees larger ones scaled
            down. inf only measures; None does not even measure.
        grad_factor: Multiplies the gradients before they are measured and used.
        average_weight: How far the averages move to the new parameters; 0 for none.
        zero_grad: Whether the gradients become 0 at the end.
        is_updated: Whether there is an update at all.
    """

    grad_scale: Tensor | None = None
    max_norm: float | None = None
    grad_factor: float = 1.0
    average_weight: float = 0.0
    zero_grad: bool = False
    is_updated: bool = True


#: Only the update.
NOTHING = Around()


@dataclass
class Group:
    """A param group as the plan saw it."""

    group: dict[str, Any]
    params: list[Tensor]
    values: tuple[Any, ...]
    kernel: str
    has_tensors: bool


@dataclass
class _Row:
    param: Tensor
    group: int
    is_fresh: bool
    layouts: dict[str, StateLayout]
    parts: int = 0
    states: list[Tensor] = field(default_factory=list)
    scalars: list[Tensor] = field(default_factory=list)
    step: Tensor | None = None

    @property
    def has_state(self) -> bool:
        return bool(self.states) or self.step is not None


class _Launch(NamedTuple):
    """The arrays of one call of a kernel."""

    rows: list[_Row]
    context: Words
    table: Words
    handles: Words


class Plan:
    """The words of one optimizer's step.

    Attributes:
        averaged: The parameters whose averages the kernels move.

    Args:
        rule: The optimizer.
        state: Its state, completed here for every parameter with a gradient.
        backend: The native backend.

    Raises:
        UnsupportedError: If a tensor or an option is not for the kernels. No state has
            been created then.
        RuntimeError: If a gradient or a state has another size than its parameter.
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

        launches: dict[tuple[str, torch.dtype], list[_Row]] = {}
        for index, group in enumerate(self.groups):
            for position, param in enumerate(group.params):
                name = f"param_groups[{index}]['params'][{position}]"
                row = _make_row(rule, param, index, group.group, state.get(param), name)
                # Without a gradient any tensor is watched, lest it get one.
                dtype = param.dtype if param.dtype in DTYPES else torch.float32
                kernel = rule.param_kernel(group.kernel, param)
                launches.setdefault((kernel, dtype), []).append(row)
        rows = list(itertools.chain.from_iterable(launches.values()))
        _refuse_overlaps([row.param for row in rows if row.param.grad is not None])
        # Only now, since a step that ends up on torch must find the state as it was.
        for row in rows:
            if row.is_fresh:
                _create_state(rule, state, row, self.groups[row.group].group)

        self._kept: list[object] = []
        self._handles: list[int] = []
        self._updated = [row.param for row in rows if row.param.grad is not None]
        self._launches = [
            self._write_launch(kernel, dtype, rows) for (kernel, dtype), rows in launches.items()
        ]
        self._objects = self._record_objects() if self.is_checked else None
        contexts = [launch.context.ctypes.data for launch in self._launches]
        self._words = words = np.zeros(PlanWord.END + len(contexts), np.int64)
        self._numbers = words.view(np.float64)
        words[PlanWord.RUNTIME] = self._runtime.words.ctypes.data
        words[PlanWord.OBJECTS] = 0 if self._objects is None else self._objects.ctypes.data
        words[PlanWord.LAUNCHES] = len(contexts)
        words[PlanWord.END :] = contexts
        self._address = words.ctypes.data
        self._around: Around | None = None
        self._averages: Mapping[Tensor, Tensor] | None = None
        self.averaged: set[Tensor] = set()
        self._average_handles: list[int] = []
        # Not at exit: by then libtorch may be gone.
        for handles in (self._handles, self._average_handles):
            weakref.finalize(self, self._runtime.delete_handles, handles).atexit = False

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

    def hyperparameters(self, group: int) -> list[float]:
        """Return the fields of a group's Mojo rule, which its steps may change."""
        assert self._hyperparameters is not None
        values: list[float] = self._hyperparameters[group].tolist()
        return values

    def take_values(self) -> None:
        """Let the groups' values be those of the plan, which the caller took from it."""
        for known in self.groups:
            known.values = self._read(known.group)

    def share_state(self) -> None:
        """Check the state at every step from now on, since others may change it."""
        self._words[PlanWord.STATE_IS_SHARED] = 1

    @property
    def address(self) -> int:
        """Where the words are, for a loop that takes steps itself."""
        return self._address

    def begin_loop(self, around: Around) -> None:
        """Prepare for steps that look at no Python object, after a `run` found all as it was.

        Args:
            around: What to do beside the updates.
        """
        self._write_around(around)

    def places(self, rule: Rule, name: str) -> list[npt.NDArray[np.float64]]:
        """Return where a number of each group lies, as views of one element.

        Args:
            rule: The optimizer.
            name: The number's name in a group, such as "lr".

        Raises:
            UnsupportedError: If it is not one field of the rule.
        """
        assert self._hyperparameters is not None
        places = []
        for index, group in enumerate(rule.param_groups):
            values = rule.hyperparameters(group)
            others = rule.hyperparameters({**group, name: group[name] + 1.0})
            fields = [i for i, (a, b) in enumerate(zip(values, others)) if a != b]
            if len(fields) != 1:
                raise UnsupportedError(f"{name} is not one number of the kernel")
            places.append(self._hyperparameters[index, fields[0] : fields[0] + 1])
        return places

    def end_loop(self) -> None:
        """Tell autograd that the parameters were modified in place."""
        torch.autograd.graph.increment_version(self._updated)

    @property
    def norm(self) -> float:
        """The norm of all gradients that the last step measured."""
        return float(self._numbers[PlanWord.NORM])

    def run(self, around: Around = NOTHING, average: WeightAverage | None = None) -> int:
        """Take the step, and return an `Outcome`.

        If the plan is stale (`Outcome.CHANGED`), nothing was done; if a measured norm is
        not finite, nothing but what `zero_grad` asks for.

        Args:
            around: What to do beside the update.
            average: Moved by `around.average_weight`; the tensors in `averaged` are done.
        """
        if average is not None and average.averages is not self._averages:
            self._write_averages(average.averages)
        if around is not self._around:
            self._write_around(around)
        outcome = self._step(self._address)
        if outcome == Outcome.DONE and around.is_updated and not self.is_checked:
            torch.autograd.graph.increment_version(self._updated)
        return outcome

    def _write_averages(self, averages: Mapping[Tensor, Tensor]) -> None:
        self._averages = averages
        self.averaged = set()
        self._runtime.delete_handles(self._average_handles)
        self._average_handles.clear()
        for launch in self._launches:
            for row, words, handles in zip(launch.rows, launch.table, launch.handles):
                average = averages.get(row.param)
                words[RowWord.AVERAGE] = handles[HandleWord.AVERAGE] = 0
                if average is None or not _can_average(row.param, average):
                    continue
                self.averaged.add(row.param)
                words[RowWord.PARAM] = row.param.data_ptr()
                words[RowWord.AVERAGE] = average.data_ptr()
                if self.is_checked:
                    handle = self._runtime.new_handle(average)
                    self._average_handles.append(handle)
                    handles[HandleWord.AVERAGE] = handle

    def _write_around(self, around: Around) -> None:
        words, numbers, scale = self._words, self._numbers, around.grad_scale
        words[PlanWord.IS_NORM_MEASURED] = around.max_norm is not None
        words[PlanWord.IS_UPDATED] = around.is_updated
        words[PlanWord.GRAD_SCALE] = 0 if scale is None else scale.data_ptr()
        words[PlanWord.ZERO_GRAD] = around.zero_grad
        numbers[PlanWord.MAX_NORM] = math.inf if around.max_norm is None else around.max_norm
        numbers[PlanWord.GRAD_FACTOR] = around.grad_factor
        numbers[PlanWord.AVERAGE_WEIGHT] = around.average_weight
        # A scale must stay alive as long as its address is used.
        self._around = around

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

    def _write_launch(self, kernel: str, dtype: torch.dtype, rows: list[_Row]) -> _Launch:
        assert self._hyperparameters is not None
        table = np.zeros((len(rows), RowWord.END), np.int64)
        handles = np.zeros((len(rows), HandleWord.END), np.int64)
        counters = np.zeros(len(rows), np.float32)
        blocks = 0
        for index, row in enumerate(rows):
            words = table[index]
            words[RowWord.NUMEL] = row.param.numel()
            words[RowWord.FIRST_BLOCK] = blocks
            words[RowWord.GROUP] = row.group
            blocks += -(-row.param.numel() // BLOCK)
            if row.param.dim() > 1:
                words[RowWord.ROWS], words[RowWord.COLUMNS] = row.param.shape[-2:]
            if row.parts:
                columns = row.param.shape[-1]
                scratch = np.zeros((row.parts, columns + SUMS_MAX), np.float64)
                words[RowWord.PARTS] = row.parts
                words[RowWord.SCRATCH] = scratch.ctypes.data
                self._kept.append(scratch)
            watched = {HandleWord.PARAM: row.param}
            if row.has_state or row.param.grad is not None:
                words[RowWord.PARAM] = row.param.data_ptr()
                if row.param.grad is not None:
                    words[RowWord.GRAD] = row.param.grad.data_ptr() or 1
                for s, state in enumerate(row.states):
                    words[RowWord.STATE + s] = state.data_ptr()
                    watched[HandleWord.STATE + s] = state
                for s, scalar in enumerate(row.scalars):
                    words[RowWord.SCALAR + s] = scalar.data_ptr()
                    watched[HandleWord.SCALAR + s] = scalar
                if row.step is None:
                    counters[index] = 0 if row.is_fresh else 1
                    words[RowWord.STEP] = counters.ctypes.data + 4 * index
                else:
                    words[RowWord.STEP] = row.step.data_ptr()
                    watched[HandleWord.STEP] = row.step
            if self.is_checked:
                for word, tensor in watched.items():
                    handles[index, word] = self._new_handle(tensor)
        records = np.zeros((len(rows), RECORD_WORDS), np.int64)
        held = np.zeros(len(rows), np.int64)
        partials = np.zeros(blocks * SUMS_MAX, np.float64)
        context = np.zeros(LaunchWord.END, np.int64)
        context[ContextWord.TABLE] = table.ctypes.data
        context[ContextWord.TENSORS] = len(rows)
        context[ContextWord.BLOCKS] = blocks
        context[ContextWord.HYPERPARAMETERS] = self._hyperparameters.ctypes.data
        context[ContextWord.HYPERPARAMETERS_STRIDE] = self._hyperparameters.shape[1]
        context[ContextWord.RECORDS] = records.ctypes.data
        context[ContextWord.ELEMENTS] = sum(row.param.numel() for row in rows)
        context[ContextWord.PARTIALS] = partials.ctypes.data
        context[ContextWord.GROUPS] = len(self._hyperparameters)
        context[LaunchWord.KERNEL] = KERNELS.index(kernel)
        context[LaunchWord.KERNEL_DTYPE] = DTYPES[dtype]
        context[LaunchWord.DTYPE] = self._runtime.dtype_number(dtype)
        context[LaunchWord.FLOAT32] = self._runtime.dtype_number(torch.float32)
        context[LaunchWord.HANDLES] = handles.ctypes.data
        context[LaunchWord.HELD] = held.ctypes.data
        # Tensors without state may have dtypes that libtorch's numbers are not known of.
        layouts = [row.layouts.values() for row in rows if row.has_state and row.layouts]
        for s, (first, *others) in enumerate(zip(*layouts)):
            context[LaunchWord.STATE_DTYPE + s] = self._runtime.dtype_number(first.dtype)
            is_same = all(layout == first for layout in others)
            context[LaunchWord.STATE_SPAN + s] = first.span if is_same else 0
        self._kept += [counters, records, held, partials]
        return _Launch(rows, context, table, handles)

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
    rule: Rule,
    param: Tensor,
    index: int,
    group: dict[str, Any],
    state: dict[str, Any] | None,
    name: str,
) -> _Row:
    if isinstance(param, torch.nn.parameter.UninitializedParameter):
        raise UnsupportedError(f"{name} is not initialized")
    layouts = rule.state_layouts(param, group)
    if param.grad is None and not state:
        return _Row(param, index, is_fresh=False, layouts=layouts)
    _check_param(param, name)
    if param.is_inference():
        raise UnsupportedError(f"{name} is an inference tensor")
    if param.grad is not None:
        _check_plain(param.grad, f"{name}.grad")
        _check_like(param.grad, param.dtype, param.numel(), f"{name}.grad")
    if not state or (rule.step_name is None and all(state.get(key) is None for key in layouts)):
        is_fresh = param.grad is not None
        return _Row(param, index, is_fresh, layouts, parts=rule.parts(param) if is_fresh else 0)
    row = _Row(param, index, is_fresh=False, layouts=layouts, parts=rule.parts(param))
    _read_state(rule, row, state, name)
    return row


def _create_state(rule: Rule, states: State, row: _Row, group: dict[str, Any]) -> None:
    created = rule.create_state(row.param, group)
    if created:
        states.setdefault(row.param, {}).update(created)
        # The parameter is read and written as often as its state.
        use_huge_pages(row.param, is_filled=True)
    _read_state(rule, row, created, "a new parameter")


def _read_state(rule: Rule, row: _Row, state: dict[str, Any], name: str) -> None:
    for key, layout in row.layouts.items():
        _check_plain(state.get(key), f"{key} of {name}")
        _check_like(state[key], layout.dtype, layout.numel(row.param), f"{key} of {name}")
    scalars = rule.scalar_names if rule.step_name is None else (rule.step_name, *rule.scalar_names)
    for key in scalars:
        scalar, label = state.get(key), f"{key} of {name}"
        _check_plain(scalar, label)
        if state[key].dtype != torch.float32 or state[key].numel() != 1:
            raise UnsupportedError(
                f"{label} is {state[key].dtype} with {state[key].numel()} elements"
            )
    row.states = [state[key] for key in row.layouts]
    row.scalars = [state[key] for key in rule.scalar_names]
    row.step = None if rule.step_name is None else state[rule.step_name]


def _can_average(param: Tensor, average: Tensor) -> bool:
    """Tell whether the kernels can keep `average` of `param`."""
    try:
        _check_param(param, "")
        _check_plain(average, "")
        _check_like(average, param.dtype, param.numel(), "")
    except (UnsupportedError, RuntimeError):
        return False
    return not param.is_inference()


def _check_plain(tensor: Any, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise UnsupportedError(f"{name} is a {type(tensor).__name__}, not a tensor")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise UnsupportedError(f"{name} is a {type(tensor).__name__}, which dispatches itself")
    if tensor.device.type != "cpu":
        raise UnsupportedError(f"{name} is on {tensor.device}")
    if tensor.layout != torch.strided:
        raise UnsupportedError(f"{name} has layout {tensor.layout}")
    if not tensor.is_contiguous():
        raise UnsupportedError(f"{name} is not contiguous")


def _check_param(param: Tensor, name: str) -> None:
    _check_plain(param, name)
    if param.dtype not in DTYPES:
        raise UnsupportedError(f"{name} has dtype {param.dtype}")


def _check_like(tensor: Tensor, dtype: torch.dtype, numel: int, name: str) -> None:
    if tensor.dtype != dtype:
        raise UnsupportedError(f"{name} has dtype {tensor.dtype}, the kernel needs {dtype}")
    if tensor.numel() != numel:
        # Not for torch either, whose fused kernels would read past the end.
        raise RuntimeError(f"{name} must have {numel} elements, got {tensor.numel()}")


def _refuse_overlaps(params: list[Tensor]) -> None:
    # Two threads may update two parameters at once, so shared memory would race.
    spans = sorted((param.data_ptr(), param.nbytes) for param in params if param.numel())
    for (start, size), (following, _) in itertools.pairwise(spans):
        if start + size > following:
            raise UnsupportedError("two parameters share memory")
