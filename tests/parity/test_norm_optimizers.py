"""Optimizers that measure whole tensors: kernels against twins, twins against peers."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

from hotloop.optimizers import LAMB, LARS, NativeStep, Prodigy, WeightAverage
from hotloop.optimizers.lamb import TorchLAMB
from hotloop.optimizers.lars import TorchLARS
from hotloop.optimizers.prodigy import TorchProdigy
from tests.conftest import needs_native

Options = dict[str, Any]

LENGTHS = [*range(40), 255, 256, 257, 1000, 5000]
TWINS: dict[type, type] = {LAMB: TorchLAMB, LARS: TorchLARS, Prodigy: TorchProdigy}
CASES: list[tuple[type, Options]] = [
    (LAMB, {"lr": 0.1}),
    (LAMB, {"lr": 0.1, "weight_decay": 0.0, "maximize": True}),
    (LAMB, {"lr": torch.tensor(0.1), "betas": (0.5, 0.9), "eps": 1e-3}),
    (LARS, {"lr": 1.0}),
    (LARS, {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.1}),
    (LARS, {"lr": torch.tensor(1.0), "dampening": 0.3, "weight_decay": 0.1}),
    (LARS, {"lr": 1.0, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    (Prodigy, {"d0": 1e-3}),
    (Prodigy, {"d0": 1e-3, "weight_decay": 0.1, "use_bias_correction": True, "maximize": True}),
    (
        Prodigy,
        {
            "lr": torch.tensor(0.5),
            "d0": 1e-2,
            "d_coef": 0.5,
            "growth_rate": 1.1,
            "weight_decay": 0.1,
            "decouple": False,
            "safeguard_warmup": True,
        },
    ),
]
each_case = pytest.mark.parametrize(
    ("ours", "options"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)

# Kernels and twins sum in float64 but in another order, which moves a trust ratio by an
# ulp, and torch's addcmul and add contract where its compiler chose to; both accumulate.
# bfloat16 twins round to 8 bits after each operator of 20 steps, kernels once a step.
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2.0**-5}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def make(dtype: torch.dtype, lengths: list[int] = LENGTHS) -> tuple[list[Tensor], list[Tensor]]:
    mine = [torch.randn(length).to(dtype).requires_grad_() for length in lengths]
    return mine, clones(mine)


def clones(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def set_grads(*lists: list[Tensor], scale: float = 1.0) -> None:
    for params in zip(*lists):
        grad = torch.randn(params[0].shape) * scale
        for param in params:
            param.grad = grad.to(param.dtype, copy=True)


def assert_close(mine: list[Tensor], other: list[Tensor], tolerance: float) -> None:
    for a, b in zip(mine, other):
        # Relative to the tensor: its norm is what scales every element's step.
        limit = tolerance * float(b.detach().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=limit)


def train(optimizer: Any, params: list[Tensor], steps: int) -> None:
    for _ in range(steps):
        set_grads(params)
        optimizer.step()


@each_dtype
@each_case
def test_the_kernel_is_the_twin(ours: Any, options: Options, dtype: torch.dtype) -> None:
    mine, other = make(dtype)
    optimizer, twin = ours(mine, **options), TWINS[ours](other, **options)
    for step in range(20):
        set_grads(mine, other, scale=10.0 ** (step % 5 - 2))
        optimizer.step()
        twin.step()
    assert_close(mine, other, TOLERANCES[dtype])
    for a, b in zip(mine, other):
        assert optimizer.state[a].keys() == twin.state[b].keys()


@needs_native
@each_case
def test_the_kernel_runs(ours: Any, options: Options) -> None:
    mine, _ = make(torch.float32)
    optimizer = ours(mine, **options)
    train(optimizer, mine, 2)
    assert optimizer.fallback_reason is None


# What reaches a torch 2-norm of 0: both optimizers then take a step of ratio 1.
@pytest.mark.parametrize("ours", [LAMB, LARS])
def test_zero_parameters_move(ours: Any) -> None:
    param = torch.zeros(300, requires_grad=True)
    param.grad = torch.full((300,), 2.0)
    options = {"eps": 0.0} if ours is LAMB else {}
    ours([param], lr=0.5, **options).step()
    # LAMB's first step is lr sign(g), LARS's lr g.
    torch.testing.assert_close(param, torch.full((300,), -0.5 if ours is LAMB else -1.0))


@pytest.mark.parametrize("ours", [LAMB, LARS])
def test_zero_gradients_only_decay(ours: Any) -> None:
    param = torch.full((300,), 2.0, requires_grad=True)
    param.grad = torch.zeros(300)
    ours([param], lr=0.5, weight_decay=0.0).step()
    assert (param == 2).all()
    ours([param], lr=0.5, weight_decay=0.1).step()
    # LAMB's update is 0.1 p, which the ratio makes as long as p; LARS's ratio is 1.
    torch.testing.assert_close(param, torch.full((300,), 1.0 if ours is LAMB else 1.9))


def test_a_lamb_step_is_as_long_as_the_rate_asks() -> None:
    mine, _ = make(torch.float64, [5, 300, 5000])
    optimizer = LAMB(mine, lr=0.01)
    for _ in range(5):
        before = [param.detach().clone() for param in mine]
        set_grads(mine)
        optimizer.step()
        for old, param in zip(before, mine):
            torch.testing.assert_close((param - old).norm(), 0.01 * old.norm())


def test_a_lars_step_is_as_long_as_the_rate_asks() -> None:
    mine, _ = make(torch.float64, [5, 300, 5000])
    optimizer = LARS(mine, lr=2.0, momentum=0.0, trust_coefficient=0.01, eps=0.0)
    for _ in range(5):
        before = [param.detach().clone() for param in mine]
        set_grads(mine)
        optimizer.step()
        for old, param in zip(before, mine):
            torch.testing.assert_close((param - old).norm(), 0.02 * old.norm())


def test_lamb_is_its_peer() -> None:
    # The peer does not correct v's bias, corrects m's after the ratio, clamps |p| to 10,
    # shrinks p by weight decay beforehand unless told not to, and adds eps to |u|; the paper's
    # algorithm 2 does none of that. Moments that have forgotten their start have no bias.
    mine, other = make(torch.float64, [50, 300])
    options = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-12, "weight_decay": 0.1}
    optimizer = TorchLAMB(mine, **options)
    peer = pytorch_optimizer.Lamb(other, weight_decouple=False, **options)
    peer.clamp = float("inf")
    peer.param_groups[0]["step"] = 10_000
    for param, twin in zip(mine, other):
        first, second = torch.randn(2, len(param), dtype=torch.float64)
        state = {"exp_avg": first, "exp_avg_sq": second.square()}
        step = torch.tensor(10_000.0)
        optimizer.state[param] = {"step": step, **copy.deepcopy(state)}
        peer.state[twin] = state
    for _ in range(10):
        set_grads(mine, other)
        optimizer.step()
        peer.step()
    assert_close(mine, other, 1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_its_peer(nesterov: bool) -> None:
    # The peer has no eps and takes plain SGD steps on vectors.
    mine = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(5, 7), (3, 99)]
    ]
    other = clones(mine)
    options = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    optimizer = TorchLARS(mine, eps=0.0, **options)
    peer = pytorch_optimizer.LARS(other, trust_coefficient=1e-3, **options)
    for _ in range(10):
        set_grads(mine, other)
        optimizer.step()
        peer.step()
    assert_close(mine, other, 1e-13)


@pytest.mark.parametrize("safeguard_warmup", [False, True])
def test_prodigy_is_its_peer(safeguard_warmup: bool) -> None:
    # The peer keeps the numerator in float32. Its weight decay that is not decoupled joins
    # the gradient after the moments have used it; the authors' code adds it before.
    mine, other = make(torch.float64, [50, 300])
    options: Options = {"weight_decay": 0.1, "d0": 1e-3, "safeguard_warmup": safeguard_warmup}
    optimizer = TorchProdigy(mine, use_bias_correction=True, **options)
    peer = pytorch_optimizer.Prodigy(other, bias_correction=True, **options)
    target = torch.randn(300, dtype=torch.float64)
    for _ in range(30):
        for params in (mine, other):
            for param in params:
                param.grad = param.detach() - target[: len(param)]
        optimizer.step()
        peer.step()
    assert optimizer.param_groups[0]["d"] > 2e-3
    assert optimizer.param_groups[0]["d"] == pytest.approx(peer.param_groups[0]["d"], rel=1e-5)
    assert_close(mine, other, 1e-5)


def make_groups(params: list[Tensor]) -> list[Options]:
    return [
        {"params": params[:2], "weight_decay": 0.1},
        {"params": params[2:4], "maximize": True},
        {"params": params[4:], "eps": 1e-3},
    ]


def test_prodigy_shares_one_distance() -> None:
    mine, other = make(torch.float64, [50, 300, 0, 7, 1000, 5])
    optimizer = Prodigy(make_groups(mine), d0=1e-3)
    twin = TorchProdigy(make_groups(other), d0=1e-3)
    for step in range(10):
        set_grads(mine, other)
        for param in (*mine, *other):
            param.grad += 3  # A way to go.
        if step % 3 == 0:
            mine[0].grad = other[0].grad = None
        if step % 5 == 4:
            mine[4].grad = other[4].grad = mine[5].grad = other[5].grad = None
        optimizer.step()
        twin.step()
        for group, reference in zip(optimizer.param_groups, twin.param_groups):
            assert group["k"] == reference["k"] == step + 1
            for name in ("d", "d_max", "d_numerator"):
                assert group[name] == pytest.approx(reference[name], rel=1e-12)
                assert group[name] == optimizer.param_groups[0][name]
    assert optimizer.param_groups[0]["d"] > 1e-3
    assert_close(mine, other, 1e-13)


def test_a_group_added_late_shares_the_distance() -> None:
    mine, other = make(torch.float64, [50, 300])
    optimizer, twin = Prodigy(mine[:1], d0=1e-2), TorchProdigy(other[:1], d0=1e-2)
    for step in range(6):
        if step == 3:
            optimizer.add_param_group({"params": mine[1:]})
            twin.add_param_group({"params": other[1:]})
        set_grads(mine, other)
        optimizer.step()
        twin.step()
    assert optimizer.param_groups[1]["k"] == 6
    assert_close(mine, other, 1e-13)


def test_an_estimate_that_was_changed_is_used() -> None:
    mine, other = make(torch.float64, [50])
    optimizer, twin = Prodigy(mine), TorchProdigy(other)
    for step in range(4):
        if step == 2:
            optimizer.param_groups[0]["d"] = twin.param_groups[0]["d"] = 0.1
            optimizer.param_groups[0]["d_max"] = twin.param_groups[0]["d_max"] = 0.1
        set_grads(mine, other)
        optimizer.step()
        twin.step()
    assert optimizer.param_groups[0]["d"] >= 0.1
    assert_close(mine, other, 1e-13)


@pytest.mark.parametrize("ours", [Prodigy, TorchProdigy])
def test_prodigy_without_gradient_or_rate_stays(ours: Any) -> None:
    param = torch.full((300,), 2.0, requires_grad=True)
    optimizer = ours([param], weight_decay=0.1, eps=0.0)
    param.grad = torch.zeros(300)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    param.grad = torch.ones(300)
    optimizer.step()
    assert (param == 2).all()
    assert (optimizer.param_groups[0]["k"], optimizer.param_groups[0]["d"]) == (0, 1e-6)
    assert not optimizer.state[param] or (optimizer.state[param]["exp_avg"] == 0).all()


@pytest.mark.parametrize("ours", [Prodigy, TorchProdigy])
def test_prodigy_refuses_groups_that_differ(ours: Any) -> None:
    mine, _ = make(torch.float32, [5, 7])
    optimizer = ours([{"params": mine[:1]}, {"params": mine[1:], "lr": 0.5}])
    set_grads(mine)
    with pytest.raises(ValueError, match="lr must be the same in all param groups"):
        optimizer.step()


@pytest.mark.usefixtures("lenient")
def test_prodigy_of_several_dtypes_runs_on_torch() -> None:
    params = [torch.ones(5, dtype=dtype, requires_grad=True) for dtype in TOLERANCES]
    optimizer = Prodigy(params, d0=0.1)
    set_grads(params)
    optimizer.step()
    assert optimizer.fallback_reason is not None
    assert all((param != 1).all() for param in params)


def test_a_skipped_step_is_no_step_of_prodigy() -> None:
    mine, _ = make(torch.float32, [300])
    optimizer = Prodigy(mine)
    set_grads(mine)
    mine[0].grad[7] = float("inf")
    assert not optimizer.fused_step(max_norm=1.0, zero_grad=True).is_applied
    assert optimizer.param_groups[0]["k"] == 0


@each_case
def test_state_moves(ours: Any, options: Options) -> None:
    mine, _ = make(torch.float32, [300, 7])
    optimizer = ours(mine, **options)
    train(optimizer, mine, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded_params = clones(mine)
    loaded = ours(loaded_params, lr=1e9)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(optimizer)
    pickled = pickle.loads(pickle.dumps(optimizer))
    for other in (loaded, copied, pickled):
        params = other.param_groups[0]["params"]
        again = copy.deepcopy(optimizer)
        originals = again.param_groups[0]["params"]
        for _ in range(3):
            set_grads(params, originals)
            other.step()
            again.step()
        assert_close(params, originals, 0.0)


@pytest.mark.parametrize("grad_scale", [None, 4.0])
@each_case
def test_fused_step_is_the_sequence(ours: Any, options: Options, grad_scale: float | None) -> None:
    models = [nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    mine, other = (list(model.parameters()) for model in models)
    optimizer: NativeStep = ours(mine, **options)
    twin = TWINS[ours](other, **options)
    averages = [WeightAverage(model, 0.5) for model in models]
    scaler = None
    if grad_scale is not None:
        scaler = torch.amp.GradScaler("cpu", init_scale=grad_scale)
        scaler.scale(torch.zeros(()))
    for _ in range(4):
        set_grads(mine, other, scale=3.0)
        for param in mine:
            param.grad *= grad_scale or 1.0
        report = optimizer.fused_step(
            max_norm=1.0, average=averages[0], zero_grad=True, scaler=scaler
        )
        if scaler is not None:
            scaler.update()
        norm = nn.utils.clip_grad_norm_(other, 1.0)
        twin.step()
        averages[1].update()
        assert report.grad_norm == pytest.approx(float(norm), rel=1e-6)
        assert all((param.grad == 0).all() for param in mine)
    assert_close(mine, other, 2e-6)
    for a, b in zip(mine, other):
        assert_close([averages[0].averages[a]], [averages[1].averages[b]], 2e-6)


@needs_native
@each_case
def test_a_grad_scale_divides_once(ours: Any, options: Options) -> None:
    mine, other = make(torch.float32)
    optimizer, twin = ours(mine, **options), ours(other, **options)
    optimizer.grad_scale = torch.tensor(3.0)
    for _ in range(3):
        set_grads(mine, other)
        for a, b in zip(mine, other):
            b.grad = a.grad / 3
        optimizer.step()
        twin.step()
        for a, b in zip(mine, other):
            assert torch.equal(a.grad, b.grad)
    assert_close(mine, other, 0.0)


@pytest.mark.parametrize(
    ("ours", "options", "message"),
    [
        (LAMB, {"lr": -1.0}, "lr must be at least 0"),
        (LAMB, {"betas": (0.9, 1.0)}, "betas must be 2 numbers"),
        (LARS, {"trust_coefficient": -1.0}, "trust_coefficient must be at least 0"),
        (LARS, {"nesterov": True, "dampening": 0.5}, "nesterov=True needs"),
        (LARS, {"nesterov": True, "momentum": 0.0}, "nesterov=True needs"),
        (Prodigy, {"d0": 0.0}, "d0 must be above 0"),
        (Prodigy, {"beta3": 1.0}, "beta3 must be in"),
        (Prodigy, {"growth_rate": 0.5}, "growth_rate must be at least 1"),
    ],
)
def test_bad_hyperparameters(ours: Any, options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours([torch.zeros(1, requires_grad=True)], **options)


@needs_native
@pytest.mark.usefixtures("lenient")
def test_momentum_turned_on_later() -> None:
    # A buffer that is missing is torch's to make; the kernels take it from there.
    mine, other = make(torch.float32, [300])
    optimizers = [LARS(mine, lr=1.0, momentum=0.0), TorchLARS(other, lr=1.0, momentum=0.0)]
    for momentum in (0.0, 0.5, 0.5):
        set_grads(mine, other)
        for optimizer in optimizers:
            optimizer.param_groups[0]["momentum"] = momentum
            optimizer.step()
    assert optimizers[0].fallback_reason is None
    assert_close(mine, other, 1e-6)
