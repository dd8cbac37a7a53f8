"""`hotloop.native.NativeTrainer` against torch's own forward, backward and update."""

from __future__ import annotations

import copy
import itertools
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hotloop import backend
from hotloop.errors import BackendError, NonFiniteError, UnsupportedModelError
from hotloop.native import NativeTrainer
from hotloop.optimizers import SGD, AdamW, RMSprop
from hotloop.schedulers import Cosine, Scheduler

if backend.current().kernels is None:
    pytest.skip("whole loops need the kernels", allow_module_level=True)

ACTIVATIONS = [
    nn.ReLU,
    lambda: nn.LeakyReLU(0.2),
    nn.Tanh,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    lambda: nn.GELU(approximate="tanh"),
]
LOSSES: dict[str, nn.Module] = {
    "cross_entropy": nn.CrossEntropyLoss(label_smoothing=0.1),
    "mse": nn.MSELoss(),
    "huber": nn.HuberLoss(delta=0.7),
    "bce_with_logits": nn.BCEWithLogitsLoss(),
    "poisson": nn.PoissonNLLLoss(),
}


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def data(
    loss: str, samples: int, inputs: int, outputs: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, inputs, dtype=dtype)
    if loss == "cross_entropy":
        return x, torch.randint(0, outputs, (samples,))
    y = torch.randn(samples, outputs, dtype=dtype)
    return x, y.sigmoid() if loss == "bce_with_logits" else y


def train_by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    each: Callable[[], Any] = lambda: None,
) -> list[float]:
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        each()
        optimizer.step()
        losses.append(value.item())
    return losses


def split(x: Tensor, y: Tensor, order: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(x[each], y[each]) for each in order.split(size)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sizes", [(5, 3), (64, 128, 64, 10), (8, 33, 1), (2, 17, 64, 3)])
def test_losses_and_parameters_are_torchs(
    sizes: tuple[int, ...], loss: str, dtype: torch.dtype, threads: int
) -> None:
    torch.manual_seed(0)
    model = mlp(*sizes).to(dtype)
    twin = copy.deepcopy(model)
    # The last batch has another size, and no size is one of whole vectors.
    x, y = data(loss, 3 * 37 + 5, sizes[0], sizes[-1], dtype)
    trainer = NativeTrainer(
        model,
        loss=LOSSES[loss],
        optimizer=AdamW(model.parameters(), lr=1e-2),
        batch_size=37,
        threads=threads,
    )
    optimizer = AdamW(twin.parameters(), lr=1e-2)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for _ in range(3):
        order = torch.randperm(len(x))
        expected = train_by_hand(twin, optimizer, LOSSES[loss], split(x, y, order, 37))
        values = trainer.train_epoch(x, y, order=order)
        mean = np.average(expected, weights=[37, 37, 37, 5])
        assert values["loss"] == pytest.approx(mean, rel=tolerance)
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=20 * tolerance)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=20 * tolerance)


def weighted(loss: str, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the losses of samples."""
    each = copy.copy(LOSSES[loss])
    each.reduction = "none"
    losses = each(outputs, y).flatten(1).mean(1) if y.ndim > 1 else each(outputs, y)
    return (weights * losses).sum() / weights.sum()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sizes", [(8, 33, 3), (64, 512, 5)])
def test_sample_weights_are_those_of_a_weighted_mean(
    sizes: tuple[int, ...], loss: str, dtype: torch.dtype, threads: int
) -> None:
    torch.manual_seed(0)
    model = mlp(*sizes).to(dtype)
    twin = copy.deepcopy(model)
    # Batches of several blocks in the wide model, and a smaller one at the end.
    x, y = data(loss, 2 * 300 + 41, sizes[0], sizes[-1], dtype)
    weights = torch.rand(len(x), dtype=dtype) * torch.randint(0, 4, (len(x),))
    trainer = NativeTrainer(
        model,
        loss=LOSSES[loss],
        optimizer=SGD(model.parameters(), lr=0.1),
        batch_size=300,
        threads=threads,
    )
    optimizer = SGD(twin.parameters(), lr=0.1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    order = torch.randperm(len(x))
    values = trainer.train_epoch(x, y, sample_weight=weights, order=order)
    losses, totals = [], []
    for batch in order.split(300):
        optimizer.zero_grad()
        value = weighted(loss, twin(x[batch]), y[batch], weights[batch])
        value.backward()
        optimizer.step()
        losses.append(value.item())
        totals.append(weights[batch].sum().item())
    np.testing.assert_allclose(trainer.losses, losses, rtol=tolerance)
    assert values["loss"] == pytest.approx(np.average(losses, weights=totals), rel=tolerance)
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=20 * tolerance)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=20 * tolerance)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_one_change_no_bit_and_other_weights_no_accuracy(loss: str) -> None:
    torch.manual_seed(0)
    x, y = data(loss, 205, 64, 5, torch.float32)
    order = torch.randperm(len(x))
    start = mlp(64, 512, 5)
    models = [copy.deepcopy(start) for _ in range(3)]
    values = []
    for model, weights in zip(models, (None, torch.ones(len(x)), torch.rand(len(x)) + 0.1)):
        # No update, so that all see the same outputs.
        optimizer = SGD(model.parameters(), lr=0.0)
        trainer = NativeTrainer(model, loss=loss, optimizer=optimizer, batch_size=100)
        values.append(trainer.train_epoch(x, y, sample_weight=weights, order=order))
        # Neither stay for what comes next.
        assert trainer.evaluate(x, y) == NativeTrainer(
            start, loss=loss, optimizer=SGD(start.parameters()), batch_size=100
        ).evaluate(x, y)
    assert values[0] == values[1]
    assert values[0]["loss"] != values[2]["loss"]
    assert values[0].get("accuracy") == values[2].get("accuracy")
    grads = [[param.grad for param in model.parameters()] for model in models]
    assert all(torch.equal(a, b) for a, b in zip(*grads[:2]))
    assert not any(torch.equal(a, b) for a, b in zip(grads[0], grads[2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[1:], r"sample_weight must be torch.float32 in shape \(9,\), got .*\(8,\)"),
        (lambda w: w[:, None], r"in shape \(9,\), got torch.float32 in shape \(9, 1\)"),
        (lambda w: w.double(), r"must be torch.float32 in shape \(9,\), got torch.float64"),
        (lambda w: w.tolist(), "sample_weight must be a CPU tensor or a NumPy array, got list"),
        (lambda w: w.index_fill(0, torch.tensor(2), -1), r"sample_weight\[2\] is -1, must be"),
        (lambda w: w.index_fill(0, torch.tensor(3), torch.nan), r"sample_weight\[3\] is nan, must"),
        (lambda w: w.index_fill(0, torch.tensor(4), torch.inf), r"sample_weight\[4\] is inf, must"),
        (lambda w: w.index_fill(0, torch.tensor([8]), 0), "the weights of batch 2 of 3 are all 0"),
    ],
)
def test_bad_sample_weights_are_named(change: Callable[[Tensor], Any], message: str) -> None:
    model = mlp(3, 2)
    before = copy.deepcopy(model)
    trainer = NativeTrainer(
        model, loss="mse", optimizer=SGD(model.parameters(), lr=0.1), batch_size=4
    )
    with pytest.raises(ValueError, match=message):
        trainer.train_epoch(
            torch.randn(9, 3),
            torch.randn(9, 2),
            sample_weight=change(torch.ones(9)),
            order=torch.arange(9),
        )
    for ours, theirs in zip(model.parameters(), before.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_weight_decays_of_batches_are_those_of_steps(kind: Any) -> None:
    torch.manual_seed(0)
    model = mlp(6, 9, 3).double()
    twin = copy.deepcopy(model)
    x, y = data("mse", 50, 6, 3, torch.float64)
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.5)
    trainer = NativeTrainer(model, loss="mse", optimizer=optimizer, batch_size=20)
    other = kind(twin.parameters(), lr=0.01, weight_decay=0.5)
    order = torch.arange(len(x))
    decays = np.array([[0.1], [3.0], [0.0]])
    trainer.train_batches(*trainer.checked(x, y), order, decays=decays)
    trainer.train_epoch(x, y, order=order)
    values = iter([*decays[:, 0], 0.5, 0.5, 0.5])
    for _ in range(2):
        for batch in split(x, y, order, 20):
            other.param_groups[0]["weight_decay"] = float(next(values))
            train_by_hand(twin, other, LOSSES["mse"], [batch])
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_torchs(activation: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(mlp(19, 40, 21, activation=activation), activation(), nn.Linear(21, 4))
    model.to(dtype)
    twin = copy.deepcopy(model)
    x, y = data("mse", 70, 19, 4, dtype)
    x *= 3
    trainer = NativeTrainer(
        model, loss="mse", optimizer=SGD(model.parameters(), lr=0.0), batch_size=70
    )
    trainer.train_epoch(x, y, order=torch.arange(70))
    nn.MSELoss()(twin(x), y).backward()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        assert ours.grad is not None
        assert theirs.grad is not None
        scale = theirs.grad.abs().max()
        assert (ours.grad - theirs.grad).abs().max() <= tolerance * scale


def test_large_batches_are_cut_into_blocks_and_shared_by_threads() -> None:
    torch.manual_seed(0)
    results = []
    x, y = data("mse", 5000, 3, 2, torch.float64)
    for threads in (1, 2, 3):
        torch.manual_seed(1)
        model = mlp(3, 64, 64, 2).double()
        twin = copy.deepcopy(model)
        optimizer = SGD(model.parameters(), lr=0.1)
        trainer = NativeTrainer(
            model, loss="mse", optimizer=optimizer, batch_size=4500, threads=threads
        )
        order = torch.randperm(5000)
        values = trainer.train_epoch(x, y, order=order)
        batches = split(x, y, order, 4500)
        expected = train_by_hand(twin, SGD(twin.parameters(), lr=0.1), nn.MSELoss(), batches)
        mean = np.average(expected, weights=[4500, 500])
        assert values["loss"] == pytest.approx(mean, rel=1e-12)
        results.append(next(model.parameters()))
        torch.testing.assert_close(results[-1], next(twin.parameters()), rtol=1e-12, atol=1e-14)


def test_accuracy_evaluation_and_prediction() -> None:
    torch.manual_seed(0)
    model = mlp(6, 20, 5)
    x, y = data("cross_entropy", 101, 6, 5, torch.float32)
    optimizer = SGD(model.parameters(), lr=0.0)
    trainer = NativeTrainer(model, loss="cross_entropy", optimizer=optimizer, batch_size=32)
    with torch.no_grad():
        logits = model(x)
    expected = {
        "loss": pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-6),
        "accuracy": float((logits.argmax(1) == y).double().mean()),
    }
    assert trainer.evaluate(x, y) == expected
    assert trainer.train_epoch(x, y) == expected
    torch.testing.assert_close(trainer.predict(x), logits, rtol=1e-5, atol=1e-6)


def test_numpy_arrays_are_read_where_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), mlp(6, 20, 2)).double()
    x, y = np.random.default_rng(0).normal(size=(40, 2, 3)), np.zeros((40, 2))
    trainer = NativeTrainer(
        model, loss="mse", optimizer=SGD(model.parameters(), lr=0.1), batch_size=16
    )
    first = trainer.train_epoch(x, y)["loss"]
    assert trainer.train_epoch(x, y)["loss"] < first
    expected = model(torch.from_numpy(x))
    torch.testing.assert_close(trainer.predict(x), expected.detach())


def test_schedule_and_clipping_are_those_of_a_loop_by_hand() -> None:
    torch.manual_seed(0)
    model = mlp(6, 20, 2).double()
    twin = copy.deepcopy(model)
    x, y = data("mse", 70, 6, 2, torch.float64)
    schedule = Cosine(12)
    trainer = NativeTrainer(
        model,
        loss="mse",
        optimizer=RMSprop(model.parameters(), lr=0.05),
        batch_size=16,
        schedule=schedule,
        max_norm=0.3,
    )
    optimizer = RMSprop(twin.parameters(), lr=0.05)
    scheduler = Scheduler(optimizer, schedule)
    for _ in range(2):
        order = torch.randperm(70)
        for batch in split(x, y, order, 16):
            clip = lambda: nn.utils.clip_grad_norm_(twin.parameters(), 0.3)  # noqa: E731
            train_by_hand(twin, optimizer, nn.MSELoss(), [batch], clip)
            scheduler.step()
        trainer.train_epoch(x, y, order=order)
        lr = trainer.optimizer.param_groups[0]["lr"]
        assert lr == optimizer.param_groups[0]["lr"]
        for ours, theirs in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_model_and_optimizer_are_torchs_own_between_epochs() -> None:
    torch.manual_seed(0)
    model = mlp(6, 20, 2).double()
    twin = copy.deepcopy(model)
    x, y = data("mse", 48, 6, 2, torch.float64)
    ours, theirs = AdamW(model.parameters()), torch.optim.AdamW(twin.parameters())
    trainer = NativeTrainer(model, loss="mse", optimizer=ours, batch_size=16)
    batches = split(x, y, torch.arange(48), 16)
    version = next(model.parameters())._version
    trainer.train_epoch(x, y, order=torch.arange(48))
    assert next(model.parameters())._version > version
    train_by_hand(model, ours, nn.MSELoss(), batches)
    # Other memory for a parameter, and a learning rate that somebody wrote.
    first = next(model.parameters())
    first.data = first.data.clone()
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"] = 3e-3 if optimizer is ours else 1e-3
    train_by_hand(twin, theirs, nn.MSELoss(), batches * 2)
    theirs.param_groups[0]["lr"] = 3e-3
    trainer.train_epoch(x, y, order=torch.arange(48))
    train_by_hand(twin, theirs, nn.MSELoss(), batches)
    for mine, other in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)
    theirs.load_state_dict(ours.state_dict())
    step = next(iter(theirs.state.values()))["step"]
    assert int(step) == 9


def test_frozen_parameters_stay() -> None:
    torch.manual_seed(0)
    model = mlp(6, 20, 2)
    model[0].weight.requires_grad_(False)
    kept = model[0].weight.clone()
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    x, y = data("mse", 48, 6, 2, torch.float32)
    NativeTrainer(model, loss="mse", optimizer=optimizer).train_epoch(x, y)
    assert torch.equal(model[0].weight, kept)
    assert model[0].weight.grad is None


def test_what_has_no_kernel_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Softplus(), nn.Bilinear(4, 4, 2)))
    assert NativeTrainer.supports(mlp(2, 3)) == []
    assert NativeTrainer.supports(model)[:2] == [
        "1.0: Softplus has no kernel",
        "1.1: Bilinear has no kernel",
    ]
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedModelError, match=r"1\.0: Softplus has no kernel; 1\.1: Bil"):
        NativeTrainer(model, loss="mse", optimizer=optimizer)
    assert NativeTrainer.supports(nn.ReLU()) == ["the model: it has no parameters"]
    shared = nn.Linear(3, 3)
    assert NativeTrainer.supports(nn.Sequential(shared, shared)) == [
        "the model: two layers share a parameter"
    ]
    half = mlp(2, 3).to(torch.bfloat16)
    assert NativeTrainer.supports(half)[0].startswith("0.weight: it must be float32 or float64")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(2)), "must have weight=None"),
        (nn.MSELoss(reduction="sum"), "must have reduction='mean', got 'sum'"),
        (nn.PoissonNLLLoss(full=True), "must have full=False, got True"),
        (nn.PoissonNLLLoss(log_input=False), "must have log_input=True, got False"),
        (nn.L1Loss(), "the loss L1Loss has no kernel"),
        (nn.functional.l1_loss, "the loss l1_loss has no kernel"),
    ],
)
def test_losses_without_a_kernel_are_named(loss: Any, message: str) -> None:
    model = mlp(2, 3)
    with pytest.raises(UnsupportedModelError, match=message):
        NativeTrainer(model, loss=loss, optimizer=SGD(model.parameters(), lr=0.1))


def test_bad_arguments_are_named() -> None:
    model = mlp(4, 8, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"unknown loss 'mes' \(did you mean 'mse'\?\)"):
        NativeTrainer(model, loss="mes", optimizer=optimizer)
    with pytest.raises(ValueError, match="batch_size must be a positive int, got 0"):
        NativeTrainer(model, loss="mse", optimizer=optimizer, batch_size=0)
    torchs = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedModelError, match="SGD has no kernel; use that of hotloop"):
        NativeTrainer(model, loss="mse", optimizer=torchs)

    trainer = NativeTrainer(model, loss="cross_entropy", optimizer=optimizer)
    x, y = torch.randn(10, 4), torch.zeros(10, dtype=torch.int64)
    before = copy.deepcopy(model.state_dict())
    bad = y.clone()
    bad[7] = 3
    for arguments, message in [
        ((x.double(), y), "x must hold at least one sample in torch.float32"),
        ((x[:0], y[:0]), "x must hold at least one sample"),
        ((x[:, :3], y), r"0: Linear takes 4 features, got samples of shape \(3,\)"),
        ((x, y[:9]), "y must hold a class index for each of the 10 samples"),
        ((x, y.float()), "y must hold a class index"),
        ((x, bad), r"y\[7\] is 3, must be a class in \[0, 3\)"),
        (([1.0], y), "x must be a CPU tensor or a NumPy array, got list"),
    ]:
        with pytest.raises(ValueError, match=message):
            trainer.train_epoch(*arguments)
    with pytest.raises(ValueError, match=r"order must hold numbers in \[0, 10\), got 0 to 10"):
        trainer.train_epoch(x, y, order=torch.arange(11))
    for order in (torch.empty(0, dtype=torch.int64), torch.tensor(3), torch.arange(4.0)):
        with pytest.raises(ValueError, match="order must be a contiguous int64 vector"):
            trainer.train_epoch(x, y, order=order)
    with pytest.raises(ValueError, match="order must be a contiguous int64 vector"):
        trainer.train_epoch(x, y, order=torch.arange(10.0))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_loss_that_is_not_finite_stops_before_its_update(max_norm: float | None) -> None:
    torch.manual_seed(0)
    model = mlp(4, 8, 3)
    x, y = torch.randn(100, 4), torch.zeros(100, 3)
    x[45, 2] = torch.nan
    trainer = NativeTrainer(
        model,
        loss="mse",
        optimizer=AdamW(model.parameters()),
        batch_size=10,
        max_norm=max_norm,
    )
    twin = copy.deepcopy(model)
    batches = split(x[:40], y[:40], torch.arange(40), 10)
    clip = lambda: max_norm and nn.utils.clip_grad_norm_(twin.parameters(), max_norm)  # noqa: E731
    train_by_hand(twin, AdamW(twin.parameters()), nn.MSELoss(), batches, clip)
    with pytest.raises(NonFiniteError, match="batch 4 of 10 has the loss nan"):
        trainer.train_epoch(x, y, order=torch.arange(100))
    assert trainer.step == 4
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_ctrl_c_ends_between_steps() -> None:
    torch.manual_seed(0)
    model = mlp(64, 256, 256, 10)
    x, y = data("cross_entropy", 200_000, 64, 10, torch.float32)
    optimizer = AdamW(model.parameters())
    trainer = NativeTrainer(model, loss="cross_entropy", optimizer=optimizer, batch_size=64)
    # A process in the background of a shell ignores it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            trainer.train_epoch(x, y)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert 0 < trainer.step < 3125
    assert {int(state["step"]) for state in optimizer.state.values()} == {trainer.step}
    trainer.train_epoch(x[:640], y[:640])
    assert all(torch.isfinite(param).all() for param in model.parameters())


def test_without_kernels_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "current", lambda: backend.Backend("torch", "a reason"))
    model = mlp(4, 3)
    with pytest.raises(BackendError, match="whole loops need the kernels: a reason"):
        NativeTrainer(model, loss="mse", optimizer=SGD(model.parameters(), lr=0.1))


def test_code_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "native.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "native.md", "exec"), names)
    assert names["history"]["val_accuracy"][-1] > 0.5
    losses = [float(each) for each in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 3
    assert losses[2] < losses[0]
