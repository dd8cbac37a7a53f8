"""What the schedule-free optimizers have in common (Defazio et al., 2024, arXiv:2405.15682)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hotloop.layout import Outcome
from hotloop.memory import full_like
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.elementwise import ElementwiseStep
from hotloop.optimizers.plan import Around
from hotloop.optimizers.reference import Reference, check_at_least

__all__ = ["ScheduleFreeReference", "ScheduleFreeStep", "start_z"]


class ScheduleFreeReference(Reference):
    """A rule that averages instead of lowering its learning rate.

    z goes where the plain rule would, x is the average of all z, and gradients are taken at
    y between them. The parameters hold y while training and x after `eval`.

    Each group counts its steps in "k" and keeps "weight_sum" and "lr_max", and what they
    make of the present step in "step_lr", "step_weight".
    """

    def _start(self, params: Any, options: dict[str, Any]) -> None:
        check_at_least(0, **{k: options[k] for k in ("lr", "weight_decay", "warmup_steps")})
        state = {"k": 0, "weight_sum": 0.0, "lr_max": 0.0, "step_lr": 0.0, "step_weight": 0.0}
        super().__init__(params, {**options, **state, "train_mode": True})

    def _interpolation(self, group: dict[str, Any]) -> float:
        """Return how much of x is in y."""
        raise NotImplementedError

    @torch.no_grad()
    def _move(self, *, is_training: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == is_training:
                continue
            beta = self._interpolation(group)
            for param in group["params"]:
                z = self.state[param].get("z") if param in self.state else None
                if z is not None:
                    param.lerp_(z.to(param.dtype), 1 - beta if is_training else 1 - 1 / beta)
            group["train_mode"] = is_training

    def train(self) -> None:
        """Put y into the parameters, for training."""
        self._move(is_training=True)

    def eval(self) -> None:
        """Put x into the parameters, for validation and for saving the model."""
        self._move(is_training=False)

    def _advance(self) -> None:
        """Derive this step's rate and weight of every group."""
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError(
                    f"{type(self).__name__}.step() needs train mode; call optimizer.train() "
                    "before training and optimizer.eval() before validation"
                )
            k, warmup = group["k"], group["warmup_steps"]
            lr = float(group["lr"]) * (min(1.0, (k + 1) / warmup) if warmup else 1.0)
            weight = (k + 1) ** group["r"] * max(lr, group["lr_max"]) ** group["weight_lr_power"]
            total = group["weight_sum"] + weight
            group["step_lr"] = lr
            group["step_weight"] = weight / total if total else 0.0

    def _commit(self) -> None:
        """Count the step that was taken."""
        for group in self.param_groups:
            group["lr_max"] = max(group["step_lr"], group["lr_max"])
            weight = (group["k"] + 1) ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
            group["weight_sum"] += weight
            group["k"] += 1

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter by its gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._advance()
        super().step()
        self._commit()
        return loss


class ScheduleFreeStep(ElementwiseStep):
    """A `ScheduleFreeReference` whose step is a kernel."""

    step_name = None
    torch_options = ()

    def _run_plan(
        self, around: Around, average: WeightAverage | None = None, *, is_skipped: bool = False
    ) -> int | None:
        is_step = around.is_updated and not is_skipped
        if is_step:
            self._advance()  # type: ignore[attr-defined]
        outcome = super()._run_plan(around, average, is_skipped=is_skipped)
        if is_step and outcome == Outcome.DONE:
            self._commit()  # type: ignore[attr-defined]
        return outcome


def start_z(param: Tensor) -> Tensor:
    """Return z before the first step, which is the parameter."""
    return full_like(param.detach(), 0.0).copy_(param.detach())
