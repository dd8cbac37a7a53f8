"""`hotloop.native.fit`: a whole run in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hotloop import backend
from hotloop.callbacks import Callback, TrainState
from hotloop.errors import UnsupportedModelError
from hotloop.metrics import Accuracy
from hotloop.native import fit
from hotloop.optimizers import SGD
from hotloop.programs.objective import objective_of, torch_loss

if backend.current().kernels is None:
    pytest.skip("whole loops need the kernels", allow_module_level=True)


def network(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs))


def circle(samples: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(samples, 2, generator=generator)
    return x, (x.square().sum(1) > 1.4).long()


def test_classes_are_learned() -> None:
    x, y = circle()
    history = fit(
        network(2),
        x,
        y,
        loss="cross_entropy",
        learning_rate=0.02,
        epochs=30,
        schedule="cosine",
        validation=circle(100),
        metrics={"accuracy": Accuracy()},
        progress=False,
        seed=0,
    )
    assert len(history["val_loss"]) == 30
    assert history["val_accuracy"][-1] > 0.95
    assert history["train_accuracy"][-1] > 0.95


@pytest.mark.parametrize("loss", ["mse", nn.HuberLoss(delta=0.5), "bce_with_logits", "poisson"])
def test_numbers_are_learned(loss: Any) -> None:
    x, y = circle()
    before = network(1)
    measure = torch_loss(objective_of(loss))
    with torch.no_grad():
        initial = float(measure(before(x)[:, 0], y.float()))
    history = fit(
        before,
        x.numpy(),
        y.float().numpy(),
        loss=loss,
        optimizer=SGD(before.parameters(), lr=0.2, momentum=0.9),
        epochs=30,
        batch_size=50,
        clip_norm=1.0,
        validation=(x, y.float()),
        progress=False,
    )
    values = history["train_loss"]
    assert values[-1] < 0.7 * values[0]
    assert history["val_loss"][-1] == pytest.approx(values[-1], rel=0.3)
    assert history["val_loss"][-1] < 0.8 * initial
    with torch.no_grad():
        final = float(measure(before(x)[:, 0], y.float()))
    assert history["val_loss"][-1] == pytest.approx(final, rel=1e-5)


def test_the_seed_decides_the_run() -> None:
    x, y = circle()

    def weights(seed: int | None) -> torch.Tensor:
        model = network(2)
        fit(model, x, y, loss="cross_entropy", epochs=2, progress=False, seed=seed)
        return model[0].weight.detach().clone()

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))


def test_it_stops_and_goes_on(tmp_path: Path) -> None:
    x, y = circle()
    options: dict[str, Any] = {"loss": "cross_entropy", "progress": False, "seed": 3}
    whole = network(2)
    fit(whole, x, y, epochs=6, **options)

    class Ending(Callback):
        def on_epoch_begin(self, state: TrainState) -> None:
            if state.epoch == 3:
                raise KeyboardInterrupt

    model = network(2)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, epochs=6, checkpoints=tmp_path, callbacks=[Ending()], **options)
    rest = network(2)
    history = fit(rest, x, y, epochs=6, checkpoints=tmp_path, resume="auto", **options)
    assert len(history["train_loss"]) == 6
    for ours, expected in zip(rest.parameters(), whole.parameters()):
        assert ours.equal(expected)
    history = fit(network(2), x, y, epochs=50, early_stopping=1, learning_rate=0.0, **options)
    assert len(history["train_loss"]) < 50


def test_what_is_refused() -> None:
    x, y = circle(20)
    options: dict[str, Any] = {"loss": "cross_entropy", "progress": False}
    with pytest.raises(UnsupportedModelError, match=r"1: Softplus has no kernel"):
        fit(nn.Sequential(nn.Linear(2, 2), nn.Softplus()), x, y, **options)
    with pytest.raises(ValueError, match="x and y must be as long, got 20 and 10"):
        fit(network(2), x, y[:10], **options)
    with pytest.raises(ValueError, match=r"y\[0\] is 2, must be a class in \[0, 2\)"):
        fit(network(2), x, torch.full((20,), 2), **options)
    with pytest.raises(ValueError, match="x must be a CPU tensor or a NumPy array, got list"):
        fit(network(2), x.tolist(), y, **options)
    with pytest.raises(ValueError, match=r"x must hold at least one sample in torch.float32"):
        fit(network(2), np.zeros((20, 2)), y, **options)
    with pytest.raises(ValueError, match="unknown loss 'hinge'"):
        fit(network(2), x, y, loss="hinge", progress=False)
