"""PyTorch's own grid of optimizer options, with ours in the place of its classes.

`optim_db` ships with torch and lists for each optimizer what its test suite constructs,
what must fail and how, and which flags exist. Every optimizer of ours that subclasses one
of torch's is found by itself.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR, AveragedModel

import hotloop.optimizers
from hotloop import backend

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest (dev extra)")
with pytest.MonkeyPatch.context() as patch:
    # torch's test utilities freeze the flags of torch.backends for the whole process.
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

# They load a hypothesis profile of their own, too.
settings.load_profile("default")

Make = Callable[..., torch.optim.Optimizer]

STEPS = 6
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
# torch compares its implementations of one optimizer with assert_close's defaults. Those
# that round bfloat16 after each operator drift from those that round once per step by
# about one bit a step.
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"rtol": 1.3e-6, "atol": 1e-5},
    torch.float64: {"rtol": 1e-7, "atol": 1e-7},
    torch.bfloat16: {"rtol": 2.0**-7 * STEPS, "atol": 2.0**-7},
    torch.complex64: {"rtol": 1.3e-6, "atol": 1e-5},
}


def parent_of(ours: type) -> type:
    # Muon says that it is from torch.optim itself.
    return next(base for base in ours.__mro__ if base.__module__.startswith("torch.optim"))


def find_pairs() -> Iterator[tuple[OptimizerInfo, Make, Make]]:
    known = {info.optim_cls: info for info in optim_db}
    for name in hotloop.optimizers.__all__:
        ours = getattr(hotloop.optimizers, name)
        if isinstance(ours, type) and issubclass(ours, torch.optim.Optimizer):
            parent = parent_of(ours)
            if parent in known:
                yield known[parent], ours, parent


PAIRS = list(find_pairs())
each_pair = pytest.mark.parametrize(
    ("info", "ours", "theirs"), PAIRS, ids=[ours.__name__ for _, ours, _ in PAIRS]
)
each_config = pytest.mark.parametrize(
    ("info", "ours", "theirs", "config"),
    [
        pytest.param(info, ours, theirs, config, id=f"{ours.__name__}-{config.desc}")
        for info, ours, theirs in PAIRS
        for config in info.optim_inputs_func(device="cpu")
    ],
)


# What torch alone can do is part of the grid.
pytestmark = pytest.mark.usefixtures("lenient")


def test_the_grid_is_not_empty() -> None:
    names = {ours.__name__ for _, ours, _ in PAIRS}
    assert names >= {"SGD", "Adam", "AdamW", "Muon"}
    assert {theirs for _, _, theirs in PAIRS} >= {torch.optim.SGD, torch.optim.AdamW}


def make_params(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    # Two dimensions each, which is all that Muon takes.
    generator = torch.Generator().manual_seed(3)
    shapes = [(5, 3), (1, 1), (17, 40), (2, 2)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def loop_options(info: OptimizerInfo) -> dict[str, bool]:
    """Return what asks torch for its single-tensor loop."""
    return {"foreach": False} if "foreach" in info.supported_impls else {}


def give_grads(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for index, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        # One parameter's gradient comes and goes.
        param.grad = None if index == 3 and step % 3 == 0 else grad.to(param.dtype)


def take_step(optimizer: torch.optim.Optimizer, params: list[Tensor], step: int) -> None:
    give_grads(params, step)
    optimizer.step()


def copy_config(config: Any) -> dict[str, Any]:
    return copy.deepcopy(config.kwargs)


def assert_like(a: list[Tensor], b: list[Tensor], **tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **(tolerance or TOLERANCES[y.dtype]))


def assert_same_keys(ours: Any, theirs: Any) -> None:
    """Compare names, dtypes and shapes of all state."""
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine["state"].keys() == other["state"].keys()
    for index, entry in other["state"].items():
        assert mine["state"][index].keys() == entry.keys()
        for key, value in entry.items():
            got = mine["state"][index][key]
            assert type(got) is type(value)
            if isinstance(value, Tensor):
                assert (got.dtype, got.shape) == (value.dtype, value.shape)
    for a, b in zip(mine["param_groups"], other["param_groups"], strict=True):
        own = ours.own_options.keys()
        assert a.keys() - own == b.keys() - own


def outcome(run: Callable[[], Any]) -> Any:
    """Return what `run` returns, or the type and message of what it raises."""
    try:
        return run()
    except Exception as error:
        return type(error), str(error)


def train(
    make: Make, dtype: torch.dtype, options: dict[str, Any], is_differentiable: bool = False
) -> tuple[list[Tensor], Any]:
    params = make_params(dtype)
    if is_differentiable:
        params = [param.clone() for param in params]
        for param in params:
            param.retain_grad()
    optimizer = make(params, **options)
    for step in range(STEPS):
        take_step(optimizer, params, step)
    return params, optimizer


@each_config
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flag", ["none", "foreach", "no foreach", "fused", "no fused"])
def test_valid_config(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any, dtype: torch.dtype, flag: str
) -> None:
    name = flag.removeprefix("no ")
    if name != "none" and name not in info.supported_impls:
        pytest.skip(f"{theirs.__name__} has no {name}")
    options = {} if name == "none" else {name: name == flag}
    mine = outcome(lambda: train(ours, dtype, {**copy_config(config), **options}))
    if flag == "fused" and theirs is torch.optim.SGD and backend.current().name == "native":
        # torch 2.13's fused SGD raises a TypeError when a second gradient comes later than
        # the others' first, and gives bfloat16 parameters of 32 elements and more values
        # that are several roundings away from those of its loop.
        options = {"foreach": False}
    other = outcome(lambda: train(theirs, dtype, {**copy_config(config), **options}))
    if isinstance(other[0], type):
        assert mine == other
        return
    assert_like(mine[0], other[0])
    assert_same_keys(mine[1], other[1])
    if backend.current().name == "native":
        assert mine[1].fallback_reason is None


@each_config
@pytest.mark.parametrize("flag", ["differentiable", "capturable"])
def test_flags_without_a_kernel(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any, flag: str
) -> None:
    is_supported = info.has_capturable_arg if flag == "capturable" else flag in info.supported_impls
    runs = [
        outcome(
            lambda make=make: train(
                make,
                torch.float32,
                {**copy_config(config), flag: True},
                is_differentiable=flag == "differentiable",
            )
        )
        for make in (ours, theirs)
    ]
    if isinstance(runs[1][0], type):
        assert runs[0][0] is runs[1][0]
        # Python's message names the class that refused the keyword.
        assert runs[0][1].replace(ours.__module__, "") == runs[1][1].replace(theirs.__module__, "")
        return
    assert is_supported
    assert_like(runs[0][0], runs[1][0])


ERRORS = [
    pytest.param(
        info, ours, theirs, error, id=f"{ours.__name__}-{error.optimizer_error_input.desc}"
    )
    for info, ours, theirs in PAIRS
    for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
]


@pytest.mark.parametrize(("info", "ours", "theirs", "error"), ERRORS)
def test_invalid_config_raises_what_torch_raises(
    info: OptimizerInfo, ours: Make, theirs: Make, error: Any
) -> None:
    case = error.optimizer_error_input

    def run(make: Make) -> None:
        params = make_params() if case.params is None else case.params
        optimizer = make(params, **copy_config(case))
        optimizer.step()

    with pytest.raises(error.error_type, match=error.error_regex) as caught:
        run(ours)
    assert outcome(lambda: run(theirs)) == (type(caught.value), str(caught.value))


@each_pair
def test_a_parameter_listed_twice_is_stepped_twice(
    info: OptimizerInfo, ours: Make, theirs: Make
) -> None:
    results = []
    for make in (ours, theirs):
        (param, *_) = make_params()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = make([param, param], lr=0.1, **loop_options(info))
        for step in range(3):
            take_step(optimizer, [param], step)
        results.append([param])
    assert_like(*results)


@each_pair
@pytest.mark.parametrize("kind", ["sparse", "complex"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_kinds_of_tensors(info: OptimizerInfo, ours: Make, theirs: Make, kind: str) -> None:
    def run(make: Make) -> list[Tensor]:
        params = make_params(torch.complex64 if kind == "complex" else torch.float32)[:1]
        options = info.metadata_for_sparse[0] if kind == "sparse" else {}
        optimizer = make(params, **options)
        for step in range(STEPS):
            give_grads(params, step)
            if kind == "sparse":
                values = params[0].grad[:2]
                params[0].grad = torch.sparse_coo_tensor(
                    [[0, step % 4]], values, (5, 3), check_invariants=False
                )
            optimizer.step()
        return params

    mine, other = outcome(lambda: run(ours)), outcome(lambda: run(theirs))
    if isinstance(other, tuple):
        assert mine == other
    else:
        assert_like(mine, other)


@each_config
def test_schedules(info: OptimizerInfo, ours: Make, theirs: Make, config: Any) -> None:
    for makers in info.scheduler_inputs:
        results = []
        for make in (ours, theirs):
            params = make_params()
            optimizer = make(params, **copy_config(config))
            schedules = [schedule(optimizer) for schedule in makers]
            for step in range(STEPS):
                take_step(optimizer, params, step)
                for schedule in schedules:
                    is_plateau = isinstance(schedule, ReduceLROnPlateau)
                    schedule.step(1.0) if is_plateau else schedule.step()
            results.append((params, float(optimizer.param_groups[0]["lr"])))
        assert_like(results[0][0], results[1][0])
        assert results[0][1] == pytest.approx(results[1][1], rel=1e-12)


def copied_through_torch_save(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@each_config
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_state_dict_moves_both_ways(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any, dtype: torch.dtype
) -> None:
    """Three runs that change class half-way end where torch's own does."""
    results = {}
    for first in (ours, theirs):
        for second in (ours, theirs):
            params = make_params(dtype)
            optimizer = first(params, **copy_config(config))
            for step in range(STEPS):
                if step == STEPS // 2:
                    state = copied_through_torch_save(optimizer.state_dict())
                    optimizer = second(params, **copy_config(config))
                    optimizer.load_state_dict(state)
                take_step(optimizer, params, step)
            results[first, second] = params
    for pair, params in results.items():
        if pair != (theirs, theirs):
            assert_like(params, results[theirs, theirs])
    # Loading makes no difference to ours.
    uninterrupted, _ = train(ours, dtype, copy_config(config))
    assert_like(results[ours, ours], uninterrupted, rtol=0, atol=0)


@each_config
def test_state_dict_of_an_older_torch_loads(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any
) -> None:
    options = copy_config(config)
    params = make_params()
    optimizer = ours(params, **options)
    take_step(optimizer, params, 1)
    state = copy.deepcopy(optimizer.state_dict())
    for flag in info.not_og_supported_flags:
        if flag not in options:
            for group in state["param_groups"]:
                group.pop(flag, None)
    results = []
    for make in (ours, theirs):
        loaded = [param.detach().clone().requires_grad_() for param in params]
        second = make(loaded, **copy_config(config))
        second.load_state_dict(copy.deepcopy(state))
        take_step(second, loaded, 2)
        results.append(loaded)
    assert_like(*results)


@each_config
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any, copier: Any
) -> None:
    params = make_params()
    optimizer = ours(params, **copy_config(config))
    for step in range(STEPS):
        if step == 3:
            params, optimizer = copier((params, optimizer))
        take_step(optimizer, params, step)
    assert_like(params, train(ours, torch.float32, copy_config(config))[0], rtol=0, atol=0)


@each_config
def test_add_param_group(info: OptimizerInfo, ours: Make, theirs: Make, config: Any) -> None:
    results = []
    for make in (ours, theirs):
        params = make_params()
        optimizer = make(params[:1], **copy_config(config))
        take_step(optimizer, params, 0)
        optimizer.add_param_group({"params": params[1:3]})
        take_step(optimizer, params, 1)
        optimizer.add_param_group({"params": params[3:], "lr": 0.5, "weight_decay": 0.2})
        for step in range(2, STEPS):
            take_step(optimizer, params, step)
        results.append(params)
    assert_like(*results)


@each_config
def test_lr_as_tensor(info: OptimizerInfo, ours: Make, theirs: Make, config: Any) -> None:
    results = []
    for make in (ours, theirs):
        params = make_params()
        options = {**copy_config(config), **loop_options(info), "lr": torch.tensor(0.01)}
        optimizer = outcome(lambda make=make, p=params, o=options: make(p, **o))
        if isinstance(optimizer, tuple):
            results.append(optimizer)
            continue
        for step in range(STEPS):
            take_step(optimizer, params, step)
            optimizer.param_groups[0]["lr"].mul_(0.5)
        results.append(params)
    if isinstance(results[1], tuple):
        assert results[0] == results[1]
    else:
        assert_like(*results)


@each_config
def test_nothing_happens_without_gradients(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any
) -> None:
    params = make_params()
    optimizer = ours(params, **copy_config(config))
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert_like(params, make_params(), rtol=0, atol=0)
    other = theirs(make_params(), **copy_config(config))
    other.step()
    assert_same_keys(optimizer, other)


@each_config
def test_zero_gradients_are_not_missing_gradients(
    info: OptimizerInfo, ours: Make, theirs: Make, config: Any
) -> None:
    results = []
    for make in (ours, theirs):
        params = make_params()
        optimizer = make(params, **copy_config(config))
        take_step(optimizer, params, 1)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            optimizer.step()
        results.append(params)
    assert_like(*results)


@each_pair
def test_named_parameters(info: OptimizerInfo, ours: Make, theirs: Make) -> None:
    params = make_params()
    named = ours([(f"layer{i}", param) for i, param in enumerate(params)], lr=0.1)
    take_step(named, params, 1)
    assert named.param_groups[0]["param_names"] == [f"layer{i}" for i in range(len(params))]
    plain_params = make_params()
    plain = theirs(plain_params, lr=0.1)
    plain.load_state_dict(named.state_dict())
    assert_same_keys(named, plain)


@each_pair
def test_state_dict_hooks_run(info: OptimizerInfo, ours: Make, theirs: Make) -> None:
    events: list[str] = []
    params = make_params()
    optimizer = ours(params, lr=0.1)
    optimizer.register_state_dict_pre_hook(lambda _: events.append("state_dict pre"))
    optimizer.register_state_dict_post_hook(lambda *_: events.append("state_dict post"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: events.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda _: events.append("load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert events == ["state_dict pre", "state_dict post", "load pre", "load post"]


@each_pair
def test_default_dtype_float64(info: OptimizerInfo, ours: Make, theirs: Make) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        mine, _ = train(ours, torch.float64, {"lr": 0.1})
        other, _ = train(theirs, torch.float64, {"lr": 0.1})
    finally:
        torch.set_default_dtype(torch.float32)
    assert_like(mine, other)


@each_pair
def test_stochastic_weight_averaging(info: OptimizerInfo, ours: Make, theirs: Make) -> None:
    results = []
    for make in (ours, theirs):
        torch.manual_seed(0)
        model = nn.Linear(6, 3, bias=False)
        averaged = AveragedModel(model)
        optimizer = make(model.parameters(), lr=0.05)
        schedule = SWALR(optimizer, swa_lr=0.01, anneal_epochs=3)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(8, 6)).square().mean().backward()
            optimizer.step()
            averaged.update_parameters(model)
            schedule.step()
        results.append([*averaged.module.parameters()])
    assert_like(*results)
