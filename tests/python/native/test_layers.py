"""The layers of `hotloop.native.NativeTrainer` against torch's own."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hotloop import backend
from hotloop.errors import NonFiniteError, UnsupportedModelError
from hotloop.native import NativeTrainer, Residual
from hotloop.optimizers import SGD, AdamW
from hotloop.programs import program

if backend.current().kernels is None:
    pytest.skip("whole loops need the kernels", allow_module_level=True)

# torch copies images whose "same" padding is not the same on both sides.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

DTYPES = [torch.float32, torch.float64]

#: Models, and the shape of their samples; the parameters before a layer check its inputs' gradient.
MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "layer_norm": (
        lambda: nn.Sequential(nn.Linear(7, 19), nn.LayerNorm(19), nn.Tanh(), nn.Linear(19, 3)),
        (7,),
    ),
    "layer_norm_first": (lambda: nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 2)), (7,)),
    "layer_norm_plain": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6, elementwise_affine=False)),
        (5,),
    ),
    "layer_norm_without_bias": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6, eps=0.1, bias=False)),
        (5,),
    ),
    "layer_norm_of_images": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.LayerNorm([3, 3, 4]), nn.Flatten()),
        (2, 4, 5),
    ),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(7, 19), nn.BatchNorm1d(19), nn.ReLU(), nn.Linear(19, 3)),
        (7,),
    ),
    "batch_norm_first": (lambda: nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 2)), (7,)),
    "batch_norm_plain": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)),
        (5,),
    ),
    "batch_norm_of_sequences": (
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(12, 2)),
        (3, 4),
    ),
    "batch_norm_of_images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()
        ),
        (2, 5, 4),
    ),
    "residual": (
        lambda: nn.Sequential(
            nn.Linear(7, 9),
            Residual(
                nn.Sequential(
                    nn.LayerNorm(9), Residual(nn.Sequential(nn.Tanh(), nn.Linear(9, 9))), nn.SiLU()
                )
            ),
            nn.Linear(9, 3),
        ),
        (7,),
    ),
    "residual_first": (
        lambda: nn.Sequential(Residual(nn.ReLU()), Residual(nn.Linear(7, 7)), nn.Linear(7, 2)),
        (7,),
    ),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 13, 2), nn.Flatten(), nn.Linear(78, 3)
        ),
        (1, 5, 6),
    ),
    "conv_with_padding": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 9, (3, 2), padding=(1, 2), stride=(2, 1)),
            nn.Tanh(),
            nn.Conv2d(9, 5, 3, stride=2, padding=2, bias=False),
            nn.Tanh(),
            nn.Conv2d(5, 4, 1),
        ),
        (3, 6, 5),
    ),
    "conv_same": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (4, 2), padding="same"), nn.Conv2d(4, 2, 3, padding="valid")
        ),
        (2, 5, 4),
    ),
    "conv_of_larger_steps": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1, stride=3), nn.Conv2d(8, 17, 2, stride=2)),
        (2, 11, 10),
    ),
    "max_pool": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1), nn.MaxPool2d(3, 1, padding=1)
        ),
        (1, 9, 8),
    ),
    "avg_pool": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.AvgPool2d(3, 2, padding=1),
            nn.Conv2d(4, 3, 1),
            nn.AvgPool2d((2, 1), 1, padding=(1, 0), count_include_pad=False),
            nn.Conv2d(3, 3, 1),
            nn.AdaptiveAvgPool2d(1),
        ),
        (1, 9, 8),
    ),
}


def normal(module: nn.Module) -> nn.Module:
    """Draw parameters around 1, so that weights of norms are not all 1."""
    with torch.no_grad():
        for module_ in module.modules():
            if isinstance(module_, (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
                for param in module_.parameters():
                    param.normal_(1, 0.5)
    return module


def make(name: str, dtype: torch.dtype, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    builder, shape = MODELS[name]
    model = normal(builder()).to(dtype)
    x = torch.randn(samples, *shape, dtype=dtype)
    with torch.no_grad():
        y = torch.randn_like(copy.deepcopy(model)(x))
    return model, x, y


def relative(ours: Tensor, theirs: Tensor) -> float:
    scale = theirs.double().abs().max().clamp_min(1e-30)
    return float((ours.double() - theirs.double()).abs().max() / scale)


def native(model: nn.Module, batch_size: int = 32, loss: str = "mse", **options: Any) -> Any:
    optimizer = options.pop("optimizer", None) or SGD(model.parameters(), lr=0.0)
    return NativeTrainer(model, loss=loss, optimizer=optimizer, batch_size=batch_size, **options)


@pytest.mark.parametrize("samples", [2, 16, 37, 150])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_torchs(
    name: str, dtype: torch.dtype, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks as small as they get, so that the largest batch has three.
    monkeypatch.setattr(program, "_BLOCK_BYTES", 1)
    torch.manual_seed(samples)
    model, x, y = make(name, dtype, samples)
    twin, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    nn.MSELoss()(twin(x), y).backward()
    loss = nn.MSELoss()(exact(x.double()), y.double())
    loss.backward()
    for threads in (1, 2):
        mine = copy.deepcopy(model)
        trainer = native(mine, samples, threads=threads)
        values = trainer.train_epoch(x, y, order=torch.arange(samples))
        tolerance = 1e-6 if dtype == torch.float32 else 1e-12
        assert values["loss"] == pytest.approx(loss.item(), rel=tolerance)
        # A bias before a norm has no gradient but rounding.
        scale = max(float(param.grad.abs().max()) for param in exact.parameters())
        for ours, theirs, right in zip(mine.parameters(), twin.parameters(), exact.parameters()):
            own = float(right.grad.abs().max())
            allowed = tolerance * (own if own > 1e-9 * scale else scale)
            # Norms of few samples lose digits in torch, too.
            allowed = max(allowed, 2 * float((theirs.grad.double() - right.grad).abs().max()))
            assert float((ours.grad.double() - right.grad).abs().max()) <= allowed
        for ours, theirs in zip(mine.buffers(), exact.buffers()):
            torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=1e-7)
        exact.eval()
        with torch.no_grad():
            assert relative(trainer.predict(x), exact(x.double())) <= tolerance
        exact.train()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_training_is_torchs(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x, y = make(name, dtype, 100)
    twin = copy.deepcopy(model)
    optimizer = SGD(twin.parameters(), lr=0.05, momentum=0.9)
    trainer = native(model, 37, optimizer=SGD(model.parameters(), lr=0.05, momentum=0.9))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for _ in range(3):
        order = torch.randperm(100)
        losses = []
        for batch in order.split(37):
            optimizer.zero_grad()
            loss = nn.MSELoss()(twin(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        value = trainer.train_epoch(x, y, order=order)["loss"]
        assert value == pytest.approx(np.average(losses, weights=[37, 37, 26]), rel=tolerance)
    for ours, theirs in zip(model.state_dict().values(), twin.state_dict().values()):
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=20 * tolerance)
    twin.eval()
    with torch.no_grad():
        expected = nn.MSELoss()(twin(x), y)
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(float(expected), rel=tolerance)


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    image=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    kernel=SIZES,
    stride=SIZES,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    pool=st.sampled_from(["none", "max", "avg", "avg_inside"]),
    samples=st.integers(1, 40),
    seed=st.integers(0, 1 << 30),
)
def test_windows_of_all_sizes_are_torchs(
    channels: tuple[int, int],
    image: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    pool: str,
    samples: int,
    seed: int,
) -> None:
    if pool != "none":
        padding = (min(padding[0], kernel[0] // 2), min(padding[1], kernel[1] // 2))
    if any(size + 2 * pad < taps for size, taps, pad in zip(image, kernel, padding)):
        return
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(channels[0], channels[0], 1)]
    if pool == "none":
        layers.append(nn.Conv2d(*channels, kernel, stride, padding))
    elif pool == "max":
        layers.append(nn.MaxPool2d(kernel, stride, padding))
    else:
        layers.append(nn.AvgPool2d(kernel, stride, padding, count_include_pad=pool == "avg"))
    model = nn.Sequential(*layers).double()
    twin = copy.deepcopy(model)
    x = torch.randn(samples, channels[0], *image, dtype=torch.float64)
    with torch.no_grad():
        y = torch.randn_like(twin(x))
    loss = nn.MSELoss()(twin(x), y)
    loss.backward()
    value = native(model, samples).train_epoch(x, y)["loss"]
    assert value == pytest.approx(loss.item(), rel=1e-12)
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)


def test_layer_norm_of_large_inputs_keeps_their_differences() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 2))
    x = torch.randn(50, 64) + 1e4
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double())
    assert relative(native(model).predict(x), expected) <= 1e-6


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("has_statistics", [True, False])
def test_options_of_batch_norm(momentum: float | None, has_statistics: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4, eps=0.01, momentum=momentum, track_running_stats=has_statistics)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)).double()
    twin = copy.deepcopy(model)
    x, y = torch.randn(50, 3).double() + 2, torch.randn(50, 2).double()
    trainer = native(model, 20)
    for _ in range(2):
        trainer.train_epoch(x, y, order=torch.arange(50))
        for batch in x.split(20):
            twin(batch)
    for ours, theirs in zip(model.buffers(), twin.buffers()):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    assert [*model.state_dict()] == [*twin.state_dict()]
    twin.eval()
    with torch.no_grad():
        expected = torch.cat([twin(batch) for batch in x.split(20)])
    torch.testing.assert_close(trainer.predict(x), expected, rtol=1e-12, atol=1e-13)


def test_batch_norm_needs_two_values_a_channel() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = copy.deepcopy(model.state_dict())
    x, y = torch.randn(33, 3), torch.randn(33, 2)
    trainer = native(model, 16, optimizer=SGD(model.parameters(), lr=0.1))
    message = "Expected more than 1 value per channel when training, got a batch of 1 sample of 33"
    with pytest.raises(ValueError, match=message):
        trainer.train_epoch(x, y)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert trainer.predict(x).shape == (33, 2)
    trainer.train_epoch(x[:32], y[:32])
    images = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 1))
    native(images, 1).train_epoch(torch.randn(2, 1, 2, 2), torch.randn(2))


def test_a_batch_that_is_not_finite_leaves_no_trace_in_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    x, y = torch.randn(30, 3), torch.randn(30, 2)
    x[25, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="batch 2 of 3"):
        native(model, 10).train_epoch(x, y, order=torch.arange(30))
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def ones(features: int, *after: nn.Module) -> nn.Sequential:
    """Return a model of modules that get ones."""
    model = nn.Sequential(nn.Linear(1, features), *after)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1)
    return model


def test_dropout_drops_as_often_as_it_should_and_scales_the_rest() -> None:
    torch.manual_seed(0)
    for p in (0.0, 0.1, 0.5, 0.9):
        trainer = native(ones(1000, nn.Dropout(p)), 64)
        x, y = torch.zeros(640, 1), torch.zeros(640, 1000)
        loss = trainer.train_epoch(x, y)["loss"]
        # The mean of the squares of what is 0 or 1 / (1 - p).
        deviation = (p * (1 - p) / 640_000) ** 0.5
        assert loss * (1 - p) ** 2 == pytest.approx(1 - p, abs=5 * deviation + 1e-6)
        # In evaluation nothing is dropped.
        assert trainer.evaluate(x, y)["loss"] == 1
        assert torch.equal(trainer.predict(x), torch.ones(640, 1000))


def masks(seed: int, threads: int, batch_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what dropout made of ones, by training with outputs."""
    model = ones(600, nn.Dropout(0.3)).to(dtype)
    trainer = native(model, batch_size, threads=threads)
    x, y = trainer.checked(torch.zeros(700, 1).to(dtype), torch.zeros(700, 600).to(dtype))
    outputs = trainer.empty_outputs(700)
    generator = torch.Generator().manual_seed(seed)
    trainer.train_batches(
        x, y, torch.arange(700), outputs=outputs, seed=trainer.draw_seed(generator)
    )
    # The gradient of the bias is that of the outputs times factors.
    last = outputs[-(700 % batch_size) :]
    expected = 2 / last.numel() * (last**2).sum(0)
    torch.testing.assert_close(model[0].bias.grad, expected, rtol=1e-5, atol=1e-6)
    return (outputs != 0).cpu()


def test_masks_are_a_function_of_the_seed() -> None:
    first = masks(0, 1, 512)
    assert torch.equal(first, masks(0, 1, 512))
    # Neither threads nor blocks nor the dtype change them.
    assert torch.equal(first, masks(0, 2, 512))
    assert torch.equal(first, masks(0, 2, 512, torch.float64))
    other = masks(1, 1, 512)
    assert (first == other).double().mean() == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    # Samples, features and batches have masks of their own.
    for shift, axis in itertools.product((1, 4, 512 % 600), (0, 1)):
        same = (first == first.roll(shift, axis)).double().mean()
        assert same == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    means = first.double().mean(0)
    assert means.std() == pytest.approx((0.21 / 700) ** 0.5, rel=0.15)


def test_two_dropouts_and_two_epochs_have_masks_of_their_own() -> None:
    torch.manual_seed(0)
    trainer = native(ones(400, nn.Dropout(0.5), nn.Dropout(0.5)), 100)
    x, y = torch.zeros(100, 1), torch.zeros(100, 400)
    first = trainer.train_epoch(x, y)["loss"]
    # A quarter is left, as 4.
    assert first == pytest.approx(4, rel=0.05)
    assert trainer.train_epoch(x, y)["loss"] != first
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    twins = [native(ones(30, nn.Dropout(0.5))) for _ in range(2)]
    x, y = torch.zeros(100, 1), torch.zeros(100, 30)
    values = [
        trainer.train_epoch(x, y, generator=generator)["loss"]
        for trainer, generator in zip(twins, generators)
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("padding", [None, 3])
def test_embeddings_are_torchs(padding: int | None, threads: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(11, 5, padding_idx=padding),
        nn.Flatten(),
        nn.Linear(35, 400),
        nn.Tanh(),
        nn.Linear(400, 4),
    ).to(dtype)
    twin = copy.deepcopy(model)
    x, y = torch.randint(0, 11, (600, 7)), torch.randint(0, 4, (600,))
    optimizer = AdamW(twin.parameters(), lr=0.01)
    trainer = native(
        model,
        530,
        "cross_entropy",
        optimizer=AdamW(model.parameters(), lr=0.01),
        threads=threads,
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for _ in range(2):
        order = torch.randperm(600)
        losses = []
        for batch in order.split(530):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(twin(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        value = trainer.train_epoch(x, y, order=order)["loss"]
        assert value == pytest.approx(np.average(losses, weights=[530, 70]), rel=tolerance)
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=20 * tolerance)
    if padding is not None:
        assert model[0].weight.grad[padding].abs().max() == 0
    with torch.no_grad():
        torch.testing.assert_close(
            trainer.predict(x), twin(x), rtol=10 * tolerance, atol=20 * tolerance
        )


def test_a_single_index_is_a_sample() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    x = torch.tensor([0, 4, 2])
    with torch.no_grad():
        torch.testing.assert_close(native(model).predict(x), model(x))


def test_max_pool_of_nan_and_of_equals() -> None:
    torch.manual_seed(0)
    # The gradient of each pixel's own bias tells which of the equals was taken.
    model = nn.Sequential(nn.LayerNorm([1, 5, 4]), nn.MaxPool2d(2, 1))
    x = torch.randint(0, 2, (40, 1, 5, 4)).float()
    twin = copy.deepcopy(model)
    nn.MSELoss()(twin(x), torch.zeros(40, 1, 4, 3)).backward()
    native(model, 40).train_epoch(x, torch.zeros(40, 1, 4, 3))
    torch.testing.assert_close(model[0].bias.grad, twin[0].bias.grad)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, 1))
    x[3, 0, 1, 1] = x[7, 0, 0, 0] = torch.nan
    x[9] = -torch.inf
    with torch.no_grad():
        torch.testing.assert_close(native(model).predict(x), model(x), equal_nan=True)


def test_what_has_no_kernel_is_named() -> None:
    model = nn.Sequential(
        nn.Linear(3, 3),
        nn.Sequential(
            nn.Embedding(5, 2),
            nn.Embedding(5, 2, max_norm=1.0),
            nn.Conv2d(2, 4, 3, groups=2),
            nn.Conv2d(2, 4, 3, dilation=2),
            nn.Conv2d(2, 4, 3, padding_mode="circular"),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AvgPool2d(2, divisor_override=3),
            nn.AdaptiveAvgPool2d(2),
            nn.Dropout(1.0),
            nn.Flatten(0),
        ),
        Residual(nn.Softplus()),
    )
    assert NativeTrainer.supports(model) == [
        "1.0: Embedding must be the first layer",
        "1.1: Embedding must have max_norm=None, got 1.0",
        "1.2: Conv2d must have groups=1, got 2",
        "1.3: Conv2d must have dilation=1, got (2, 2)",
        "1.4: Conv2d must have padding_mode='zeros', got 'circular'",
        "1.5: MaxPool2d must have ceil_mode=False, got True",
        "1.6: AvgPool2d must have divisor_override=None, got 3",
        "1.7: AdaptiveAvgPool2d must have output_size=1, got 2",
        "1.8: Dropout must have p in [0, 1), got 1.0",
        "1.9: Flatten must flatten all but the first dimension",
        "2.inner: Softplus has no kernel",
    ]
    large = nn.Sequential(nn.Embedding(3, 1), nn.Linear(1, 1))
    large[0].num_embeddings = (1 << 24) + 1
    assert NativeTrainer.supports(large) == [
        "0: Embedding must have at most 16777216 entries in torch.float32, got 16777217"
    ]
    mixed = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    mixed[0].running_mean = mixed[0].running_mean.double()
    assert NativeTrainer.supports(mixed) == [
        "0: running statistics must have the parameters' dtype on the CPU, got torch.float64 on cpu"
    ]


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(32, 2)),
            (1, 6, 6),
            r"2: Linear takes 32 features, got samples of shape \(2, 4, 4\); add nn\.Flatten\(\)",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 2, 3)),
            (1, 6, 6),
            r"0: Conv2d takes \(C, H, W\) with C = 2, got samples of shape \(1, 6, 6\)",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(5)),
            (1, 6, 6),
            r"1: MaxPool2d takes images of at least \(5, 5\) pixels, got samples of shape \(2, 4",
        ),
        (
            nn.Sequential(nn.LayerNorm(6)),
            (5, 6),
            r"0: LayerNorm takes whole samples of shape \(6,\), got samples of shape \(5, 6\)",
        ),
        (
            nn.Sequential(nn.BatchNorm1d(6)),
            (7,),
            r"0: BatchNorm1d takes \(C,\) or \(C, L\) with C = 6, got samples of shape \(7,\)",
        ),
        (
            nn.Sequential(nn.BatchNorm2d(6)),
            (6,),
            r"0: BatchNorm2d takes \(C, H, W\) with C = 6, got samples of shape \(6,\)",
        ),
        (
            nn.Sequential(Residual(nn.Sequential(nn.Linear(3, 4)))),
            (3,),
            r"0: Residual has samples of shape \(3,\), and makes \(4,\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    model: nn.Sequential, shape: tuple[int, ...], message: str
) -> None:
    trainer = native(model)
    with pytest.raises(ValueError, match=message) as caught:
        trainer.predict(torch.zeros(4, *shape))
    # A trainer that may choose turns to torch then.
    assert isinstance(caught.value, UnsupportedModelError)


def test_bad_indices_and_classes_of_images_are_named() -> None:
    trainer = native(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)))
    x = torch.zeros(10, 2, dtype=torch.int64)
    x[6, 1] = 5
    with pytest.raises(ValueError, match=r"x\[6, 1\] is 5, must be in \[0, 5\)"):
        trainer.predict(x)
    with pytest.raises(
        ValueError, match=r"at least one sample in torch\.int64, got torch\.float32"
    ):
        trainer.predict(x.float())
    images = native(nn.Sequential(nn.Conv2d(1, 3, 3)), loss="cross_entropy")
    with pytest.raises(ValueError, match=r"outputs of shape \(classes,\), got \(3, 2, 2\); add"):
        images.train_epoch(torch.zeros(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"inner must keep the shape of its inputs, got \(2, 4\)"):
        Residual(nn.Linear(3, 4))(torch.zeros(2, 3))


def test_other_sample_shapes_make_other_programs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    trainer = native(model)
    for size in (5, 8, 5):
        x = torch.randn(20, 1, size, size)
        with torch.no_grad():
            torch.testing.assert_close(trainer.predict(x), model(x))
