"""Lightning's Trainer with our optimizers in the place of torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hotloop.schedulers import Step, as_lr_scheduler
from tests.clients.conftest import Pair, needs

pytestmark = needs("lightning")

STEPS = 8


def torch_steps(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def make_module(make: Any, is_manual: bool = False, make_scheduler: Any = torch_steps) -> Any:
    import lightning

    class Regression(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
            self.losses: list[float] = []
            self.automatic_optimization = not is_manual

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            loss = (self.layers(x) - y).square().mean()
            self.losses.append(float(loss.detach()))
            if is_manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = make(self.parameters())
            schedule = make_scheduler(optimizer)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return Regression()


def fit(module: Any, folder: Path, steps: int = STEPS, **options: Any) -> Any:
    import lightning

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **({"gradient_clip_val": 0.5} if module.automatic_optimization else {}),
    )
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=False)
    trainer.fit(module, loader, **options)
    return trainer


def assert_same_weights(a: Any, b: Any) -> None:
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("is_manual", [False, True])
def test_losses_and_weights_are_those_of_torch(pair: Pair, tmp_path: Path, is_manual: bool) -> None:
    modules = [make_module(make, is_manual) for make in pair]
    for module in modules:
        fit(module, tmp_path)
    assert len(modules[0].losses) == STEPS
    assert modules[0].losses == modules[1].losses
    assert_same_weights(*modules)


def test_a_run_resumed_from_a_checkpoint_is_that_of_torch(pair: Pair, tmp_path: Path) -> None:
    """Not that of one that was not interrupted: Lightning deals the batches otherwise."""
    resumed = []
    for name, make in zip(("ours", "theirs"), pair):
        path = tmp_path / f"{name}.ckpt"
        first, second = make_module(make), make_module(make)
        fit(first, tmp_path, steps=STEPS // 2).save_checkpoint(path)
        fit(second, tmp_path, ckpt_path=str(path))
        resumed.append(second)
    assert len(resumed[0].losses) == STEPS // 2
    assert resumed[0].losses == resumed[1].losses
    assert_same_weights(*resumed)


def test_a_schedule_is_one_of_torchs(pair: Pair, tmp_path: Path) -> None:
    modules = [
        make_module(pair.ours, make_scheduler=scheduler)
        for scheduler in (torch_steps, lambda optimizer: as_lr_scheduler(optimizer, Step(3, 0.5)))
    ]
    trainers = [fit(module, tmp_path) for module in modules]
    assert modules[0].losses == modules[1].losses
    assert_same_weights(*modules)
    rates = [trainer.optimizers[0].param_groups[0]["lr"] for trainer in trainers]
    assert rates[0] == rates[1]
    path = tmp_path / "half.ckpt"
    trainers[1].save_checkpoint(path)
    resumed = make_module(pair.ours, make_scheduler=lambda o: as_lr_scheduler(o, Step(3, 0.5)))
    again = fit(resumed, tmp_path, steps=STEPS + 3, ckpt_path=str(path))
    schedule = again.lr_scheduler_configs[0].scheduler
    assert schedule.last_epoch == STEPS + 3
