"""libtorch's functions: used where they answer as expected, and replaced where they do not."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop import backend, runtime
from hotloop.optimizers import SGD, Adam, AdamW
from hotloop.optimizers.plan import Plan
from hotloop.runtime import Runtime
from tests.conftest import needs_native

pytestmark = needs_native

OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "SGD": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "momentum": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (Adam, torch.optim.Adam, {"fused": True, "amsgrad": True}),
    "AdamW": (AdamW, torch.optim.AdamW, {"fused": True}),
}
BUMP_VERSION = "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"
GRAD = "_ZNK3c1010TensorImpl4gradEv"


class _Trial:
    """A runtime made under changed conditions, put in the place of this process's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.chosen = backend.current()

    def rename(self, table: str, old: str, new: str) -> None:
        """Look up `new` wherever the runtime would look up `old`."""
        names = getattr(runtime, table)
        if isinstance(names, str):
            changed: Any = new
        elif isinstance(names, dict):
            changed = {key: new if name == old else name for key, name in names.items()}
        else:
            changed = tuple(new if name == old else name for name in names)
        assert changed != names
        self._monkeypatch.setattr(runtime, table, changed)

    def start(self) -> Runtime:
        made = Runtime(self.chosen.kernels)
        replaced = dataclasses.replace(self.chosen, runtime=made)
        self._monkeypatch.setattr(backend, "current", lambda: replaced)
        return made


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> _Trial:
    return _Trial(monkeypatch)


def _check_like_torch(name: str) -> None:
    """Take steps with gradients that come and go, and compare everything with torch."""
    make, reference, options = OPTIMIZERS[name]
    sizes = (1, 17, 300, 5000)
    mine = [torch.randn(size, requires_grad=True) for size in sizes]
    other = [param.detach().clone().requires_grad_() for param in mine]
    ours, theirs = make(mine, **options), reference(other, **options)
    for step in range(6):
        for index, (a, b) in enumerate(zip(mine, other)):
            a.grad = None if (step + index) % 3 == 0 else torch.randn_like(a)
            b.grad = None if a.grad is None else a.grad.clone()
        if step == 3:
            ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.01
        versions = [param._version for param in mine]
        ours.step()
        theirs.step()
        assert ours.fallback_reason is None
        for a, b, version in zip(mine, other, versions):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            assert a._version == version + (a.grad is not None)
            for key, value in theirs.state.get(b, {}).items():
                if value is not None:
                    torch.testing.assert_close(ours.state[a][key], value, rtol=0, atol=0)


def test_accessors_are_used_on_this_torch() -> None:
    chosen = backend.current().runtime
    assert chosen.reason == ""
    assert chosen.accessors
    assert "tensor access: libtorch\n" in backend.describe()
    assert (chosen.words[: -runtime._SCRATCH_WORDS - 3] > 4096).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_plan_is_kept_with_accessors(name: str) -> None:
    make, _, options = OPTIMIZERS[name]
    param = torch.randn(40, requires_grad=True)
    optimizer = make([param], **options)
    plans = set()
    for _ in range(4):
        param.grad = torch.randn(40)
        optimizer.step()
        plans.add(optimizer._plan)
    assert len(plans) == 1
    _check_like_torch(name)


SYMBOLS = [
    *(("_ACCESSORS", name) for name in runtime._ACCESSORS),
    *(("_CONSTANTS", name) for name in runtime._CONSTANTS),
    *(("_DTYPES", name) for name in runtime._DTYPES.values()),
    ("_UNDEFINED", runtime._UNDEFINED),
]


@pytest.mark.parametrize(("table", "symbol"), SYMBOLS)
def test_each_missing_symbol_is_survived(trial: _Trial, table: str, symbol: str) -> None:
    trial.rename(table, symbol, "hotloop_has_no_such_symbol")
    made = trial.start()
    assert not made.accessors
    assert made.reason.startswith(f"torch {torch.__version__} answers otherwise: ")
    assert "hotloop_has_no_such_symbol" in made.reason
    assert f"tensor access: Python ({made.reason})" in backend.describe()
    _check_like_torch("AdamW")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rebuilt_plans_step_as_torch_does(trial: _Trial, name: str) -> None:
    trial.rename("_ACCESSORS", GRAD, "hotloop_has_no_such_symbol")
    assert not trial.start().accessors
    _check_like_torch(name)


def test_plan_is_rebuilt_without_accessors(trial: _Trial) -> None:
    trial.rename("_ACCESSORS", GRAD, "hotloop_has_no_such_symbol")
    trial.start()
    param = torch.randn(40, requires_grad=True)
    optimizer = AdamW([param])
    plans: list[Plan] = []
    for _ in range(4):
        param.grad = torch.randn(40)
        optimizer.step()
        assert not any(optimizer._plan is plan for plan in plans)
        plans.append(optimizer._plan)


@pytest.mark.parametrize(
    ("symbol", "liar", "reason"),
    [
        # Takes nothing and returns a number.
        (BUMP_VERSION, "aoti_torch_device_type_cpu", "bump_version did not count"),
        # Writes a number of elements where an address is expected.
        ("torch_get_const_data_ptr", "aoti_torch_get_numel", "grad returned another tensor"),
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lying_symbol_is_found_out(
    trial: _Trial, name: str, symbol: str, liar: str, reason: str
) -> None:
    trial.rename("_ACCESSORS", symbol, liar)
    made = trial.start()
    assert not made.accessors
    assert reason in made.reason
    _check_like_torch(name)


def test_grad_that_finds_no_gradient_is_found_out(
    trial: _Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = trial.chosen.runtime.words
    undefined = ctypes.c_int64(int(words[-runtime._SCRATCH_WORDS - 1]))

    @ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def no_grad(tensor: int) -> int:
        return ctypes.addressof(undefined)

    address = Runtime._address

    def lie(self: Runtime, name: str) -> int:
        if name == GRAD:
            return int(ctypes.cast(no_grad, ctypes.c_void_p).value or 0)
        return address(self, name)

    monkeypatch.setattr(Runtime, "_address", lie)
    made = trial.start()
    assert not made.accessors
    assert "TensorImpl::grad returned another tensor" in made.reason
    _check_like_torch("Adam")


def test_torch_that_gives_no_handles_is_survived(
    trial: _Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch._C, "_aoti")
    monkeypatch.delitem(sys.modules, "torch._C._aoti", raising=False)
    made = trial.start()
    assert not made.accessors
    assert "cannot import name '_aoti'" in made.reason
    _check_like_torch("AdamW")


def test_torch_without_its_thread_pool_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_PARALLEL_FOR", "hotloop_has_no_such_symbol")
    with pytest.raises(AttributeError, match="hotloop_has_no_such_symbol"):
        Runtime(backend.current().kernels)


class _Handles:
    """Which handles exist, by what was made and deleted."""

    def __init__(self) -> None:
        self.alive: Counter[int] = Counter()
        self.made = 0


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Handles]:
    chosen = backend.current().runtime
    if not chosen.accessors:
        pytest.skip("no handles without libtorch's accessors")
    gc.collect()
    count = _Handles()
    new_handle, delete = Runtime.new_handle, chosen._delete

    def counting_new(self: Runtime, tensor: Tensor) -> int:
        handle = new_handle(self, tensor)
        count.alive[handle] += 1
        count.made += 1
        return handle

    def counting_delete(handle: int) -> None:
        # Another optimizer's handles, made before this test, may be deleted in it.
        if handle in count.alive:
            count.alive -= Counter([handle])
        delete(handle)

    monkeypatch.setattr(Runtime, "new_handle", counting_new)
    monkeypatch.setattr(chosen, "_delete", counting_delete)
    yield count
    gc.collect()
    assert not count.alive


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_handles_die_with_their_optimizer(name: str, handles: _Handles) -> None:
    make, _, options = OPTIMIZERS[name]
    params = [torch.randn(20, requires_grad=True) for _ in range(3)]
    optimizer = make(params, **options)
    for param in params:
        param.grad = torch.ones(20)
    optimizer.step()
    made = handles.made
    states = {"SGD": 0, "momentum": 1, "Adam": 4, "AdamW": 3}[name]
    assert made == 3 * (1 + states)
    optimizer.step()
    assert (handles.made, handles.alive.total()) == (made, made)
    # A handle shares in owning its tensor: while it is there, the tensor cannot die.
    watched = [weakref.ref(param) for param in params]
    del optimizer, params, param
    gc.collect()
    assert not handles.alive
    assert [ref() for ref in watched] == [None] * 3


def test_handles_are_replaced_with_their_plan(handles: _Handles) -> None:
    params = [torch.randn(20, requires_grad=True) for _ in range(2)]
    optimizer = AdamW(params[:1])
    for param in params:
        param.grad = torch.ones(20)
    optimizer.step()
    assert handles.alive.total() == 4
    first = optimizer._plan
    optimizer.add_param_group({"params": params[1:]})
    optimizer.step()
    assert optimizer._plan is not first
    assert handles.alive.total() == 4 + 8
    del first
    gc.collect()
    assert handles.alive.total() == 8


def test_handles_die_when_the_state_is_loaded(handles: _Handles) -> None:
    param = torch.randn(20, requires_grad=True)
    optimizer = AdamW([param])
    param.grad = torch.ones(20)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    gc.collect()
    assert not handles.alive
    optimizer.step()
    assert handles.alive.total() == 4
