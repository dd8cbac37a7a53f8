"""Our optimizers in the places where programs use torch's."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from hotloop import BackendError, backend
from hotloop.optimizers import SGD, Adam, AdamW
from hotloop.optimizers import optimizer as optimizer_module
from tests.conftest import needs_native

OURS = [AdamW, Adam, SGD]
OPTIONS: dict[type, dict[str, Any]] = {
    AdamW: {"lr": 0.01},
    Adam: {"lr": 0.01, "amsgrad": True},
    SGD: {"lr": 0.01, "momentum": 0.9, "dampening": 0.5},
}
TORCH: dict[type, Callable[..., Any]] = {
    AdamW: lambda *a, **k: torch.optim.AdamW(*a, **k, fused=True),
    Adam: lambda *a, **k: torch.optim.Adam(*a, **k, fused=True),
    SGD: torch.optim.SGD,
}

each_optimizer = pytest.mark.parametrize("ours", OURS)


class Pair:
    """The same parameters under our optimizer and under torch's."""

    def __init__(self, ours: type, *sizes: int, dtype: torch.dtype = torch.float32) -> None:
        self.mine = [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]
        self.other = [param.detach().clone().requires_grad_() for param in self.mine]
        self.ours = ours(self.mine, **OPTIONS[ours])
        self.theirs = TORCH[ours](self.other, **OPTIONS[ours])

    def step(self, *without_grad: int) -> None:
        for index, (a, b) in enumerate(zip(self.mine, self.other)):
            grad = None if index in without_grad else torch.randn_like(a)
            a.grad, b.grad = grad, None if grad is None else grad.clone()
        self.ours.step()
        self.theirs.step()

    def check(self) -> None:
        for a, b in zip(self.mine, self.other):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            assert (a in self.ours.state) == (b in self.theirs.state)
            for key, value in self.theirs.state.get(b, {}).items():
                torch.testing.assert_close(self.ours.state[a][key], value, rtol=0, atol=0)

    def check_native(self) -> None:
        if backend.current().name == "native":
            assert self.ours.fallback_reason is None


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid falling back, as HOTLOOP_BACKEND=native does."""
    forbidden = backend.Backend(**{**vars(backend.current()), "is_strict": True})
    monkeypatch.setattr(optimizer_module.backend, "current", lambda: forbidden)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow falling back, as HOTLOOP_BACKEND=auto does."""
    chosen = backend.current()
    allowed = backend.Backend(**{**vars(chosen), "is_strict": False})
    monkeypatch.setattr(optimizer_module.backend, "current", lambda: allowed)


@each_optimizer
def test_grads_appear_disappear_and_are_replaced(ours: type) -> None:
    pair = Pair(ours, 5, 40, 1000)
    for without in [(0, 1), (0,), (), (2,), (), (0, 1, 2), ()]:
        pair.step(*without)
        pair.check()
    pair.check_native()


@each_optimizer
def test_grads_updated_in_place(ours: type) -> None:
    pair = Pair(ours, 33)
    for _ in range(3):
        pair.step()
        for _ in range(3):
            grad = torch.randn(33)
            pair.mine[0].grad.copy_(grad)
            pair.other[0].grad.copy_(grad)
            pair.ours.step()
            pair.theirs.step()
            pair.check()


@each_optimizer
def test_parameter_data_is_swapped(ours: type) -> None:
    pair = Pair(ours, 20, 30)
    pair.step()
    pair.check()
    old = pair.mine[0].data
    kept = old.clone()
    new = torch.randn(20)
    pair.mine[0].data = new
    pair.other[0].data = new.clone()
    pair.step()
    pair.check()
    assert pair.mine[0].data_ptr() == new.data_ptr()
    torch.testing.assert_close(old, kept, rtol=0, atol=0)


@each_optimizer
def test_state_is_replaced_and_swapped(ours: type) -> None:
    pair = Pair(ours, 20, 30)
    pair.step()
    key = "momentum_buffer" if ours is SGD else "exp_avg"
    new = torch.randn(20)
    old = pair.ours.state[pair.mine[0]][key]
    kept = old.clone()
    pair.ours.state[pair.mine[0]][key] = new.clone()
    pair.theirs.state[pair.other[0]][key] = new.clone()
    pair.step()
    pair.check()
    torch.testing.assert_close(old, kept, rtol=0, atol=0)
    new = torch.randn(30)
    pair.ours.state[pair.mine[1]][key].data = new.clone()
    pair.theirs.state[pair.other[1]][key].data = new.clone()
    pair.step()
    pair.check()
    del pair.ours.state[pair.mine[0]]
    del pair.theirs.state[pair.other[0]]
    pair.step()
    pair.check()
    pair.check_native()


@needs_native
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(
    ("which", "other"),
    [
        *itertools.product(["param", "grad", "exp_avg"], ["shorter", "narrower"]),
        ("step", "narrower"),
    ],
)
def test_other_memory_at_the_same_address_is_noticed(which: str, other: str) -> None:
    size = 1 if which == "step" else 100
    memory = torch.zeros(2 * size)
    param = torch.zeros(100, requires_grad=True)
    param.grad = torch.ones(100)
    optimizer = AdamW([param], lr=0.1)
    optimizer.step()
    tensor = ({"param": param, "grad": param.grad} | optimizer.state[param])[which]
    tensor.data = memory[:size]
    optimizer.step()
    assert optimizer.fallback_reason is None
    shorter = memory[: size // 2]
    narrower = memory.view(torch.bfloat16)[:size]
    tensor.data = shorter if other == "shorter" else narrower
    behind = memory[(size + 1) // 2 :].clone()
    if other == "shorter":
        with pytest.raises(RuntimeError, match=r"must have \d+ elements, got"):
            optimizer.step()
    else:
        # Torch takes the step, or refuses to.
        with contextlib.suppress(RuntimeError):
            optimizer.step()
        assert "bfloat16" in optimizer.fallback_reason
    assert torch.equal(memory[(size + 1) // 2 :], behind)


@each_optimizer
def test_an_assigned_state_is_watched(ours: type) -> None:
    pair = Pair(ours, 20)
    pair.step()
    key = "momentum_buffer" if ours is SGD else "exp_avg"
    # Taken without `optimizer.state`, as whoever builds a state of their own would.
    mine, other = (dict(o.__dict__["state"]) for o in (pair.ours, pair.theirs))
    pair.ours.state, pair.theirs.state = mine, other
    pair.step()
    new = torch.randn(20)
    mine[pair.mine[0]][key], other[pair.other[0]][key] = new.clone(), new.clone()
    pair.step()
    pair.check()


@each_optimizer
def test_groups_with_their_own_values(ours: type) -> None:
    options = OPTIONS[ours]
    mine = [torch.randn(n, requires_grad=True) for n in (5, 6, 7)]
    other = [param.detach().clone().requires_grad_() for param in mine]
    results = []
    for make, params in ((ours, mine), (TORCH[ours], other)):
        groups = [
            {"params": params[:1], "lr": 0.1, "weight_decay": 0.0},
            {"params": params[1:2], "weight_decay": 0.5, "maximize": True},
        ]
        optimizer = make(groups, **options)
        torch.manual_seed(1)
        for step in range(6):
            for param in params:
                param.grad = torch.randn_like(param)
            if step == 2:
                optimizer.add_param_group({"params": params[2:], "lr": 0.3})
            if step == 3:
                optimizer.param_groups[0]["lr"] = 0.05
            if step == 4:
                optimizer.param_groups[1]["lr"] = torch.tensor(0.02)
            if step == 5:
                optimizer.param_groups[1]["lr"].fill_(0.01)
            optimizer.step()
        results.append(params)
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_kernel_option_changed_between_steps() -> None:
    pair = Pair(SGD, 9)
    pair.step()
    for optimizer in (pair.ours, pair.theirs):
        optimizer.param_groups[0].update(nesterov=True, dampening=0)
    pair.step()
    pair.check()


@each_optimizer
def test_state_dict_moves_both_ways(ours: type) -> None:
    pair = Pair(ours, 5, 300)
    pair.step(0)
    pair.step()
    state = pair.ours.state_dict()
    theirs = copy.deepcopy(pair.theirs.state_dict())
    assert state["state"].keys() == theirs["state"].keys()
    skipped = {"fused", *ours.own_options}
    assert {k: v for k, v in state["param_groups"][0].items() if k not in skipped} == {
        k: v for k, v in theirs["param_groups"][0].items() if k not in skipped
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    pair.theirs.load_state_dict(loaded)
    pair.theirs.param_groups[0]["fused"] = ours is not SGD
    pair.ours.load_state_dict(theirs)
    pair.step()
    pair.check()
    pair.check_native()


@each_optimizer
def test_loaded_state_is_not_written_through_a_stale_plan(ours: type) -> None:
    pair = Pair(ours, 50)
    pair.step()
    saved = copy.deepcopy(pair.ours.state_dict())
    saved_theirs = copy.deepcopy(pair.theirs.state_dict())
    params = [pair.mine[0].detach().clone(), pair.other[0].detach().clone()]
    pair.step()
    pair.ours.load_state_dict(saved)
    pair.theirs.load_state_dict(saved_theirs)
    with torch.no_grad():
        pair.mine[0].copy_(params[0])
        pair.other[0].copy_(params[1])
    pair.step()
    pair.check()


@each_optimizer
def test_deepcopy_and_pickle_are_independent(ours: type) -> None:
    pair = Pair(ours, 50)
    pair.step()
    # Together, so that the copy's parameter is the one in its groups.
    param, optimizer = copy.deepcopy((pair.mine[0], pair.ours))
    param2, optimizer2 = pickle.loads(pickle.dumps((pair.mine[0], pair.ours)))
    assert type(optimizer) is type(optimizer2) is ours
    grad = torch.randn(50)
    before = pair.mine[0].detach().clone()
    for p, o in ((param, optimizer), (param2, optimizer2)):
        p = o.param_groups[0]["params"][0]
        p.grad = grad.clone()
        o.step()
        torch.testing.assert_close(pair.mine[0], before, rtol=0, atol=0)
    pair.mine[0].grad = grad
    pair.ours.step()
    for o in (optimizer, optimizer2):
        torch.testing.assert_close(o.param_groups[0]["params"][0], pair.mine[0], rtol=0, atol=0)


@each_optimizer
def test_closure(ours: type) -> None:
    pair = Pair(ours, 3)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        assert torch.is_grad_enabled()
        pair.ours.zero_grad()
        loss = (pair.mine[0] ** 2).sum()
        loss.backward()
        return loss

    before = pair.mine[0].detach().clone()
    with torch.no_grad():
        loss = pair.ours.step(closure)
    assert calls == 1
    torch.testing.assert_close(loss, (before**2).sum())
    assert not torch.equal(pair.mine[0], before)


@each_optimizer
def test_hooks_run_once_and_in_order(ours: type) -> None:
    # torch wraps its own class when it is first constructed.
    pair = Pair(ours, 3)
    events: list[str] = []
    pair.ours.register_step_pre_hook(lambda *_: events.append("pre"))
    pair.ours.register_step_post_hook(lambda *_: events.append("post"))
    handles = [
        register_optimizer_step_pre_hook(lambda *_: events.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: events.append("global post")),
    ]
    try:
        pair.mine[0].grad = torch.ones(3)
        pair.ours.step()
    finally:
        for handle in handles:
            handle.remove()
    assert events == ["global pre", "pre", "post", "global post"]


def test_hook_replaces_the_closure() -> None:
    param = torch.zeros(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = SGD([param], lr=1.0)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 42), {}))
    assert optimizer.step() == 42


def test_subclass_with_its_own_step_runs_hooks_once() -> None:
    class Counting(AdamW):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            return super().step(closure)

    param = torch.zeros(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = Counting([param])
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("pre"))
    optimizer.step()
    assert (optimizer.steps, events) == (1, ["pre"])


def test_profiler_shows_the_step_as_torch_names_it() -> None:
    param = torch.zeros(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = AdamW([param])
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.name for event in profile.events()}


@each_optimizer
def test_torch_lr_scheduler_drives_it(ours: type) -> None:
    pair = Pair(ours, 30)
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        for optimizer in (pair.ours, pair.theirs)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            pair.step()
            for schedule in schedules:
                schedule.step()
    pair.check()


@each_optimizer
def test_autograd_notices_the_update(ours: type) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = ours([param], **OPTIONS[ours])
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    version = param._version
    optimizer.step()
    assert param._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("found", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ours", [AdamW, Adam])
def test_grad_scaler_protocol(ours: Any, dtype: torch.dtype, found: float) -> None:
    params = [torch.randn(45, dtype=dtype, requires_grad=True) for _ in range(2)]
    params += [param.detach().clone().requires_grad_() for param in params]
    optimizers = [
        ours(params[:2], fused=True),
        getattr(torch.optim, ours.__name__)(params[2:], fused=True),
    ]
    for step in range(4):
        for a, b in zip(params[:2], params[2:]):
            a.grad = torch.randn_like(a) * 3
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            if step != 2:
                optimizer.grad_scale = torch.tensor(8.0)
                optimizer.found_inf = torch.tensor(found)
            optimizer.step()
            if step != 2:
                del optimizer.grad_scale, optimizer.found_inf
        for a, b in zip(params[:2], params[2:]):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            if found == 0:
                torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
            for key, value in optimizers[1].state[b].items():
                torch.testing.assert_close(optimizers[0].state[a][key], value, rtol=0, atol=0)


def test_real_grad_scaler() -> None:
    results = []
    for make in (AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = make(model.parameters(), fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        for step in range(5):
            loss = model(torch.randn(8, 4)).square().mean()
            scaler.scale(loss * (float("inf") if step == 2 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=0)


UNSUPPORTED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "non-contiguous": (lambda: torch.randn(6, 4).t(), "not contiguous"),
    "complex": (lambda: torch.randn(4, dtype=torch.complex64), "complex64"),
    "half": (lambda: torch.randn(4, dtype=torch.float16), "float16"),
    "meta": (lambda: torch.empty(4, device="meta"), "on meta"),
}


@needs_native
@each_optimizer
@pytest.mark.parametrize("kind", UNSUPPORTED)
@pytest.mark.usefixtures("lenient")
def test_what_has_no_kernel_runs_on_torch(ours: type, kind: str) -> None:
    make, reason = UNSUPPORTED[kind]
    value = make()
    mine, other = value.detach().requires_grad_(), value.clone().detach().requires_grad_()
    optimizer = ours([mine], **OPTIONS[ours])
    theirs = getattr(torch.optim, ours.__name__)([other], **OPTIONS[ours])
    for _ in range(3):
        mine.grad = torch.ones_like(mine)
        other.grad = torch.ones_like(other)
        optimizer.step()
        theirs.step()
    assert reason in optimizer.fallback_reason
    if kind != "meta":
        torch.testing.assert_close(mine, other)


@needs_native
@pytest.mark.parametrize("kind", UNSUPPORTED)
@pytest.mark.usefixtures("lenient")
def test_what_has_no_kernel_is_noticed_when_it_gets_a_gradient(kind: str) -> None:
    make, reason = UNSUPPORTED[kind]
    plain, late = torch.ones(3, requires_grad=True), make().detach().requires_grad_()
    before = late.detach().clone()
    optimizer = AdamW([plain, late])
    plain.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.fallback_reason is None
    late.grad = torch.ones_like(late)
    optimizer.step()
    assert reason in optimizer.fallback_reason
    assert len(optimizer.state) == 2
    if kind != "meta":
        assert not torch.equal(late, before)


@needs_native
@pytest.mark.usefixtures("lenient")
def test_params_that_are_no_list() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = SGD([param], lr=1.0)
    optimizer.step()
    optimizer.param_groups[0]["params"] = (param,)
    optimizer.step()
    assert optimizer.fallback_reason == "a group's params are a tuple, not a list"
    assert param.tolist() == [-1, -1, -1]


@needs_native
@pytest.mark.usefixtures("lenient")
def test_sparse_gradients() -> None:
    results = []
    for make in (SGD, torch.optim.SGD):
        torch.manual_seed(0)
        table = nn.Embedding(10, 3, sparse=True)
        optimizer = make(table.parameters(), lr=0.1)
        table(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
        results.append(table.weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=0)


@needs_native
@pytest.mark.usefixtures("lenient")
def test_step_goes_back_and_forth_between_kernels_and_torch() -> None:
    pair = Pair(SGD, 24)
    flat, transposed = torch.randn(24), torch.randn(4, 6).t()
    for step in range(6):
        data = flat.view(6, 4) if step % 2 else transposed
        for param in (*pair.mine, *pair.other):
            param.grad = None
            if step == 0:
                param.data = data.clone(memory_format=torch.preserve_format)
        grads = torch.randn(6, 4)
        for param in (*pair.mine, *pair.other):
            param.grad = grads if step % 2 else grads.t().contiguous().t()
            param.grad = param.grad.clone(memory_format=torch.preserve_format)
        if step == 3:
            for param, optimizer in ((pair.mine[0], pair.ours), (pair.other[0], pair.theirs)):
                param.data = param.data.contiguous()
                buffer = optimizer.state[param]["momentum_buffer"]
                optimizer.state[param]["momentum_buffer"] = buffer.contiguous()
        pair.ours.step()
        pair.theirs.step()
        pair.check()


@needs_native
@pytest.mark.usefixtures("strict")
def test_native_refuses_to_fall_back() -> None:
    param = torch.randn(6, 4).t().requires_grad_()
    param.grad = torch.ones_like(param)
    optimizer = AdamW([param])
    with pytest.raises(BackendError, match=r"params'\]\[0\] is not contiguous.*BACKEND=auto"):
        optimizer.step()


@needs_native
@pytest.mark.usefixtures("lenient")
def test_a_refused_first_step_leaves_no_state_behind() -> None:
    pair = Pair(SGD, 5, 6)
    grads = [torch.randn(5), torch.randn(6)]
    strided = torch.zeros(12)[::2]
    for params in (pair.mine, pair.other):
        params[0].grad = grads[0].clone()
        params[1].grad = strided.copy_(grads[1])
    pair.ours.step()
    pair.theirs.step()
    pair.check()
    assert "grad is not contiguous" in pair.ours.fallback_reason


@needs_native
@pytest.mark.usefixtures("lenient")
def test_parameters_that_share_memory_run_on_torch() -> None:
    memory = torch.zeros(10)
    params = [memory[:6].detach().requires_grad_(), memory[4:].detach().requires_grad_()]
    for param in params:
        param.grad = torch.ones(6)
    optimizer = SGD(params, lr=1.0)
    optimizer.step()
    assert optimizer.fallback_reason == "two parameters share memory"
    assert memory.tolist() == [-1, -1, -1, -1, -2, -2, -1, -1, -1, -1]


@needs_native
@pytest.mark.parametrize("option", ["capturable", "differentiable"])
@pytest.mark.usefixtures("lenient")
def test_options_of_torch_alone(option: str) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = AdamW([param], **{option: True})
    param.grad = torch.ones(3)
    if option == "capturable":
        with pytest.raises(AssertionError, match="capturable=True"):
            optimizer.step()
    else:
        leaf = param.clone()
        leaf.retain_grad()
        leaf.grad = torch.ones(3)
        optimizer = AdamW([leaf], differentiable=True)
        optimizer.step()
        assert optimizer.fallback_reason == "differentiable=True"


def step_once(make: Any, param: Tensor) -> None:
    optimizer = make([param], lr=0.1)
    param.grad = torch.ones(3)
    optimizer.step()


def test_inference_tensor_raises_as_in_torch() -> None:
    with torch.inference_mode():
        param = torch.ones(3)
    for make in (SGD, torch.optim.SGD):
        with pytest.raises(Exception, match=r"[Ii]nference"):
            step_once(make, param)


BAD = [
    (AdamW, {"lr": -1.0}, "Invalid learning rate: -1.0"),
    (AdamW, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
    (Adam, {"eps": -1.0}, "Invalid epsilon value: -1.0"),
    (Adam, {"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
    (SGD, {"momentum": -1.0}, "Invalid momentum value: -1.0"),
    (SGD, {"nesterov": True}, "Nesterov momentum requires a momentum"),
]


@pytest.mark.parametrize(("ours", "options", "message"), BAD)
def test_bad_hyperparameters_raise_torchs_errors(
    ours: type, options: dict[str, Any], message: str
) -> None:
    for make in (ours, getattr(torch.optim, ours.__name__)):
        with pytest.raises(ValueError, match=message):
            make([torch.zeros(1)], **options)


@each_optimizer
def test_two_threads_step_two_models(ours: type) -> None:
    pairs = [Pair(ours, 200_000, 7) for _ in range(2)]
    grads = [[torch.randn(200_000), torch.randn(7)] for _ in pairs]
    errors: list[BaseException] = []

    def train(optimizer: Any, params: list[Tensor], values: list[Tensor]) -> None:
        try:
            for _ in range(30):
                for param, value in zip(params, values):
                    param.grad = value.clone()
                optimizer.step()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=train, args=(pair.ours, pair.mine, values))
        for pair, values in zip(pairs, grads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for pair, values in zip(pairs, grads):
        train(pair.theirs, pair.other, values)
        pair.check()


@needs_native
def test_a_large_step_lets_other_threads_run() -> None:
    param = torch.randn(8_000_000, requires_grad=True)
    param.grad = torch.randn(8_000_000)
    optimizer = AdamW([param])
    optimizer.step()
    torch.set_num_threads(1)
    ticks = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0)

    # No thread is made to give up the GIL for the length of the test: the other one counts
    # only where this one lets go of it by itself.
    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    start, steps = 0, 0
    try:
        sys.setswitchinterval(1000)
        thread.start()
        start = ticks
        while ticks == start and steps < 1000:
            optimizer._plan.run()
            steps += 1
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert ticks > start, f"no other thread ran in {steps} steps"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@each_optimizer
def test_compiled_step(ours: type) -> None:
    pair = Pair(ours, 12)
    compiled = torch.compile(pair.ours.step, backend="eager")
    for _ in range(3):
        pair.mine[0].grad = torch.randn(12)
        pair.other[0].grad = pair.mine[0].grad.clone()
        compiled()
        pair.theirs.step()
        torch.testing.assert_close(*pair.mine, *pair.other)
