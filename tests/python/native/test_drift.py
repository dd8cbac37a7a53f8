"""How far the losses of a hundred updates are from torch's, on the networks of the benchmark."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop import backend
from hotloop.native import NativeTrainer
from hotloop.optimizers import AdamW

if backend.current().kernels is None:
    pytest.skip("whole loops need the kernels", allow_module_level=True)

STEPS = 100

#: Sizes, batch, activation, and whether there are classes.
TASKS: dict[str, tuple[tuple[int, ...], int, type[nn.Module], bool]] = {
    "digits": ((64, 128, 64, 10), 32, nn.ReLU, True),
    "tabular": ((8, 64, 64, 1), 64, nn.Tanh, False),
    "policy": ((8, 64, 64, 4), 64, nn.Tanh, True),
    "image": ((2, 64, 64, 64, 3), 256, nn.ReLU, False),
    "large": ((784, 512, 512, 10), 128, nn.ReLU, True),
}


def data(name: str) -> tuple[Tensor, Tensor]:
    sizes, batch, _, has_labels = TASKS[name]
    torch.manual_seed(2)
    x = torch.randn(STEPS * batch, sizes[0])
    teacher = torch.randn(sizes[0], sizes[-1]) / sizes[0] ** 0.5
    y = x @ teacher
    return (x, y.argmax(1)) if has_labels else (x, y.tanh())


def model(name: str, dtype: torch.dtype) -> nn.Sequential:
    sizes, _, activation, _ = TASKS[name]
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def cast(y: Tensor, dtype: torch.dtype) -> Tensor:
    return y.to(dtype) if y.is_floating_point() else y


def losses_of_torch(name: str, dtype: torch.dtype) -> Tensor:
    net = model(name, dtype)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    loss: Any = nn.CrossEntropyLoss() if TASKS[name][3] else nn.MSELoss()
    x, y = data(name)
    values = []
    for inputs, target in zip(x.to(dtype).split(TASKS[name][1]), y.split(TASKS[name][1])):
        optimizer.zero_grad()
        value = loss(net(inputs), cast(target, dtype))
        value.backward()
        optimizer.step()
        values.append(value.detach().double())
    return torch.stack(values)


def losses_of_kernels(name: str, dtype: torch.dtype) -> Tensor:
    net = model(name, dtype)
    trainer = NativeTrainer(
        net,
        loss="cross_entropy" if TASKS[name][3] else "mse",
        optimizer=AdamW(net.parameters(), lr=1e-3),
        batch_size=TASKS[name][1],
    )
    x, y = data(name)
    trainer.train_epoch(x.to(dtype), cast(y, dtype), order=torch.arange(len(x)))
    assert len(trainer.losses) == STEPS
    return torch.from_numpy(trainer.losses)


@pytest.mark.parametrize("name", ["digits", "tabular", "policy", "image"])
def test_losses_of_small_networks(name: str) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        ours, theirs = losses_of_kernels(name, dtype), losses_of_torch(name, dtype)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
        assert ours[-1] < ours[0]


def test_a_large_network_drifts_no_further_than_torchs() -> None:
    exact = losses_of_torch("large", torch.float64)
    ours = (losses_of_kernels("large", torch.float32) - exact).abs() / exact
    theirs = (losses_of_torch("large", torch.float32) - exact).abs() / exact
    assert ours.max() <= 1.5 * theirs.max()
    assert ours.mean() <= 1.5 * theirs.mean()
    own = losses_of_kernels("large", torch.float64)
    torch.testing.assert_close(own, exact, rtol=1e-9, atol=0)
